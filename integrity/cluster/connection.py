"""One connection to a whole cluster, with the interface of a connection to one server.

Commands are sent to the node that serves their key, as far as is known, and replies come back in the order of the
commands.  A reply that says that the key is elsewhere (MOVED, ASK), or cannot be told for the moment (TRYAGAIN,
CLUSTERDOWN), is not handed out: its command is asked again by itself until the node that serves the slot now has
answered.  So a key counts as gone only where its slot's present owner says so.  That repeats commands: only reading,
and what may be done twice, belongs here.

SCAN walks the slots (:mod:`integrity.cluster.walk`), INFO and DBSIZE add the masters up, PING waits for the slowest.
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import hiredis

from integrity.cluster.commands import ANYWHERE, EVERYWHERE, KEY_AT, SEVERAL_KEYS, Command, Join, cut, packed
from integrity.cluster.nodes import Nodes, Place
from integrity.cluster.routes import REDIRECTS, Routes, redirects
from integrity.cluster.slots import key_slot
from integrity.cluster.topology import Cluster, read_cluster
from integrity.cluster.transaction import SlotTransactions
from integrity.cluster.walk import SlotWalk
from integrity.errors import ProtocolError, Role, ServerError, ServerNotReady
from integrity.info import merge_info
from integrity.replies import ErrorReply, Reply
from integrity.wire import Connection, Target

_Plain: TypeAlias = "tuple[Place, Command, int | None]"
"""A command that one node answers, and the slot of its key."""
_ABOUT_ALL: Final = frozenset({b"SCAN", b"INFO"})
_TRANSACTION: Final = frozenset({b"MULTI", b"EXEC"})
_SPECIAL: Final = frozenset({*_ABOUT_ALL, *_TRANSACTION, *SEVERAL_KEYS, *ANYWHERE, *EVERYWHERE})
_STATISTICS: Final = frozenset({b"commandstats", b"errorstats", b"latencystats"})


@dataclass(frozen=True, slots=True)
class _Joined:
    """A command that several answers make up."""

    parts: list[_Plain]
    join: Join


@dataclass(frozen=True, slots=True)
class _Computed:
    """A command that is answered when its turn comes."""

    command: Command


@dataclass(frozen=True, slots=True)
class _Said:
    """A command that nobody has to be asked about."""

    reply: bytes


class ClusterConnection(Connection):
    """Connections to all masters, as one.  Not thread-safe.

    :raises ServerError: no node answers, or one refuses.
    """

    def __init__(self, target: Target, *, name: str = "greenfly", database: int = 0) -> None:
        self.target = target
        self.role: Role = target.role
        self.database = database
        self._nodes = Nodes(target, name, database)
        self._aside = Nodes(target, name, database)
        """For what is asked out of turn, while answers are on their way on the others."""
        self._waiting: deque[_Plain | _Joined | _Computed | _Said | SlotTransactions] = deque()
        self._queued: list[Command] | None = None
        """The commands since MULTI."""
        try:
            self._routes = Routes(self._aside)
        except BaseException:
            self.close()
            raise
        self._walk = SlotWalk(self._aside, self._routes)

    def close(self) -> None:
        """Close every connection."""
        self._nodes.close()
        self._aside.close()

    def detach(self) -> socket.socket:
        """A cluster has no one socket.

        :raises ProtocolError: always.
        """
        raise ProtocolError(self.role, self.where, "is a cluster, where this needs one server.")

    def select(self, database: int) -> None:
        """Make *database* the current one of every node."""
        if database != self.database:
            self._nodes.select(database)
            self._aside.select(database)
            self.database = database

    # -- sending ------------------------------------------------------------------------------------------------

    def send(self, data: bytes) -> None:
        """Write each of the packed commands to the node that it is for."""
        owners, waiting = self._routes.owners, self._waiting
        by_place: dict[Place, list[Command]] = {}
        as_it_is = True
        for command in _commands(data):
            name = command[0]
            if name in _SPECIAL or self._queued is not None:
                as_it_is = False
                parts = self._plan(command)
            else:
                slot = key_slot(command[KEY_AT.get(name, 1)])
                place = owners.get(slot) or self._routes.owner(slot)
                plain = (place, command, slot)
                waiting.append(plain)
                parts = (plain,)
            for place, part, _ in parts:
                if place in by_place:
                    by_place[place].append(part)
                else:
                    by_place[place] = [part]
        if as_it_is and len(by_place) == 1:
            self._nodes(next(iter(by_place))).send(data)
            return
        for place, commands in by_place.items():
            self._nodes(place).send(packed(commands))

    def _plan(self, command: Command) -> Sequence[_Plain]:
        """Note a command that is more than one question to the owner of its key; returns what is to be sent."""
        name = command[0]
        if name in _TRANSACTION or self._queued is not None:
            return self._queue(command)
        if name in _ABOUT_ALL:
            self._waiting.append(_Computed(command))
            return ()
        pieces = cut(command)
        if pieces is not None:
            parts: list[_Plain] = []
            for part in pieces.parts:
                slot = key_slot(part[1])
                parts.append((self._routes.owner(slot), part, slot))
            self._waiting.append(_Joined(parts, pieces.join))
            return parts
        if name in EVERYWHERE:
            parts = [(place, command, None) for place in self._routes.masters]
            self._waiting.append(_Joined(parts, EVERYWHERE[name]))
            return parts
        if name in ANYWHERE:
            plain: _Plain = (self._routes.masters[0], command, None)
        else:
            slot = key_slot(command[1])
            plain = (self._routes.owner(slot), command, slot)
        self._waiting.append(plain)
        return (plain,)

    def _queue(self, command: Command) -> Sequence[_Plain]:
        if command[0] == b"MULTI":
            self._queued = []
            self._waiting.append(_Said(b"OK"))
            return ()
        if command[0] != b"EXEC" and self._queued is not None:
            self._queued.append(command)
            self._waiting.append(_Said(b"QUEUED"))
            return ()
        transactions = SlotTransactions(self._queued or [], self._routes, self._aside)
        self._queued = None
        self._waiting.append(transactions)
        return transactions.parts

    # -- receiving ----------------------------------------------------------------------------------------------

    def receive_many(self, count: int) -> list[Reply]:
        """The replies to the next *count* commands, each from the node that serves its key now."""
        waiting = [self._waiting.popleft() for _ in range(count)]
        expected: dict[Place, int] = {}
        for entry in waiting:
            parts = (entry,) if entry.__class__ is tuple else getattr(entry, "parts", ())
            for place, _, _ in parts:
                expected[place] = expected.get(place, 0) + 1
        arrived = {place: iter(self._nodes(place).receive_many(n)) for place, n in expected.items()}
        replies: list[Reply] = []
        for entry in waiting:
            if isinstance(entry, _Computed):
                replies.append(self._compute(entry.command))
            elif isinstance(entry, _Said):
                replies.append(entry.reply)
            elif isinstance(entry, SlotTransactions):
                replies.append(entry.join(lambda place: next(arrived[place])))
            elif isinstance(entry, _Joined):
                replies.append(
                    entry.join([self._settled(part, next(arrived[part[0]])) for part in entry.parts])
                )
            else:
                reply = next(arrived[entry[0]])
                replies.append(self._settled(entry, reply) if reply.__class__ is ErrorReply else reply)
        return replies

    def _settled(self, plain: _Plain, reply: Reply) -> Reply:
        """The reply, or what the node answers that the key has moved to."""
        place, command, slot = plain
        if slot is None or not isinstance(reply, ErrorReply) or not redirects(reply):
            return reply
        self._routes.learn(slot, reply, place)
        return self._routes.ask(command, slot)

    def _compute(self, command: Command) -> Reply:
        if command[0] == b"SCAN":
            return self._scan(command)
        if len(command) > 1 and command[1].lower() in _STATISTICS:
            return b""
        cluster = self.cluster()
        table = merge_info([master.info for master in cluster.masters], cluster.run_id)
        return "\r\n".join(f"{name}:{value}" for name, value in table.items()).encode()

    def cluster(self) -> Cluster:
        """Who serves what now.

        :raises ServerError: no node answers, or some slots are served by nobody.
        """
        cluster = read_cluster(self._aside, self._routes.masters)
        self._routes.follow(cluster)
        return cluster

    def _scan(self, command: Command) -> Reply:
        options = {name.upper(): value for name, value in zip(command[2::2], command[3::2], strict=True)}
        unknown = set(options) - {b"COUNT", b"TYPE"}
        if unknown:
            return ErrorReply(
                f"ERR SCAN of a cluster knows no {sorted(unknown)[0].decode('ascii', 'replace')}"
            )
        cursor, names = self._walk.page(int(command[1]), int(options.get(b"COUNT", b"10")))
        wanted = options.get(b"TYPE")
        if wanted is not None:
            names = [name for name, kind in zip(names, self._types(names), strict=True) if kind == wanted]
        return [b"%d" % cursor, list(names)]

    def _types(self, names: list[bytes]) -> list[Reply]:
        plain: list[_Plain] = []
        by_place: dict[Place, list[Command]] = {}
        for name in names:
            slot = key_slot(name)
            plain.append((self._routes.owner(slot), [b"TYPE", name], slot))
            by_place.setdefault(plain[-1][0], []).append(plain[-1][1])
        arrived = {}
        for place, commands in by_place.items():
            connection = self._aside(place)
            connection.send(packed(commands))
            arrived[place] = iter(connection.receive_many(len(commands)))
        return [self._settled(entry, next(arrived[entry[0]])) for entry in plain]

    def error_for(self, reply: ErrorReply, doing: str) -> ServerError:
        """The exception that belongs to an error reply; a key that no node serves may be served later."""
        text = str(reply)
        if text.startswith(REDIRECTS):
            return ServerNotReady(
                self.role,
                self.where,
                f"{doing}: no node serves a key ({text}).",
                "Wait until its failover has ended, or look at it with redis-cli --cluster check.",
            )
        return super().error_for(reply, doing)


def _commands(data: bytes) -> Iterator[Command]:
    """The commands in packed bytes; the C parser of replies does it, because commands have the same form."""
    reader = hiredis.Reader(notEnoughData=_END)
    reader.feed(data)
    while (command := reader.gets()) is not _END:
        yield command


class _End:
    """The type of the marker that hiredis hands back at the end."""


_END: Final = _End()
