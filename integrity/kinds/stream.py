"""Streams.  Canonical form: entries in order; last id; groups, their consumers and pending entries.

Of a pending entry the id, consumer and delivery count are part of the form.  Idle times, last-seen times and
``entries-read`` are not: servers re-estimate them on load.  ``entries-added`` and ``max-deleted-entry-id`` are
:meth:`StreamKind.counters`, compared beside the digest where both servers keep them (Redis 6.2 keeps neither), so
that a digest never depends on the peer that it is compared with.
"""

from __future__ import annotations

from collections.abc import Sequence

from integrity.checksum import digest_bytes, digest_sequence
from integrity.kinds.base import MalformedReply, plural
from integrity.replies import Reply

Counters = tuple[int, bytes]
"""(entries added, max deleted id)"""


def _table(reply: Reply) -> dict[bytes, Reply]:
    if not isinstance(reply, list) or len(reply) % 2:
        raise MalformedReply("XINFO STREAM FULL is no table")
    table: dict[bytes, Reply] = {}
    for name, value in zip(reply[::2], reply[1::2], strict=True):
        if not isinstance(name, bytes):
            raise MalformedReply("XINFO STREAM FULL has a name that is no string")
        table[name] = value
    return table


def _bytes(value: Reply, name: str) -> bytes:
    if not isinstance(value, bytes):
        raise MalformedReply(f"XINFO STREAM FULL: {name} is no string")
    return value


def _list(value: Reply, name: str) -> list[Reply]:
    if not isinstance(value, list):
        raise MalformedReply(f"XINFO STREAM FULL: {name} is no list")
    return value


def _pending(table: dict[bytes, Reply]) -> list[Reply]:
    """The pending entries, which servers call ``pending`` or ``pel``."""
    return _list(table[b"pending"] if b"pending" in table else table.get(b"pel"), "pending")


def _entries(reply: Reply) -> list[bytes]:
    flat: list[bytes] = []
    for entry in _list(reply, "entries"):
        identifier, fields = _list(entry, "entry")
        pairs = _list(fields, "fields")
        flat.append(_bytes(identifier, "entry id"))
        flat.append(b"%d" % len(pairs))
        flat.extend(_bytes(item, "field") for item in pairs)
    return flat


def _groups(reply: Reply) -> list[bytes]:
    flat: list[bytes] = []
    groups = [_table(group) for group in _list(reply, "groups")]
    for group in sorted(groups, key=lambda g: _bytes(g[b"name"], "group name")):
        pending = _pending(group)
        flat += [
            _bytes(group[b"name"], "group name"),
            _bytes(group[b"last-delivered-id"], "last-delivered-id"),
            b"%d" % len(pending),
        ]
        for item in pending:
            identifier, consumer, _time, count = _list(item, "pending entry")
            flat += [_bytes(identifier, "pending id"), _bytes(consumer, "consumer"), b"%d" % _integer(count)]
        consumers = sorted(
            _bytes(_table(c)[b"name"], "consumer name") for c in _list(group.get(b"consumers"), "consumers")
        )
        flat.append(b"%d" % len(consumers))
        flat += consumers
    return flat


def _integer(value: Reply) -> int:
    if not isinstance(value, int):
        raise MalformedReply("XINFO STREAM FULL: a count is no number")
    return value


class StreamKind:
    """``stream``"""

    name = "stream"
    prefix = b"*6\r\n$5\r\nXINFO\r\n$6\r\nSTREAM\r\n"
    suffix = b"$4\r\nFULL\r\n$5\r\nCOUNT\r\n$1\r\n0\r\n"

    def digest(self, reply: Reply) -> bytes:
        try:
            table = _table(reply)
            entries, groups = _entries(table[b"entries"]), _groups(table[b"groups"])
            last = _bytes(table[b"last-generated-id"], "last-generated-id")
        except (KeyError, ValueError) as error:
            raise MalformedReply(f"XINFO STREAM FULL lacks a part: {error}") from error
        return digest_bytes(
            b"X" + digest_sequence([last]) + digest_sequence(entries) + digest_sequence(groups)
        )

    def counters(self, reply: Reply) -> Counters | None:
        """``entries-added`` and ``max-deleted-entry-id``, or None where the server keeps neither."""
        table = _table(reply)
        added, deleted = table.get(b"entries-added"), table.get(b"max-deleted-entry-id")
        return (added, deleted) if isinstance(added, int) and isinstance(deleted, bytes) else None

    def digests(self, replies: Sequence[Reply]) -> list[bytes]:
        return [self.digest(reply) for reply in replies]

    def size(self, reply: Reply) -> int:
        length = _table(reply).get(b"length")
        return length if isinstance(length, int) else 0

    def difference(self, source: Reply, target: Reply) -> str:
        left, right = _table(source), _table(target)
        parts = []
        ours, theirs = _list(left[b"entries"], "entries"), _list(right[b"entries"], "entries")
        if ours != theirs:
            differing = sum(1 for a, b in zip(ours, theirs, strict=False) if a != b)
            lengths = (
                f" ({plural(len(ours), 'entry')} against {len(theirs):,})" if len(ours) != len(theirs) else ""
            )
            parts.append(f"{differing:,} entries differ{lengths}")
        if left[b"last-generated-id"] != right[b"last-generated-id"]:
            parts.append("another last id")
        if _groups(left[b"groups"]) != _groups(right[b"groups"]):
            parts.append("groups, consumers or pending entries differ")
        if not parts and self.counters(source) != self.counters(target):
            parts.append("entries-added or max-deleted-entry-id differ")
        return ", ".join(parts) or "no difference left"
