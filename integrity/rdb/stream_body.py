"""A stream's body as the table that XINFO STREAM FULL answers.

Entries stand in nodes, each a listpack whose entries are relative to the node's first; pending entries stand in the
group, and again, by id alone, under the consumer that has them.  Format: Redis ``rdb.c``, ``t_stream.c``.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

from integrity.kinds.pieces import Piece
from integrity.kinds.stream_reply import reply_list, reply_table
from integrity.rdb.errors import MalformedBody
from integrity.rdb.packed import listpack
from integrity.rdb.strings import length_at, string_at
from integrity.replies import Reply

# An entry's flags: 1 says that it is deleted, 2 that its fields are those of the node's first.
_DELETED: Final = frozenset({b"1", b"3"})
_SAME_FIELDS: Final = frozenset({b"2", b"3"})
_KNOWN: Final = frozenset({b"0"}) | _DELETED | _SAME_FIELDS
_MASK: Final = (1 << 64) - 1
ENTRY_ID: Final = Struct(">QQ")
"""An entry's id in a file."""
_milliseconds: Final = Struct("<q")


def stream_reply(form: int, body: bytes) -> Reply:
    """The table.

    :param form: 1 (RDB type 15, Redis 5), 2 (19, Redis 7.0) or 3 (21, Redis 7.2).
    :raises MalformedBody: it is no stream.
    :raises IndexError: it is cut off.
    :raises struct.error: it is cut off.
    """
    walk = _Walk(body)
    entries: list[Reply] = []
    for _ in range(walk.length()):
        add_entries(entries, walk.string(), walk.string())
    length, last = walk.length(), walk.spelled_id()
    if length != len(entries):
        raise MalformedBody(f"a stream has {len(entries):,} entries, and {length:,} by its own count")
    table: list[Reply] = [b"length", length, b"last-generated-id", last]
    if form > 1:
        walk.spelled_id()
        table += [b"max-deleted-entry-id", walk.spelled_id(), b"entries-added", walk.length()]
    groups: list[Reply] = [_group(form, walk) for _ in range(walk.length())]
    if walk.at != len(body):
        raise MalformedBody("something follows a stream")
    return [*table, b"entries", entries, b"groups", groups]


class _Walk:
    """Walks along a body that is all there."""

    __slots__ = ("at", "data")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def length(self) -> int:
        first = self.data[self.at]
        if first < 0x40:
            self.at += 1
            return first
        number, self.at = length_at(self.data, self.at)
        return number

    def string(self) -> bytes:
        string, self.at = string_at(self.data, self.at)
        return string

    def spelled_id(self) -> bytes:
        """An id of two numbers as text."""
        return b"%d-%d" % (self.length(), self.length())

    def raw_id(self) -> bytes:
        """An id in its 16 bytes."""
        self.at += ENTRY_ID.size
        return self.data[self.at - ENTRY_ID.size : self.at]

    def time(self) -> int:
        """Milliseconds since 1970."""
        self.at += _milliseconds.size
        return int(_milliseconds.unpack_from(self.data, self.at - _milliseconds.size)[0])


def add_entries(into: list[Reply], node: bytes, data: bytes) -> None:
    """Append the entries of one node.

    :param node: the node's id, to which the entries' are relative.
    :param data: the node, a listpack.
    :raises MalformedBody: it is none.
    :raises IndexError: it is cut off.
    :raises ValueError: it is something else.
    """
    if len(node) != ENTRY_ID.size:
        raise MalformedBody("a node of a stream has no id")
    milliseconds, sequence = ENTRY_ID.unpack(node)
    packed = listpack(data)
    live, deleted, count = int(packed[0]), int(packed[1]), int(packed[2])
    if not 0 <= count <= len(packed) or not 0 <= live + deleted <= len(packed):
        raise MalformedBody("a node of a stream counts more than it holds")
    named: list[Reply] = [None] * (2 * count)
    named[::2] = packed[3 : 3 + count]
    at = 4 + count
    for _ in range(live + deleted):
        flags = packed[at]
        identifier = b"%d-%d" % (
            milliseconds + int(packed[at + 1]) & _MASK,
            sequence + int(packed[at + 2]) & _MASK,
        )
        if flags in _SAME_FIELDS:
            begin = at + 3
            end = begin + count
            fields = named.copy()
            fields[1::2] = packed[begin:end]
        else:
            begin = at + 4
            end = begin + 2 * int(packed[at + 3])
            if end < begin:
                raise MalformedBody("an entry of a stream has fewer than no fields")
            fields = [*packed[begin:end]]
        if flags not in _KNOWN:
            raise MalformedBody("an entry of a stream has unknown flags")
        # Behind each entry stands how many elements it has, for reading backwards.
        at = end + 1
        if flags not in _DELETED:
            into.append([identifier, fields])
            live -= 1
    if live or at != len(packed):
        raise MalformedBody("a node of a stream does not hold what it counts")


def _group(form: int, walk: _Walk) -> list[Reply]:
    table: list[Reply] = [b"name", walk.string(), b"last-delivered-id", walk.spelled_id()]
    if form > 1:
        read = walk.length()
        # A group that does not know has −1, stored as a number without sign.
        table += [b"entries-read", read if read < 1 << 63 else None]
    delivered = [(walk.raw_id(), walk.time(), walk.length()) for _ in range(walk.length())]
    consumers: list[Reply] = []
    owner: dict[bytes, bytes] = {}
    for _ in range(walk.length()):
        name = walk.string()
        consumers.append([b"name", name])
        # When it was last seen, and last active.
        for _ in range(2 if form > 2 else 1):
            walk.time()
        for _ in range(walk.length()):
            owner[walk.raw_id()] = name
    try:
        pending: list[Reply] = [
            [b"%d-%d" % ENTRY_ID.unpack(raw), owner[raw], time, count] for raw, time, count in delivered
        ]
    except KeyError as error:
        raise MalformedBody("a pending entry belongs to no consumer") from error
    if len(owner) != len(pending):
        raise MalformedBody("a consumer has an entry that is not pending")
    return [*table, b"pending", pending, b"consumers", consumers]


def stream_pieces(table: Reply) -> list[Piece]:
    """What :func:`stream_reply` answered as pieces, in the order in which they are written."""
    fields = reply_table(table)
    groups = [reply_table(group) for group in reply_list(fields[b"groups"], "groups")]
    entries = reply_list(fields[b"entries"], "entries")
    state: list[Reply] = [
        fields[b"last-generated-id"],
        fields.get(b"entries-added"),
        fields.get(b"max-deleted-entry-id"),
        fields[b"length"],
        len(groups),
    ]
    pieces = [Piece(state, "state")]
    pending = [reply_list(group[b"pending"], "pending") for group in groups]
    pieces += [Piece([reply_list(item, "pending")[0] for item in items], "pending ids") for items in pending]
    if entries:
        pieces.append(Piece(entries, "entries"))
    for group, items in zip(groups, pending, strict=True):
        name = group[b"name"]
        consumers = [reply_table(c)[b"name"] for c in reply_list(group[b"consumers"], "consumers")]
        pieces.append(
            Piece([name, group[b"last-delivered-id"], group.get(b"entries-read"), len(items)], "group")
        )
        if items:
            pieces.append(Piece([name, items], "pending"))
        pieces.append(Piece([name, consumers], "consumers"))
    return pieces
