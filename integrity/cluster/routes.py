"""Which node serves a slot, as far as is known, and asking again where that was wrong."""

from __future__ import annotations

from time import monotonic, sleep
from typing import Final

from integrity.cluster.commands import READS, Command
from integrity.cluster.nodes import Nodes, Place
from integrity.cluster.topology import NOT_CONFIGURED, Cluster, read_routes
from integrity.errors import ServerUnreachable
from integrity.replies import ErrorReply, Reply
from integrity.wire import pack

REDIRECTS: Final = ("MOVED ", "ASK ", "TRYAGAIN", "CLUSTERDOWN", NOT_CONFIGURED)
"""How a reply begins that is about where a key is, not about the key."""
_PATIENCE_SECONDS: Final = 10.0
"""How long a key is asked for whose slot nobody serves for the moment."""
_FIRST_PAUSE: Final = 0.02
_LONGEST_PAUSE: Final = 0.5
ASKING: Final = pack(b"ASKING")
"""Said right before a command (or MULTI) to the node that takes a slot."""


def redirects(reply: ErrorReply) -> bool:
    """Whether the key has to be asked for again, perhaps elsewhere."""
    return str(reply).startswith(REDIRECTS)


def redirect_place(text: str, answered: Place) -> Place | None:
    """Where ``MOVED slot host:port`` or ``ASK slot host:port`` points to."""
    parts = text.split(" ")
    if len(parts) < 3:
        return None
    host, _, port = parts[2].rpartition(":")
    if not port.isdecimal() or host == "?":
        return None
    return Place(host.strip("[]") or answered.host, int(port))


class Routes:
    """The slot map of one connection, and single questions that follow every redirection.

    :param nodes: connections with nothing in flight.
    """

    def __init__(self, nodes: Nodes) -> None:
        self._nodes = nodes
        self.owners: dict[int, Place] = {}
        self.answered: Place | None = None
        """The node that gave the last answer of :meth:`ask`."""
        self._refreshed = 0
        self.refresh()

    def refresh(self) -> None:
        """Learn the map anew.

        :raises ServerUnreachable: no node answers.
        """
        known = list(self.masters)
        # Another one is asked first each time: one that is cut off would tell the same old map for ever.
        turn = self._refreshed % len(known) if known else 0
        self._refreshed += 1
        self.owners = read_routes(self._nodes, known[turn:] + known[:turn]) or self.owners

    def follow(self, cluster: Cluster) -> None:
        """Take over what the masters said of themselves."""
        self.owners = {slot: master.place for slot, master in enumerate(cluster.owners)}

    @property
    def masters(self) -> tuple[Place, ...]:
        """Every node that serves a slot, as far as is known."""
        return tuple(dict.fromkeys(self.owners.values()))

    def owner(self, slot: int) -> Place:
        """The node to be asked first about keys of this slot."""
        place = self.owners.get(slot)
        if place is None:
            self.refresh()
            place = self.owners.get(slot)
        # Any node tells who it is, or that nobody is.
        return place or self.masters[0]

    def ask(self, command: Command, slot: int) -> Reply:
        """What the node that serves this slot now answers; its error if none does for ten seconds.

        :raises ServerUnreachable: the node cannot be reached, or a connection broke before a write was answered.
        """
        until = monotonic() + _PATIENCE_SECONDS
        pause = _FIRST_PAUSE
        data = pack(*command)
        while True:
            place = self.owner(slot)
            lost: ServerUnreachable | None = None
            reply: Reply = None
            try:
                reply = self._nodes(place).exchange([data])[0]
                if isinstance(reply, ErrorReply) and str(reply).startswith("ASK "):
                    other = redirect_place(str(reply), place)
                    if other is not None:
                        place = other
                        reply = self._nodes(place).exchange([ASKING, data])[1]
            except ServerUnreachable as error:
                self._nodes.drop(place)
                lost = error
            if lost is None and not (isinstance(reply, ErrorReply) and redirects(reply)):
                self.answered = place
                return reply
            if lost is not None and command[0] not in READS:
                raise lost
            if monotonic() > until:
                if lost is not None:
                    raise lost
                return reply
            moved = self.learn(slot, reply, place) if lost is None else False
            if not moved:
                sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
                self.refresh()

    def learn(self, slot: int, reply: Reply, answered: Place) -> bool:
        """Take in what a MOVED tells; whether it told anything new."""
        if not isinstance(reply, ErrorReply) or not str(reply).startswith("MOVED "):
            return False
        place = redirect_place(str(reply), answered)
        if place is None or self.owners.get(slot) == place:
            return False
        self.owners[slot] = place
        return True
