"""What no feed announces about streams: groups, their pending entries, and ids that were set by hand.

``XREADGROUP``, ``XACK``, ``XCLAIM``, ``XGROUP`` on a key that is there, and ``XSETID`` push nothing to a tracker.
So every stream is known by name (found by SCAN at the start of every comparison, and learned from what is carried
over), and its state beside the entries is asked of both sides in rounds, and once more under the fence.  Entries
themselves are announced, so they are never read here: a round costs a few commands per stream, whatever its length.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from integrity.endpoint import Endpoint
from integrity.errors import ProtocolError
from integrity.kinds.base import MalformedReply
from integrity.kinds.stream_reply import reply_list, reply_table
from integrity.replies import ErrorReply, Reply
from integrity.rules import Rules
from integrity.standby import Standby
from integrity.wire import Connection, arguments_of, every, pack

_AT_A_TIME: Final = 300
_STREAM: Final = b"*3\r\n$5\r\nXINFO\r\n$6\r\nSTREAM\r\n"
_GROUPS: Final = b"*3\r\n$5\r\nXINFO\r\n$6\r\nGROUPS\r\n"
_PENDING_PAGE: Final = 1000

Pending: TypeAlias = tuple[bytes, bytes, int]
"""Entry id, consumer, delivery count."""


@dataclass(frozen=True, slots=True)
class GroupState:
    """One group; consumers by name, because a consumer without pending entries counts too."""

    name: bytes
    last_delivered: bytes
    consumers: frozenset[bytes]
    pending: tuple[Pending, ...]


@dataclass(frozen=True, slots=True)
class StreamState:
    """What is compared of a stream here; None where the key is gone or no stream."""

    last_id: bytes
    length: int
    counters: tuple[int, bytes] | None
    """Entries added and the greatest deleted id, where the server keeps them."""
    groups: tuple[GroupState, ...]

    def same(self, other: StreamState | None) -> bool:
        """Equal in everything that both servers keep."""
        if other is None:
            return False
        counters = None in (self.counters, other.counters) or self.counters == other.counters
        return counters and (self.last_id, self.length, self.groups) == (
            other.last_id,
            other.length,
            other.groups,
        )


class KnownStreams:
    """The streams of the followed side, by database and name."""

    def __init__(self) -> None:
        self._names: dict[int, set[bytes]] = {}
        self._accepted: dict[tuple[int, bytes], tuple[StreamState | None, StreamState | None]] = {}
        """Pairs of states that were found equal by a full comparison, though they differ here."""

    def __len__(self) -> int:
        return sum(map(len, self._names.values()))

    def names(self) -> set[bytes]:
        """Of every database."""
        return set().union(*self._names.values())

    def learn(self, database: int, names: Iterable[bytes]) -> None:
        """These are streams, or may be."""
        self._names.setdefault(database, set()).update(names)

    def find(self, endpoint: Endpoint, databases: Iterable[int]) -> None:
        """Walk whole databases for streams.

        :raises ServerError: the server is lost or refuses.
        """
        for database in databases:
            with endpoint.connect("streams", database) as connection:
                cursor = b"0"
                while True:
                    reply = connection.command(b"SCAN", cursor, b"COUNT", b"1000", b"TYPE", b"stream")
                    if not isinstance(reply, list) or len(reply) != 2 or not isinstance(reply[0], bytes):
                        raise ProtocolError(
                            connection.role, connection.where, "SCAN … TYPE answered in an unknown shape."
                        )
                    cursor, keys = reply[0], reply[1]
                    if isinstance(keys, list):
                        self.learn(database, (key for key in keys if isinstance(key, bytes)))
                    if cursor == b"0":
                        break

    def differing(self, database: int, source: Standby, target: Standby, rules: Rules) -> list[bytes]:
        """Names of streams of one database whose state differs from the target's.

        :raises ServerError: a server is lost or refuses.
        """
        names = [
            name for name in sorted(self._names.get(database, ())) if rules.selects(name, b"stream") is None
        ]
        found: list[bytes] = []
        for start in range(0, len(names), _AT_A_TIME):
            part = names[start : start + _AT_A_TIME]
            # Both servers work at the same time.
            left_side = _Question(source.connection(), part)
            right_side = _Question(target.connection(), rules.rename_all(part))
            left_side.ask_groups()
            right_side.ask_groups()
            ours, theirs = left_side.states(), right_side.states()
            for name, left, right in zip(part, ours, theirs, strict=True):
                if left is None:
                    # Gone, or another type by now: that was announced, as its coming back will be.
                    self._names[database].discard(name)
                    self._accepted.pop((database, name), None)
                elif left.same(right):
                    self._accepted.pop((database, name), None)
                elif self._accepted.get((database, name)) != (left, right):
                    self._accepted[database, name] = (left, right)
                    found.append(name)
        return found


class _Question:
    """The states of some streams, asked of one server in two goes, so that another can be asked meanwhile."""

    def __init__(self, connection: Connection, keys: Sequence[bytes]) -> None:
        self._connection = connection
        self._keys = keys
        arguments = arguments_of(keys)
        connection.send(every(_STREAM, arguments) + every(_GROUPS, arguments))
        self._infos: list[Reply] = []
        self._groups: list[Reply] = []
        self._asked: list[_Asked] = []

    def ask_groups(self) -> None:
        """Take in which groups there are, and ask for their consumers and pending entries.

        :raises ServerError: the server answers in an unknown shape.
        """
        count = len(self._keys)
        self._infos = self._connection.receive_many(count)
        self._groups = self._connection.receive_many(count)
        try:
            self._asked = [
                _Asked(
                    key,
                    _bytes(facts[b"name"]),
                    _bytes(facts[b"last-delivered-id"]),
                    consumers=facts[b"consumers"] != 0,
                    pending=facts[b"pending"] != 0,
                )
                for key, found in zip(self._keys, self._groups, strict=True)
                if not isinstance(found, ErrorReply)
                for facts in map(reply_table, reply_list(found, "groups"))
            ]
        except (KeyError, ValueError, MalformedReply) as error:
            raise self._strange(error) from error
        commands = [pack(b"XINFO", b"CONSUMERS", g.key, g.name) for g in self._asked if g.consumers]
        commands += [_pending_command(g, b"-") for g in self._asked if g.pending]
        self._connection.send(b"".join(commands))

    def states(self) -> list[StreamState | None]:
        """Take in the rest.

        :raises ServerError: the server refuses, or answers in an unknown shape.
        """
        connection = self._connection
        consumers = iter(connection.receive_many(sum(g.consumers for g in self._asked)))
        pending = iter(connection.receive_many(sum(g.pending for g in self._asked)))
        by_key: dict[bytes, list[GroupState]] = {}
        states: list[StreamState | None] = []
        try:
            for group in self._asked:
                names = _consumers(next(consumers)) if group.consumers else frozenset()
                waiting = _pending(connection, group, next(pending)) if group.pending else ()
                state = GroupState(group.name, group.last_delivered, names, waiting)
                by_key.setdefault(group.key, []).append(state)
            for key, info, found in zip(self._keys, self._infos, self._groups, strict=True):
                error = next((reply for reply in (info, found) if isinstance(reply, ErrorReply)), None)
                if error is not None and not _means_gone(error):
                    raise connection.error_for(error, "XINFO")
                states.append(_state(info, by_key.get(key, [])) if error is None else None)
        except (KeyError, ValueError, MalformedReply) as error:
            raise self._strange(error) from error
        return states

    def _strange(self, error: Exception) -> ProtocolError:
        connection = self._connection
        return ProtocolError(connection.role, connection.where, f"XINFO lacks a part ({error}).")


@dataclass(frozen=True, slots=True)
class _Asked:
    """A group whose consumers and pending entries are asked for."""

    key: bytes
    name: bytes
    last_delivered: bytes
    consumers: bool
    """Whether it has any."""
    pending: bool


def _means_gone(error: ErrorReply) -> bool:
    text = str(error).lower()
    return "no such key" in text or text.startswith("wrongtype")


def _bytes(value: Reply) -> bytes:
    if not isinstance(value, bytes):
        raise ValueError("a name or id")
    return value


def _state(info: Reply, groups: Sequence[GroupState]) -> StreamState:
    table = reply_table(info)
    length = table[b"length"]
    if not isinstance(length, int):
        raise ValueError("length")
    added, deleted = table.get(b"entries-added"), table.get(b"max-deleted-entry-id")
    counters = (added, deleted) if isinstance(added, int) and isinstance(deleted, bytes) else None
    ordered = tuple(sorted(groups, key=lambda group: group.name))
    return StreamState(_bytes(table[b"last-generated-id"]), length, counters, ordered)


def _consumers(reply: Reply) -> frozenset[bytes]:
    if isinstance(reply, ErrorReply):
        return frozenset()  # The group went away since; the next round sees that.
    return frozenset(_bytes(table[b"name"]) for table in map(reply_table, reply_list(reply, "consumers")))


def _pending_command(group: _Asked, start: bytes) -> bytes:
    return pack(b"XPENDING", group.key, group.name, start, b"+", b"%d" % _PENDING_PAGE)


def _pending(connection: Connection, group: _Asked, reply: Reply) -> tuple[Pending, ...]:
    """All pending entries; *reply* holds the first page of them."""
    found: list[Pending] = []
    while not isinstance(reply, ErrorReply):
        page = reply_list(reply, "pending entries")
        for entry in page:
            identifier, consumer, _idle, count = reply_list(entry, "pending entry")
            if not isinstance(count, int):
                raise ValueError("pending entry")
            found.append((_bytes(identifier), _bytes(consumer), count))
        if len(page) < _PENDING_PAGE:
            break
        reply = connection.exchange([_pending_command(group, b"(" + found[-1][0])])[0]
    return tuple(found)
