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
from integrity.wire import Connection, pack

_AT_A_TIME: Final = 100
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
            ours = stream_states(source.connection(), part)
            theirs = stream_states(target.connection(), rules.rename_all(part))
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


def stream_states(connection: Connection, keys: Sequence[bytes]) -> list[StreamState | None]:
    """The state of each stream; None where there is none.

    :raises ServerError: the server refuses, or answers in an unknown shape.
    """
    commands = [pack(b"XINFO", b"STREAM", key) for key in keys]
    commands += [pack(b"XINFO", b"GROUPS", key) for key in keys]
    replies = connection.exchange(commands)
    infos, groups = replies[: len(keys)], replies[len(keys) :]
    states: list[StreamState | None] = []
    for key, info, found in zip(keys, infos, groups, strict=True):
        if isinstance(info, ErrorReply) or isinstance(found, ErrorReply):
            error = info if isinstance(info, ErrorReply) else found
            if isinstance(error, ErrorReply) and not _means_gone(error):
                raise connection.error_for(error, "XINFO")
            states.append(None)
            continue
        try:
            states.append(_state(connection, key, info, found))
        except (KeyError, ValueError, MalformedReply) as error:
            raise ProtocolError(
                connection.role, connection.where, f"XINFO lacks a part ({error})."
            ) from error
    return states


def _means_gone(error: ErrorReply) -> bool:
    text = str(error).lower()
    return "no such key" in text or text.startswith("wrongtype")


def _state(connection: Connection, key: bytes, info: Reply, groups: Reply) -> StreamState:
    table = reply_table(info)
    last, length = table[b"last-generated-id"], table[b"length"]
    if not isinstance(last, bytes) or not isinstance(length, int):
        raise ValueError("last-generated-id or length")
    added, deleted = table.get(b"entries-added"), table.get(b"max-deleted-entry-id")
    counters = (added, deleted) if isinstance(added, int) and isinstance(deleted, bytes) else None
    found = []
    for group in reply_list(groups, "groups"):
        facts = reply_table(group)
        name, delivered, pending = facts[b"name"], facts[b"last-delivered-id"], facts[b"pending"]
        if not (isinstance(name, bytes) and isinstance(delivered, bytes)):
            raise ValueError("group name")
        consumers: frozenset[bytes] = frozenset()
        if facts[b"consumers"]:
            consumers = _consumers(connection, key, name)
        waiting = _pending(connection, key, name) if pending else ()
        found.append(GroupState(name, delivered, consumers, waiting))
    return StreamState(last, length, counters, tuple(sorted(found, key=lambda group: group.name)))


def _consumers(connection: Connection, key: bytes, group: bytes) -> frozenset[bytes]:
    reply = connection.exchange([pack(b"XINFO", b"CONSUMERS", key, group)])[0]
    if isinstance(reply, ErrorReply):
        return frozenset()  # The group went away since; the next round sees that.
    names = (reply_table(consumer)[b"name"] for consumer in reply_list(reply, "consumers"))
    return frozenset(name for name in names if isinstance(name, bytes))


def _pending(connection: Connection, key: bytes, group: bytes) -> tuple[Pending, ...]:
    """All pending entries, a page at a time."""
    found: list[Pending] = []
    start = b"-"
    while True:
        reply = connection.exchange([pack(b"XPENDING", key, group, start, b"+", b"%d" % _PENDING_PAGE)])[0]
        if isinstance(reply, ErrorReply):
            return tuple(found)  # The group went away since; the next round sees that.
        page = reply_list(reply, "pending entries")
        for entry in page:
            identifier, consumer, _idle, count = reply_list(entry, "pending entry")
            if not (isinstance(identifier, bytes) and isinstance(consumer, bytes) and isinstance(count, int)):
                raise ValueError("pending entry")
            found.append((identifier, consumer, count))
        if len(page) < _PENDING_PAGE:
            return tuple(found)
        start = b"(" + found[-1][0]
