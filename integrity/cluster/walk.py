"""Walking a cluster's keys slot by slot, complete whatever moves meanwhile.

SCAN cannot promise that: a key that moves from a node whose scan has yet to come to it, to one whose scan has passed,
is seen by neither.  So slots are listed instead (``CLUSTER GETKEYSINSLOT``, one command, one moment), each with a
question before and after it about a key that nobody has: *this node owns the slot and is not giving it away* is what
the answer 0 means, MOVED and ASK mean that it is not so.  A slot that is being given away is listed on the node that
gives it and then on the one that takes it, in the order in which keys travel.  Whatever else the answers are, the slot
is listed again.  So no cursor is ever void: a failover or a move of slots costs a second look at the slots in hand.

A slot of very many keys is not listed, which would hold the node up, but scanned for, between two such questions.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from functools import cache
from time import monotonic, sleep
from typing import Final, Literal

from integrity.cluster.nodes import Nodes, Place
from integrity.cluster.routes import Routes, redirect_place, redirects
from integrity.cluster.slots import SLOTS, key_slot, probe_key
from integrity.errors import ProtocolError, ServerNotReady, ServerUnreachable
from integrity.replies import ErrorReply, Reply
from integrity.wire import Connection, pack

BLOCK: Final = 256
"""Slots that are asked about in one go; no page reaches over from one block into the next."""
LISTED_KEYS: Final = 100_000
"""A slot of more keys is scanned for."""
_SLACK: Final = 1000
"""Keys that may come between counting and listing."""
_PATIENCE_SECONDS: Final = 15.0
"""How long a slot is looked at that is not still; an election takes less."""
_FIRST_PAUSE: Final = 0.02
_LONGEST_PAUSE: Final = 0.5
_SCAN_COUNT: Final = b"1000"


@dataclass(frozen=True, slots=True)
class _Standing:
    """How a node stands to a slot, as it told at one moment."""

    how: Literal["owns", "gives", "other", "down"]
    elsewhere: Place | None = None
    """The node that takes the slot, or owns it."""


def _standing(connection: Connection, reply: Reply, place: Place) -> _Standing:
    """
    :raises ServerError: the question was refused.
    """
    if isinstance(reply, int):
        return _Standing("owns")
    if not isinstance(reply, ErrorReply) or not redirects(reply):
        error = reply if isinstance(reply, ErrorReply) else ErrorReply("EXISTS answered no number")
        raise connection.error_for(error, "EXISTS")
    text = str(reply)
    if text.startswith("ASK "):
        return _Standing("gives", redirect_place(text, place))
    if text.startswith("MOVED "):
        return _Standing("other", redirect_place(text, place))
    return _Standing("down")


class SlotWalk:
    """Lists the keys of slots.

    :param nodes: connections with nothing in flight.
    """

    def __init__(self, nodes: Nodes, routes: Routes) -> None:
        self._nodes = nodes
        self._routes = routes
        self._slot = -1
        self._offset = 0
        """How many keys of the slot were handed out."""
        self._names: Iterator[list[bytes]] = iter(())
        self._left: list[bytes] = []
        self._listed: dict[int, list[bytes]] = {}
        """Slots that were listed with an earlier one."""

    def page(self, cursor: int, count: int) -> tuple[int, list[bytes]]:
        """About *count* keys from *cursor* on, and the cursor behind them; 0 begins, and is returned at the end.

        A cursor is a slot and how many of its keys were handed out; from another walk, the slot begins again.

        :raises ServerError: a node is lost, or a slot has no steady owner for too long.
        """
        slot, offset = cursor % SLOTS, cursor // SLOTS
        if (slot, offset) != (self._slot, self._offset):
            self._listed.clear()
            self._begin(slot, count)
        keys: list[bytes] = []
        while True:
            taken = self._take(count - len(keys))
            keys += taken
            if len(keys) >= count and self._has_more():
                return self._offset * SLOTS + self._slot, keys
            following = self._slot + 1
            if following == SLOTS:
                self._slot = -1
                return 0, keys
            if len(keys) >= count or following % BLOCK == 0:
                self._begin(following, count)
                return following, keys
            self._begin(following, count - len(keys))

    def _begin(self, slot: int, wanted: int) -> None:
        self._slot, self._offset, self._left = slot, 0, []
        self._names = self._names_of(slot, wanted)

    def _has_more(self) -> bool:
        while not self._left:
            names = next(self._names, None)
            if names is None:
                return False
            self._left = names
        return True

    def _take(self, count: int) -> list[bytes]:
        taken: list[bytes] = []
        while len(taken) < count and self._has_more():
            part = self._left[: count - len(taken)]
            self._left = self._left[len(part) :]
            taken += part
        self._offset += len(taken)
        return taken

    # -- many slots at once -------------------------------------------------------------------------------------

    def _names_of(self, slot: int, wanted: int) -> Iterator[list[bytes]]:
        if slot not in self._listed:
            try:
                self._look_ahead(slot, wanted)
            except ServerUnreachable:
                self._nodes.drop(self._routes.owner(slot))
        names = self._listed.pop(slot, None)
        if names is not None:
            yield names
        else:
            yield from self._names_of_unsteady(slot)

    def _look_ahead(self, slot: int, wanted: int) -> None:
        """List this slot and those behind it on the same node, as far as they are still and not too many."""
        place = self._routes.owner(slot)
        end = slot + 1
        while end % BLOCK and self._routes.owner(end) == place:
            end += 1
        connection = self._nodes(place)
        slots = range(slot, end)
        replies = connection.exchange([part for s in slots for part in (_probe(s), _count(s))])
        asked: list[tuple[int, int]] = []
        total = 0
        for s, reply, keys in zip(slots, replies[::2], replies[1::2], strict=True):
            steady = _standing(connection, reply, place).how == "owns"
            if (
                not steady
                or not isinstance(keys, int)
                or keys > LISTED_KEYS
                or (asked and total + keys > wanted)
            ):
                break
            asked.append((s, keys))
            total += keys
        commands = [
            part for s, keys in asked for part in (_list(s, keys + _SLACK) if keys else b"", _probe(s))
        ]
        answers = iter(connection.exchange([command for command in commands if command]))
        for s, keys in asked:
            listed = next(answers) if keys else []
            steady = _standing(connection, next(answers), place).how == "owns"
            if not steady or not isinstance(listed, list) or len(listed) >= keys + _SLACK:
                break
            self._listed[s] = [name for name in listed if isinstance(name, bytes)]

    # -- one slot that moves, or is large -----------------------------------------------------------------------

    def _names_of_unsteady(self, slot: int) -> Iterator[list[bytes]]:
        """Every key of a slot, looked at until it was seen whole."""
        until = monotonic() + _PATIENCE_SECONDS
        pause = _FIRST_PAUSE
        seen: set[bytes] = set()
        while True:
            try:
                if (yield from self._attempt(slot, seen)):
                    return
            except ServerUnreachable:
                self._nodes.drop(self._routes.owner(slot))
                if monotonic() > until:
                    raise
            if monotonic() > until:
                raise ServerNotReady(
                    self._nodes.target.role,
                    str(self._nodes.target.address),
                    f"slot {slot} has had no steady owner for {_PATIENCE_SECONDS:g} s.",
                    "Wait until its failover has ended, or look at it with redis-cli --cluster check.",
                )
            sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
            self._routes.refresh()

    def _attempt(self, slot: int, seen: set[bytes]) -> Generator[list[bytes], None, bool]:
        """List a slot wherever its keys are; whether it was seen whole.

        :param seen: names that were handed out, unless the slot is large.
        """
        place = self._routes.owner(slot)
        connection = self._nodes(place)
        reply = connection.exchange([_probe(slot)])[0]
        before = _standing(connection, reply, place)
        self._routes.learn(slot, reply, place)
        if before.how == "other" or before.how == "down":
            return False
        yield from self._names_on(place, slot, seen)
        if before.how == "gives":
            if before.elsewhere is None:
                return False
            yield from self._names_on(before.elsewhere, slot, seen)
        after = _standing(connection, connection.exchange([_probe(slot)])[0], place)
        if before.how == "owns":
            return after.how == "owns"
        # Its keys travel one way as long as that goes on, and when it has ended.
        return after.how in {"gives", "other"} and after.elsewhere == before.elsewhere

    def _names_on(self, place: Place, slot: int, seen: set[bytes]) -> Iterator[list[bytes]]:
        connection = self._nodes(place)
        while True:
            keys = connection.command(b"CLUSTER", b"COUNTKEYSINSLOT", b"%d" % slot)
            if not isinstance(keys, int) or keys > LISTED_KEYS:
                yield from self._scan(connection, slot)
                return
            connection.send(_list(slot, keys + _SLACK))
            listed = connection.receive()
            if isinstance(listed, ErrorReply):
                raise connection.error_for(listed, "CLUSTER GETKEYSINSLOT")
            if isinstance(listed, list) and len(listed) < keys + _SLACK:
                names = [name for name in listed if isinstance(name, bytes) and name not in seen]
                seen.update(names)
                yield names
                return

    @staticmethod
    def _scan(connection: Connection, slot: int) -> Iterator[list[bytes]]:
        """Every key of one slot of a node, found among all of its keys."""
        cursor: Reply = b"0"
        while isinstance(cursor, bytes):
            reply = connection.command(b"SCAN", cursor, b"COUNT", _SCAN_COUNT)
            if not isinstance(reply, list) or len(reply) != 2 or not isinstance(reply[1], list):
                raise ProtocolError(connection.role, connection.where, "SCAN answered in an unknown shape.")
            cursor = reply[0]
            names = [name for name in reply[1] if isinstance(name, bytes) and key_slot(name) == slot]
            if names:
                yield names
            if cursor == b"0":
                return


@cache
def _probe(slot: int) -> bytes:
    return pack(b"EXISTS", probe_key(slot))


@cache
def _count(slot: int) -> bytes:
    return pack(b"CLUSTER", b"COUNTKEYSINSLOT", b"%d" % slot)


def _list(slot: int, most: int) -> bytes:
    return pack(b"CLUSTER", b"GETKEYSINSLOT", b"%d" % slot, b"%d" % most)
