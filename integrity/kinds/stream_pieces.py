"""A stream in pieces: its state, the ids that are pending, its entries, then its groups one by one.

Written with typed commands, a stream is made again as it came to be.  Two things need a detour:

* An entry that is pending but deleted cannot be claimed.  It is added in its place with a placeholder, claimed, and
  deleted again; that is why the pending ids come before the entries.
* The largest deleted id is set in the same way on servers whose XSETID cannot set it.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from integrity.expiry import TIME_COMMAND, clock_ms
from integrity.kinds.base import MalformedReply
from integrity.kinds.pieces import Piece, PieceSize, PieceWriter, ValueChanged, WriteRefused, ask
from integrity.kinds.stream_reply import (
    after,
    entry_id,
    reply_bytes,
    reply_integer,
    reply_list,
    reply_table,
)
from integrity.replies import ErrorReply, Reply
from integrity.wire import Connection, pack

_ZERO: Final = b"0-0"
_DELETIONS: Final = 1000
_PLACEHOLDER: Final = (b"greenfly", b"placeholder")


# -- reading ---------------------------------------------------------------------------------------------------------


def read_stream(connection: Connection, key: bytes, size: int, limit: PieceSize) -> Iterator[Piece]:
    """The pieces of one stream; see :meth:`~integrity.kinds.base.Kind.pieces`."""
    state = _state(connection, key)
    yield Piece(state, "state")
    length = reply_integer(state[3])
    step = limit.elements_for(length, size)
    groups = [reply_table(g) for g in reply_list(ask(connection, b"XINFO", b"GROUPS", key), "groups")]
    groups.sort(key=lambda group: reply_bytes(group.get(b"name"), "group name"))
    for group in groups:
        for pending in _pending(connection, key, group, step):
            yield Piece([reply_list(item, "pending")[0] for item in pending], "pending ids")
    seen, start = 0, b"-"
    while entries := reply_list(
        ask(connection, b"XRANGE", key, start, b"+", b"COUNT", b"%d" % step), "entries"
    ):
        yield Piece(entries, "entries")
        seen += len(entries)
        if len(entries) < step:
            break
        start = after(reply_bytes(reply_list(entries[-1], "entry")[0], "entry id"))
    for group in groups:
        yield from _group(connection, key, group, step)
    if seen != length or _state(connection, key) != state:
        raise ValueChanged("entries were added or deleted")


def _state(connection: Connection, key: bytes) -> list[Reply]:
    """Last id, entries added and largest deleted id (None where the server keeps neither), length, groups."""
    table = reply_table(ask(connection, b"XINFO", b"STREAM", key))
    try:
        return [
            table[b"last-generated-id"],
            table.get(b"entries-added"),
            table.get(b"max-deleted-entry-id"),
            table[b"length"],
            table[b"groups"],
        ]
    except KeyError as error:
        raise MalformedReply(f"XINFO STREAM lacks {error}") from error


def _group(connection: Connection, key: bytes, group: dict[bytes, Reply], step: int) -> Iterator[Piece]:
    name = group[b"name"]
    count = group.get(b"pending")
    yield Piece([name, group.get(b"last-delivered-id"), group.get(b"entries-read"), count], "group")
    seen = 0
    for pending in _pending(connection, key, group, step):
        now = clock_ms(connection.exchange([TIME_COMMAND])[0])
        timed: list[Reply] = []
        for item in pending:
            identifier, consumer, idle, times = reply_list(item, "pending entry")
            timed.append([identifier, consumer, now - reply_integer(idle), times])
        seen += len(timed)
        yield Piece([name, timed], "pending")
    if seen != count:
        raise ValueChanged("pending entries were added or acknowledged")
    consumers = reply_list(
        ask(connection, b"XINFO", b"CONSUMERS", key, reply_bytes(name, "group name")), "consumers"
    )
    yield Piece([name, [reply_table(consumer).get(b"name") for consumer in consumers]], "consumers")


def _pending(
    connection: Connection, key: bytes, group: dict[bytes, Reply], step: int
) -> Iterator[list[Reply]]:
    """``[id, consumer, idle, count]`` of a group's pending entries, in parts."""
    if not group.get(b"pending"):
        return
    name, start = reply_bytes(group[b"name"], "group name"), b"-"
    while True:
        items = reply_list(
            ask(connection, b"XPENDING", key, name, start, b"+", b"%d" % step), "pending entries"
        )
        if items:
            yield items
        if len(items) < step:
            return
        start = after(reply_bytes(reply_list(items[-1], "pending entry")[0], "pending id"))


# -- writing ---------------------------------------------------------------------------------------------------------


def write_stream(target: Connection, key: bytes, pieces: Iterable[Piece]) -> tuple[str, ...]:
    """Write a stream to a key that is not there; see :meth:`~integrity.kinds.base.Kind.write`."""
    return _StreamWriter(target, key).write(pieces)


class _Wanted:
    """Ids that must be there while the groups are made, ascending; 16 bytes for each."""

    def __init__(self) -> None:
        self._milliseconds = array("Q")
        self._sequences = array("Q")
        self._at = 0
        self._sorted: list[tuple[int, int]] | None = None

    def add(self, identifier: bytes) -> None:
        milliseconds, sequence = entry_id(identifier)
        self._milliseconds.append(milliseconds)
        self._sequences.append(sequence)

    def sort(self) -> None:
        import numpy as np

        order = np.lexsort((np.array(self._sequences), np.array(self._milliseconds)))
        self._milliseconds = array("Q", np.array(self._milliseconds)[order].tobytes())
        self._sequences = array("Q", np.array(self._sequences)[order].tobytes())

    def before(self, limit: tuple[int, int] | None) -> Iterator[bytes]:
        """Take those before *limit* (all for None), each once; an id equal to the limit is passed over."""
        previous: tuple[int, int] | None = None
        while self._at < len(self._milliseconds):
            current = (self._milliseconds[self._at], self._sequences[self._at])
            if limit is not None and current > limit:
                return
            self._at += 1
            if current not in (limit, previous):
                yield b"%d-%d" % current
            previous = current


class _StreamWriter:
    def __init__(self, target: Connection, key: bytes) -> None:
        self._target = target
        self._key = key
        self._writer = PieceWriter(target)
        self._state: list[Reply] = [_ZERO, None, None, 0, 0]
        self._wanted = _Wanted()
        self._placeholders: list[bytes] = []
        self._exists = False
        self._entries_done = False
        self._entries_read: dict[bytes, int] = {}
        """What each group was created with."""
        self._lost: list[str] = []

    def write(self, pieces: Iterable[Piece]) -> tuple[str, ...]:
        with self._writer:
            self._write(pieces)
        return tuple(self._lost)

    def _write(self, pieces: Iterable[Piece]) -> None:
        began = False
        for piece in pieces:
            content = reply_list(piece.content, piece.part)
            if piece.part == "state":
                self._state = content
                deleted = content[2]
                if isinstance(deleted, bytes) and deleted != _ZERO:
                    self._wanted.add(deleted)
                continue
            if piece.part == "pending ids":
                for identifier in content:
                    self._wanted.add(reply_bytes(identifier, "pending id"))
                continue
            if not began:
                self._wanted.sort()
                began = True
            if piece.part == "entries":
                self._add_entries(content)
            else:
                self._end_entries(began)
                self._write_group_part(piece.part, content)
        self._end_entries(began)
        self._finish()
        self._check_entries_read()

    def _add_entries(self, entries: Sequence[Reply]) -> None:
        commands = []
        for entry in entries:
            identifier, fields = reply_list(entry, "entry")
            name = reply_bytes(identifier, "entry id")
            commands += self._add_placeholders(entry_id(name))
            strings = [reply_bytes(item, "field") for item in reply_list(fields, "fields")]
            commands.append(pack(b"XADD", self._key, name, *strings))
        self._exists = True
        self._writer.send(commands)

    def _add_placeholders(self, limit: tuple[int, int] | None) -> list[bytes]:
        missing = list(self._wanted.before(limit))
        self._placeholders += missing
        return [pack(b"XADD", self._key, identifier, *_PLACEHOLDER) for identifier in missing]

    def _end_entries(self, sorted_already: bool) -> None:
        if self._entries_done:
            return
        self._entries_done = True
        if not sorted_already:
            self._wanted.sort()
        commands = self._add_placeholders(None)
        if commands:
            self._exists = True
            self._writer.send(commands)
        if not self._exists:
            name = b"greenfly"
            self._writer.send(
                [
                    pack(b"XGROUP", b"CREATE", self._key, name, b"0", b"MKSTREAM"),
                    pack(b"XGROUP", b"DESTROY", self._key, name),
                ]
            )

    def _write_group_part(self, part: str, content: list[Reply]) -> None:
        name = reply_bytes(content[0], "group name")
        if part == "group":
            self._create_group(name, reply_bytes(content[1], "last-delivered-id"), content[2])
        elif part == "pending":
            commands = []
            for item in reply_list(content[1], "pending"):
                identifier, consumer, time, count = reply_list(item, "pending entry")
                commands.append(
                    pack(
                        b"XCLAIM",
                        self._key,
                        name,
                        reply_bytes(consumer, "consumer"),
                        b"0",
                        reply_bytes(identifier, "pending id"),
                        b"TIME",
                        b"%d" % reply_integer(time),
                        b"RETRYCOUNT",
                        b"%d" % reply_integer(count),
                        b"FORCE",
                        b"JUSTID",
                    )
                )
            self._writer.send(commands)
        elif part == "consumers":
            consumers = [
                reply_bytes(consumer, "consumer") for consumer in reply_list(content[1], "consumers")
            ]
            self._writer.send(
                [pack(b"XGROUP", b"CREATECONSUMER", self._key, name, consumer) for consumer in consumers]
            )
            if consumers:
                self._note("when each consumer was last seen")

    def _create_group(self, name: bytes, last: bytes, entries_read: Reply) -> None:
        plain = (b"XGROUP", b"CREATE", self._key, name, last)
        if isinstance(entries_read, int):
            reply = self._writer.try_command(*plain, b"ENTRIESREAD", b"%d" % entries_read)
            if not isinstance(reply, ErrorReply):
                self._entries_read[name] = entries_read
                return
            self._note("entries-read of its groups")
        self._writer.send([pack(*plain)])

    def _finish(self) -> None:
        for start in range(0, len(self._placeholders), _DELETIONS):
            part = self._placeholders[start : start + _DELETIONS]
            self._writer.send([pack(b"XDEL", self._key, *part)])
        last, added, deleted = self._state[:3]
        plain = (b"XSETID", self._key, reply_bytes(last, "last-generated-id"))
        if isinstance(added, int) and isinstance(deleted, bytes):
            options = (b"ENTRIESADDED", b"%d" % added, b"MAXDELETEDID", deleted)
            if not isinstance(self._writer.try_command(*plain, *options), ErrorReply):
                if deleted == _ZERO and self._placeholders:
                    # Redis takes 0-0 for "as it is", and deleting the placeholders has set it.
                    self._note_counters(added, deleted)
                return
            self._set_last_id(plain)
            self._note_counters(added, deleted)
            return
        self._set_last_id(plain)

    def _check_entries_read(self) -> None:
        """Dragonfly takes ENTRIESREAD and does not keep it."""
        if not self._entries_read:
            return
        groups = reply_list(self._writer.try_command(b"XINFO", b"GROUPS", self._key), "groups")
        kept = {table[b"name"]: table.get(b"entries-read") for table in map(reply_table, groups)}
        if any(kept.get(name) != read for name, read in self._entries_read.items()):
            self._note("entries-read of its groups")

    def _set_last_id(self, command: Sequence[bytes]) -> None:
        reply = self._writer.try_command(*command)
        if isinstance(reply, ErrorReply):
            raise WriteRefused(reply)

    def _note_counters(self, added: int, deleted: bytes) -> None:
        """Name the counters that came out otherwise, where the target keeps them."""
        table = reply_table(self._target.exchange([pack(b"XINFO", b"STREAM", self._key)])[0])
        if table.get(b"entries-added", added) != added:
            self._note(f"entries-added ({added:,} on the source)")
        if table.get(b"max-deleted-entry-id", deleted) != deleted:
            self._note("max-deleted-entry-id")

    def _note(self, what: str) -> None:
        if what not in self._lost:
            self._lost.append(what)
