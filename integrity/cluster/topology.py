"""Who serves which slots, as the masters say of themselves.

A node's picture of the others can be old.  What it says of *itself* can be old too (a master that was cut off and
replaced), but then the one that replaced it says so with a greater epoch.  So every master is asked for its own line,
and of two that claim one slot the greater epoch is right.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from time import monotonic, sleep
from typing import Final

from integrity.cluster.nodes import Nodes, Place, seeds
from integrity.cluster.slots import SLOTS, slots_text
from integrity.errors import Refused, ServerError, ServerNotReady, ServerUnreachable
from integrity.info import number, parse_info
from integrity.replies import ErrorReply, Reply
from integrity.wire import Connection, pack

_PATIENCE_SECONDS: Final = 3.0
"""How long a picture that is not whole is looked at again; an election takes about as long."""
_PAUSE_SECONDS: Final = 0.1
NOT_CONFIGURED: Final = "ERR Cluster is not yet configured"
"""How a Dragonfly begins its answer that does not know of its slots yet."""
_VIEW: Final = pack(b"CLUSTER", b"SLOTS")
_OWN: Final = pack(b"CLUSTER", b"NODES")
_INFO: Final = pack(b"INFO")


@dataclass(frozen=True, slots=True)
class Master:
    """One node that serves slots, as it describes itself."""

    node_id: str
    place: Place
    run_id: str
    """Changes with every start of the node."""
    epoch: int
    slots: frozenset[int]
    moving: int
    """How many of its slots are on their way to or from another node."""
    info: dict[str, str] = field(repr=False)
    """Everything that INFO tells."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """All masters; every slot belongs to one of them."""

    masters: tuple[Master, ...]
    """By node id."""
    owners: tuple[Master, ...] = field(repr=False)
    """By slot."""

    @property
    def lives(self) -> frozenset[tuple[str, str]]:
        """Each master's node id and run id: changes when one fails over, restarts, comes or goes."""
        return frozenset((master.node_id, master.run_id) for master in self.masters)

    @property
    def is_dragonfly(self) -> bool:
        """Whether its nodes are Dragonflies."""
        return any("dragonfly_version" in master.info for master in self.masters)

    @property
    def run_id(self) -> str:
        """One word for :attr:`lives`; slots that move between the same masters leave it as it is.

        Unless they are Dragonflies, whose nodes are scanned as wholes: what was read of them is void then.
        """
        text = ",".join(sorted(f"{node_id}:{run_id}" for node_id, run_id in self.lives))
        if self.is_dragonfly:
            text += "".join(f";{master.node_id}={slots_text(master.slots)}" for master in self.masters)
        return hashlib.blake2b(text.encode(), digest_size=20).hexdigest()


def fullest(cluster: Cluster) -> str:
    """Which master is closest to its limit, in words; a cluster is full as soon as one of them is."""
    limits = [
        (m, number(m.info.get("used_memory")), number(m.info.get("maxmemory"))) for m in cluster.masters
    ]
    master, used, limit = max(limits, key=lambda each: each[1] / each[2] if each[2] else 0.0)
    return f"master {master.place} uses {used:,} of {limit:,} bytes"


@dataclass(frozen=True, slots=True)
class _View:
    """Where one node believes the masters and replicas to be."""

    masters: tuple[Place, ...]
    owners: dict[int, Place]


def read_cluster(nodes: Nodes, known: Sequence[Place] = ()) -> Cluster:
    """Ask every master about itself.

    :param known: where nodes were found before, beside those that the URL names.
    :raises ServerNotReady: some slots are served by nobody, and that does not change for three seconds.
    :raises ServerUnreachable: no node answers.
    :raises Refused: a node answers that is in no cluster.
    """
    until = monotonic() + _PATIENCE_SECONDS
    while True:
        masters: dict[str, Master] = {}
        failed: ServerError | None = None
        missing = list(range(SLOTS))
        for view in _views(nodes, known):
            for place in view.masters:
                if any(master.place == place for master in masters.values()):
                    continue
                try:
                    master = _own_words(nodes(place), place)
                except (ServerUnreachable, ServerNotReady) as error:
                    nodes.drop(place)
                    failed = error
                    continue
                if master is not None:
                    masters[master.node_id] = master
            owners = _owners(list(masters.values()))
            missing = [slot for slot in range(SLOTS) if slot not in owners]
            if not missing:
                serving = {master.node_id: master for master in owners.values()}
                return Cluster(
                    tuple(serving[node_id] for node_id in sorted(serving)),
                    tuple(owners[slot] for slot in range(SLOTS)),
                )
        if monotonic() > until:
            why = f" ({failed.problem})" if failed is not None else ""
            raise ServerNotReady(
                nodes.target.role,
                str(nodes.target.address),
                f"slots {slots_text(missing)} are served by no node that answers, or claimed by two{why}.",
                "Wait until its failover has ended, or repair the cluster (redis-cli --cluster check).",
            )
        sleep(_PAUSE_SECONDS)


def read_routes(nodes: Nodes, known: Sequence[Place] = ()) -> dict[int, Place]:
    """Where one node that answers believes each slot to be; a hint, which the nodes themselves correct.

    :raises ServerUnreachable: no node answers.
    :raises Refused: a node answers that is in no cluster.
    """
    return next(iter(_views(nodes, known))).owners


def _views(nodes: Nodes, known: Sequence[Place]) -> Iterator[_View]:
    """What each known node believes, and the nodes that it knows of in turn."""
    waiting = list(dict.fromkeys([*known, *seeds(nodes.target)]))
    asked: set[Place] = set()
    answered = False
    failed: ServerError | None = None
    while waiting:
        place = waiting.pop(0)
        if place in asked:
            continue
        asked.add(place)
        try:
            connection = nodes(place)
            view = _view(connection, connection.exchange([_VIEW])[0], place)
        except (ServerUnreachable, ServerNotReady) as error:
            nodes.drop(place)
            failed = error
            continue
        waiting += view.masters
        answered = True
        yield view
    if not answered:
        raise failed or ServerUnreachable(nodes.target.role, str(nodes.target.address), "no node answers.")


def _view(connection: Connection, reply: Reply, asked: Place) -> _View:
    """
    :raises Refused: the node is in no cluster.
    :raises ServerError: it may not be asked, or is not ready.
    """
    if isinstance(reply, ErrorReply):
        if str(reply).startswith(NOT_CONFIGURED):
            raise ServerNotReady(
                connection.role,
                connection.where,
                "is a node that was not told which slots are whose (Dragonfly forgets that when it restarts).",
                "Send every node its DFLYCLUSTER CONFIG.",
            )
        if "cluster support disabled" in str(reply):
            raise Refused(
                f"{connection.role.capitalize()} {connection.where} is no node of a cluster.",
                "Use redis:// for a single server.",
            )
        raise connection.error_for(reply, "CLUSTER SLOTS")
    owners: dict[int, Place] = {}
    for entry in reply if isinstance(reply, list) else []:
        if not isinstance(entry, list) or len(entry) < 3 or not isinstance(entry[2], list):
            continue
        first, last, node = entry[0], entry[1], entry[2]
        place = _place(node, asked)
        if isinstance(first, int) and isinstance(last, int) and place is not None:
            owners.update(dict.fromkeys(range(first, last + 1), place))
    return _View(tuple(dict.fromkeys(owners.values())), owners)


def _place(node: list[Reply], asked: Place) -> Place | None:
    """What CLUSTER SLOTS says of one node; a host that it does not tell is the one that was asked."""
    host, port = node[0], node[1]
    if not isinstance(port, int) or not port:
        return None
    name = host.decode("utf-8", "replace") if isinstance(host, bytes) else ""
    return None if name == "?" else Place(name or asked.host, port)


def _own_words(connection: Connection, place: Place) -> Master | None:
    """What a node says of itself; None where it is a master no more.

    :raises ServerError: it is lost, loading, or may not be asked.
    """
    listed, told = connection.exchange([_OWN, _INFO])
    for reply, command in ((listed, "CLUSTER NODES"), (told, "INFO")):
        if isinstance(reply, ErrorReply):
            raise connection.error_for(reply, command)
    info = parse_info(told if isinstance(told, bytes) else b"")
    if info.get("loading", "0") != "0":
        raise ServerNotReady(connection.role, connection.where, "is still loading its dataset.")
    lines = listed.decode("utf-8", "replace").splitlines() if isinstance(listed, bytes) else []
    for line in lines:
        parts = line.split(" ")
        flags = parts[2].split(",") if len(parts) > 7 else []
        if "myself" not in flags:
            continue
        if "master" not in flags:
            return None
        served: set[int] = set()
        moving = 0
        for part in parts[8:]:
            if part.startswith("["):
                moving += 1
            elif part:
                first, _, last = part.partition("-")
                served.update(range(int(first), int(last or first) + 1))
        run_id = info.get("run_id") or info.get("master_replid", "")
        return Master(parts[0], place, run_id, int(parts[6]), frozenset(served), moving, info)
    return None


def _owners(masters: Sequence[Master]) -> dict[int, Master]:
    """The master of each slot that somebody claims; none where two do, neither with the greater epoch.

    Dragonflies have no epochs: they are told one after the other who serves what.
    """
    owners: dict[int, Master] = {}
    for master in sorted(masters, key=lambda master: master.epoch):
        disputed = [slot for slot in master.slots if slot in owners and owners[slot].epoch == master.epoch]
        owners.update(dict.fromkeys(master.slots, master))
        for slot in disputed:
            del owners[slot]
    return owners
