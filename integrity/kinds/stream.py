"""Streams.  Canonical form: entries in order; last id; groups, their consumers and pending entries.

Of a pending entry the id, consumer and delivery count are part of the form.  Idle times, last-seen times and
``entries-read`` are not: servers re-estimate them on load.  ``entries-added`` and ``max-deleted-entry-id`` are
:meth:`StreamKind.counters`, compared beside the digest where both servers keep them (Redis 6.2 keeps neither), so
that a digest never depends on the peer that it is compared with.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from integrity.checksum import digest_bytes, digest_sequence
from integrity.kinds.base import MalformedReply
from integrity.kinds.pieces import Piece, PieceSize, SequenceHasher
from integrity.kinds.stream_pieces import read_stream, write_stream
from integrity.kinds.stream_reply import (
    consumer_elements,
    entry_elements,
    group_elements,
    pending_elements,
    reply_bytes,
    reply_integer,
    reply_list,
    reply_table,
)
from integrity.replies import Reply
from integrity.wire import Connection

Counters = tuple[int, bytes]
"""(entries added, max deleted id)"""


def _entries(reply: Reply) -> list[bytes]:
    return entry_elements(reply_list(reply, "entries"))


def _groups(reply: Reply) -> list[bytes]:
    flat: list[bytes] = []
    groups = [reply_table(group) for group in reply_list(reply, "groups")]
    for group in sorted(groups, key=lambda g: reply_bytes(g[b"name"], "group name")):
        # Servers call the pending entries ``pending`` or ``pel``.
        pending = reply_list(group[b"pending"] if b"pending" in group else group.get(b"pel"), "pending")
        consumers = [
            reply_bytes(reply_table(c)[b"name"], "consumer name")
            for c in reply_list(group.get(b"consumers"), "consumers")
        ]
        flat += group_elements(group[b"name"], group[b"last-delivered-id"], len(pending))
        flat += pending_elements(pending)
        flat += consumer_elements(consumers)
    return flat


class StreamKind:
    """``stream``"""

    name = "stream"
    prefix = b"*6\r\n$5\r\nXINFO\r\n$6\r\nSTREAM\r\n"
    suffix = b"$4\r\nFULL\r\n$5\r\nCOUNT\r\n$1\r\n0\r\n"

    def digest(self, reply: Reply) -> bytes:
        try:
            table = reply_table(reply)
            entries, groups = _entries(table[b"entries"]), _groups(table[b"groups"])
            last = reply_bytes(table[b"last-generated-id"], "last-generated-id")
        except (KeyError, ValueError) as error:
            raise MalformedReply(f"XINFO STREAM FULL lacks a part: {error}") from error
        return digest_bytes(
            b"X" + digest_sequence([last]) + digest_sequence(entries) + digest_sequence(groups)
        )

    def counters(self, reply: Reply) -> Counters | None:
        """``entries-added`` and ``max-deleted-entry-id``, or None where the server keeps neither."""
        table = reply_table(reply)
        added, deleted = table.get(b"entries-added"), table.get(b"max-deleted-entry-id")
        return (added, deleted) if isinstance(added, int) and isinstance(deleted, bytes) else None

    def digests(self, replies: Sequence[Reply]) -> list[bytes]:
        return [self.digest(reply) for reply in replies]

    def size(self, reply: Reply) -> int:
        length = reply_table(reply).get(b"length")
        return length if isinstance(length, int) else 0

    def difference(self, source: Reply, target: Reply) -> str:
        left, right = reply_table(source), reply_table(target)
        parts = []
        ours, theirs = reply_list(left[b"entries"], "entries"), reply_list(right[b"entries"], "entries")
        if ours != theirs:
            differing = sum(1 for a, b in zip(ours, theirs, strict=False) if a != b)
            lengths = f"{len(ours):,} against {len(theirs):,}"
            if not differing:
                parts.append(f"{lengths} entries")
            else:
                told = "1 entry differs" if differing == 1 else f"{differing:,} entries differ"
                parts.append(told if len(ours) == len(theirs) else f"{told} ({lengths})")
        if left[b"last-generated-id"] != right[b"last-generated-id"]:
            parts.append("another last id")
        if _groups(left[b"groups"]) != _groups(right[b"groups"]):
            parts.append("groups, consumers or pending entries differ")
        if not parts and self.counters(source) != self.counters(target):
            parts.append("entries-added or max-deleted-entry-id differ")
        return ", ".join(parts) or "no difference left"

    def pieces(self, connection: Connection, key: bytes, size: int, limit: PieceSize) -> Iterator[Piece]:
        return read_stream(connection, key, size, limit)

    def hasher(self) -> StreamHasher:
        return StreamHasher()

    def write(self, target: Connection, key: bytes, pieces: Iterable[Piece]) -> tuple[str, ...]:
        return write_stream(target, key, pieces)


class StreamHasher:
    """The digest of a stream that comes in pieces."""

    def __init__(self) -> None:
        self.size = 0
        self._last = b""
        self._entries = SequenceHasher()
        self._groups = SequenceHasher()
        self.counters: Counters | None = None

    def add(self, piece: Piece) -> None:
        """Take one piece in."""
        content = reply_list(piece.content, piece.part)
        match piece.part:
            case "state":
                last, added, deleted, *_ = content
                self._last = reply_bytes(last, "last-generated-id")
                if isinstance(added, int) and isinstance(deleted, bytes):
                    self.counters = (added, deleted)
            case "entries":
                self.size += len(content)
                self._entries.add(entry_elements(content))
            case "group":
                name, last, _read, pending = content
                self._groups.add(group_elements(name, last, reply_integer(pending)))
            case "pending":
                self._groups.add(pending_elements(reply_list(content[1], "pending")))
            case "consumers":
                names = [reply_bytes(name, "consumer") for name in reply_list(content[1], "consumers")]
                self._groups.add(consumer_elements(names))

    def digest(self) -> bytes:
        """16 bytes."""
        return digest_bytes(
            b"X" + digest_sequence([self._last]) + self._entries.digest() + self._groups.digest()
        )
