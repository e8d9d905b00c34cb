"""One connection to a whole cluster, with the interface of a connection to one server.

Commands are sent to the node that serves their key, as far as is known, and replies come back in the order of the
commands.  A reply that says that the key is elsewhere (MOVED, ASK), or cannot be told for the moment (TRYAGAIN,
CLUSTERDOWN), is not handed out: its command was not executed, and is sent again by itself until the node that serves
the slot now has answered.  So a key counts as gone only where its slot's present owner says so.  What was sent behind
a write that came late is done once more, in its order (:mod:`integrity.cluster.late`).  Where a connection breaks,
only reading commands are repeated; a write may have been executed, and whoever sent it repeats the whole unit.

SCAN walks the slots (:mod:`integrity.cluster.walk`), or Dragonflies (:mod:`integrity.cluster.scan`), INFO and DBSIZE
add the masters up, PING waits for the slowest.
"""

from __future__ import annotations

import socket
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

from integrity.cluster.commands import (
    ANYWHERE,
    EVERYWHERE,
    SEVERAL_KEYS,
    Command,
    Join,
    cut,
    keys_of,
    may_be_repeated,
    packed_size,
)
from integrity.cluster.late import LateWrites
from integrity.cluster.nodes import Nodes, Place
from integrity.cluster.routes import REDIRECTS, Routes, redirects
from integrity.cluster.scan import NodeWalk
from integrity.cluster.slots import key_slot
from integrity.cluster.topology import Cluster, fullest, read_cluster
from integrity.cluster.transaction import SlotTransactions
from integrity.cluster.waiting import Asked, Computed, Said, commands_in, sort
from integrity.cluster.walk import SlotWalk
from integrity.errors import ProtocolError, Role, ServerError, ServerFull, ServerNotReady, ServerUnreachable
from integrity.info import merge_info
from integrity.replies import ErrorReply, Reply
from integrity.wire import Connection, Target, argument, arguments_of, every, pack

_ABOUT_ALL: Final = frozenset({b"SCAN", b"INFO"})
_TRANSACTION: Final = frozenset({b"MULTI", b"EXEC"})
_ELEMENT_SCANS: Final = frozenset({b"HSCAN", b"SSCAN", b"ZSCAN"})
_SPECIAL: Final = frozenset(
    {*_ABOUT_ALL, *_ELEMENT_SCANS, *_TRANSACTION, *SEVERAL_KEYS, *ANYWHERE, *EVERYWHERE}
)
_STATISTICS: Final = frozenset({b"commandstats", b"errorstats", b"latencystats"})
_REMEMBERED_KEYS: Final = 20_000
_REMEMBERED_SCANS: Final = 100
_BEGAN_ELSEWHERE: Final = "WRONGTYPE the value has moved, and its cursor is another node's"
"""To whoever reads a value in pieces, it has changed meanwhile."""


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
        self._waiting: deque[Asked | Computed | Said | SlotTransactions] = deque()
        self._queued: list[Command] | None = None
        """The commands since MULTI."""
        self._known: dict[bytes, Place] = {}
        """Key → node, of the keys in hand: one key is asked about several times."""
        self._scans: dict[bytes, Place | None] = {}
        """Key of a value that is scanned → the node that gave its cursors."""
        self._broken = False
        self._sent = 0
        self._late = LateWrites()
        try:
            self._routes = Routes(self._aside)
        except BaseException:
            self.close()
            raise
        self._walk: SlotWalk | NodeWalk | None = None
        """Begun with the first SCAN."""

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
        if self._broken:
            raise ServerUnreachable(self.role, self.where, "the connection to a node was lost before.")
        try:
            self._send(data)
        except BaseException:
            # What is on its way from the other nodes would be taken for the answers to what is asked next.
            self._broken = True
            raise

    def _send(self, data: bytes) -> None:
        out: dict[Place, list[bytes]] = {}
        commands = commands_in(data)
        start = position = 0
        for number, command in enumerate(commands):
            if command[0] in _SPECIAL or self._queued is not None:
                position = self._send_plain(data, position, commands[start:number], out)
                position += packed_size([command])
                self._send_special(command, out)
                start = number + 1
        self._send_plain(data, position, commands[start:], out)
        for place, parts in out.items():
            self._nodes(place).send(b"".join(parts))

    def _send_plain(
        self, data: bytes, position: int, commands: list[Command], out: dict[Place, list[bytes]]
    ) -> int:
        """Commands about one key each, which stand in *data* at *position*; returns where they end."""
        if not commands:
            return position
        end = position + packed_size(commands)
        asked = self._asked(commands)
        if asked.only is not None:
            out.setdefault(asked.only, []).append(data[position:end])
        else:
            sort(asked, out)
        self._waiting.append(asked)
        return end

    def _asked(self, commands: list[Command], join: Join | None = None) -> Asked:
        """Commands about one key each, with their nodes."""
        keys = keys_of(commands)
        known = self._known
        if len(known) > _REMEMBERED_KEYS:
            known.clear()
        places = list(map(known.get, keys))
        if None in places:
            owner = self._routes.owner
            for key in keys:
                if key not in known:
                    known[key] = owner(key_slot(key))
            places = list(map(known.get, keys))
        found = [place for place in places if place is not None]
        self._sent += 1
        return Asked(commands, found, found[0] if len(set(found)) == 1 else None, self._sent, join=join)

    def _send_special(self, command: Command, out: dict[Place, list[bytes]]) -> None:
        """A command that is more than one question to the owner of its key."""
        name = command[0]
        if name in _TRANSACTION or self._queued is not None:
            self._queue(command, out)
            return
        if name in _ABOUT_ALL:
            self._waiting.append(Computed(command))
            return
        pieces = cut(command)
        if pieces is not None:
            asked = self._asked(pieces.parts, pieces.join)
        elif name in EVERYWHERE:
            places = list(self._routes.masters)
            every_node = [command] * len(places)
            asked = Asked(every_node, places, None, self._sent, about_keys=False, join=EVERYWHERE[name])
        elif name in ANYWHERE:
            place = self._routes.masters[0]
            asked = Asked([command], [place], place, self._sent, about_keys=False)
        else:
            asked = self._asked([command])
        if asked.only is not None and pieces is not None and len(pieces.parts[0]) == 2:
            prefix = b"*2\r\n" + argument(pieces.parts[0][0])
            out.setdefault(asked.only, []).append(every(prefix, arguments_of(command[1:])))
        else:
            sort(asked, out)
        self._waiting.append(asked)

    def _queue(self, command: Command, out: dict[Place, list[bytes]]) -> None:
        if command[0] == b"MULTI":
            self._queued = []
            self._waiting.append(Said(b"OK"))
            return
        if command[0] != b"EXEC" and self._queued is not None:
            self._queued.append(command)
            self._waiting.append(Said(b"QUEUED"))
            return
        transactions = SlotTransactions(self._queued or [], self._routes, self._aside)
        self._queued = None
        self._waiting.append(transactions)
        for place, part in transactions.parts:
            out.setdefault(place, []).append(pack(*part))

    # -- receiving ----------------------------------------------------------------------------------------------

    def receive_many(self, count: int) -> list[Reply]:
        """The replies to the next *count* commands, each from the node that serves its key now."""
        try:
            return self._receive(count)
        except BaseException:
            self._broken = True
            raise

    def _receive(self, count: int) -> list[Reply]:
        replies: list[Reply] = []
        while len(replies) < count:
            entry = self._waiting[0]
            if isinstance(entry, Asked) and entry.join is None:
                end = min(len(entry.commands), entry.taken + count - len(replies))
                replies += self._take(entry, end)
                if end < len(entry.commands):
                    continue
            elif isinstance(entry, Asked) and entry.join is not None:
                replies.append(entry.join(self._take(entry, len(entry.commands))))
            elif isinstance(entry, Computed):
                replies.append(self._compute(entry.command))
            elif isinstance(entry, SlotTransactions):
                counts = Counter(place for place, _ in entry.parts)
                arrived = {place: iter(self._nodes(place).receive_many(n)) for place, n in counts.items()}
                replies.append(entry.join(lambda place, arrived=arrived: next(arrived[place])))  # type: ignore[misc]
            elif isinstance(entry, Said):
                replies.append(entry.reply)
            self._waiting.popleft()
        if not self._waiting:
            self._late.clear()
        return replies

    def _take(self, asked: Asked, end: int) -> list[Reply]:
        """Replies up to the command *end*; where a key has moved, what its node answers."""
        start, asked.taken = asked.taken, end
        replies: list[Reply]
        if asked.only is not None:
            replies = self._nodes(asked.only).receive_many(end - start)
        else:
            places = asked.places[start:end]
            counts = Counter(places)
            arrived = {place: iter(self._nodes(place).receive_many(n)) for place, n in counts.items()}
            replies = [next(arrived[place]) for place in places]
        if asked.commands[start][0] in _ELEMENT_SCANS:
            return [self._piece(asked, replies[0])]
        if asked.about_keys and (self._late or ErrorReply in map(type, replies)):
            for number, reply in enumerate(replies):
                if isinstance(reply, ErrorReply) and redirects(reply):
                    replies[number] = self._ask_again(asked, start + number, reply)
                elif self._late and self._late.concern(asked.commands[start + number], asked.number):
                    replies[number] = self._do_in_order(asked, start + number, reply)
        return replies

    def _piece(self, asked: Asked, reply: Reply) -> Reply:
        """A part of a value; an error where its cursor came from another node."""
        key, cursor = asked.commands[0][1:3]
        place: Place | None = asked.places[0]
        if isinstance(reply, ErrorReply) and redirects(reply):
            reply = self._ask_again(asked, 0, reply)
            place = self._routes.answered
        if cursor != b"0" and self._scans.get(key) != place:
            return ErrorReply(_BEGAN_ELSEWHERE)
        if len(self._scans) > _REMEMBERED_SCANS:
            self._scans.clear()
        self._scans[key] = place
        return reply

    def _ask_again(self, asked: Asked, number: int, reply: ErrorReply) -> Reply:
        command = asked.commands[number]
        key = keys_of([command])[0]
        slot = key_slot(key)
        self._known.pop(key, None)
        self._routes.learn(slot, reply, asked.places[number])
        answer = self._routes.ask(command, slot)
        self._late.note(command, self._sent)
        return answer

    def _do_in_order(self, asked: Asked, number: int, reply: Reply) -> Reply:
        """A command once more that was answered before a write was done which it was to follow.

        :raises ServerUnreachable: it was executed, and may not be twice.
        """
        command = asked.commands[number]
        if not isinstance(reply, ErrorReply) and not may_be_repeated(command):
            raise ServerUnreachable(
                self.role,
                self.where,
                f"a slot went elsewhere and back, and {command[0].decode()} came before a write that it was to follow.",
                "Nothing counts as written; it is written once more.",
            )
        return self._routes.ask(command, key_slot(keys_of([command])[0]))

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
        walk = self._walk or self._begin_walk()
        if isinstance(walk, NodeWalk):
            at, found = walk.page(int(command[1]), command[2:])
            return [b"%d" % at, list(found)]
        options = {name.upper(): value for name, value in zip(command[2::2], command[3::2], strict=True)}
        unknown = set(options) - {b"COUNT", b"TYPE"}
        if unknown:
            return ErrorReply(
                f"ERR SCAN of a cluster knows no {sorted(unknown)[0].decode('ascii', 'replace')}"
            )
        cursor, names = walk.page(int(command[1]), int(options.get(b"COUNT", b"10")))
        wanted = options.get(b"TYPE")
        if wanted is not None:
            names = [name for name, kind in zip(names, self._types(names), strict=True) if kind == wanted]
        return [b"%d" % cursor, list(names)]

    def _begin_walk(self) -> SlotWalk | NodeWalk:
        told = self._aside(self._routes.masters[0]).command(b"INFO", b"server")
        scans = isinstance(told, bytes) and b"dragonfly_version" in told
        self._walk = NodeWalk(self._aside, self.cluster) if scans else SlotWalk(self._aside, self._routes)
        return self._walk

    def _types(self, names: list[bytes]) -> list[Reply]:
        asked = self._asked([[b"TYPE", name] for name in names])
        arrived: dict[Place, Iterator[Reply]] = {}
        out: dict[Place, list[bytes]] = {}
        sort(asked, out)
        for place, parts in out.items():
            connection = self._aside(place)
            connection.send(b"".join(parts))
            arrived[place] = iter(connection.receive_many(len(parts)))
        replies = [next(arrived[place]) for place in asked.places]
        return [
            self._ask_again(asked, number, reply)
            if isinstance(reply, ErrorReply) and redirects(reply)
            else reply
            for number, reply in enumerate(replies)
        ]

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
        error = super().error_for(reply, doing)
        if isinstance(error, ServerFull):
            with suppress(ServerError):
                text += f"; {fullest(self.cluster())}"
            return ServerFull(self.role, self.where, f"is out of memory at {doing} ({text}).", error.remedy)
        return error
