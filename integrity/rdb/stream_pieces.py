"""A big stream piece by piece: its entries node by node; of a group's pending entries, 40 bytes each are held."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from struct import Struct
from typing import TYPE_CHECKING, Final

from integrity.kinds.pieces import Piece, PieceSize
from integrity.rdb.body import Body
from integrity.rdb.errors import MalformedBody
from integrity.rdb.stream_body import ENTRY_ID, add_entries
from integrity.replies import Reply

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_TIME_BYTES: Final = 8
_milliseconds: Final = Struct("<q").unpack


def stream_pieces_of(form: int, body: Body, limit: PieceSize) -> Iterator[Piece]:
    """Entries, state and groups, in this order; see :func:`integrity.rdb.stream_body.stream_reply`.

    :raises MalformedBody: it is no stream.
    """
    count = 0
    entries: list[Reply] = []
    size = 0
    for _ in range(body.length()):
        node, data = body.string(), body.string()
        add_entries(entries, node, data)
        size += len(data)
        if len(entries) >= limit.elements or size >= limit.bytes:
            count += len(entries)
            yield Piece(entries, "entries")
            entries, size = [], 0
    if entries:
        count += len(entries)
        yield Piece(entries, "entries")
    length, last = body.length(), _spelled_id(body)
    if length != count:
        raise MalformedBody(f"a stream has {count:,} entries, and {length:,} by its own count")
    added: int | None = None
    deleted: bytes | None = None
    if form > 1:
        _spelled_id(body)
        deleted, added = _spelled_id(body), body.length()
    groups = [_group(form, body) for _ in range(body.length())]
    yield Piece([last, added, deleted, length, len(groups)], "state")
    for group in sorted(groups, key=lambda group: group.name):
        yield from group.pieces(limit.elements)


def _spelled_id(body: Body) -> bytes:
    return b"%d-%d" % (body.length(), body.length())


@dataclass(frozen=True, slots=True)
class _Group:
    name: bytes
    last: bytes
    entries_read: int | None
    consumers: list[bytes]
    ids: bytes
    """Of pending entries, 16 bytes each; the other columns beside it."""
    times: array[int]
    counts: array[int]
    owners: NDArray[np.int32]

    def pieces(self, most: int) -> Iterator[Piece]:
        """As the group is written."""
        pending = len(self.times)
        yield Piece([self.name, self.last, self.entries_read, pending], "group")
        for start in range(0, pending, most):
            items: list[Reply] = []
            for number in range(start, min(start + most, pending)):
                identifier = b"%d-%d" % ENTRY_ID.unpack_from(self.ids, number * ENTRY_ID.size)
                owner = self.consumers[self.owners[number]]
                items.append([identifier, owner, self.times[number], self.counts[number]])
            yield Piece([self.name, items], "pending")
        yield Piece([self.name, [*self.consumers]], "consumers")


def _group(form: int, body: Body) -> _Group:
    import numpy as np

    name, last = body.string(), _spelled_id(body)
    read = body.length() if form > 1 else None
    ids, times, counts = bytearray(), array("q"), array("Q")
    for _ in range(body.length()):
        ids += body.take(ENTRY_ID.size)
        times.append(_milliseconds(body.take(_TIME_BYTES))[0])
        counts.append(body.length())
    # Fixed-width strings compare as the ids do.
    pending = np.frombuffer(bytes(ids), dtype=f"S{ENTRY_ID.size}")
    order = np.argsort(pending, kind="stable")
    owners = np.full(len(pending), -1, dtype=np.int32)
    consumers: list[bytes] = []
    for number in range(body.length()):
        consumers.append(body.string())
        # When it was last seen, and last active.
        body.pass_over(2 * _TIME_BYTES if form > 2 else _TIME_BYTES)
        size = body.length() * ENTRY_ID.size
        theirs = np.frombuffer(b"".join(body.parts(size, 1 << 20)), dtype=pending.dtype)
        places = np.searchsorted(pending, theirs, sorter=order)
        if len(theirs) and (places.max() >= len(pending) or (pending[order[places]] != theirs).any()):
            raise MalformedBody("a consumer has an entry that is not pending")
        owners[order[places]] = number
    if (owners < 0).any():
        raise MalformedBody("a pending entry belongs to no consumer")
    # A group that does not know how many it read has −1, stored as a number without sign.
    known = read if read is not None and read < 1 << 63 else None
    return _Group(name, last, known, consumers, bytes(ids), times, counts, owners)
