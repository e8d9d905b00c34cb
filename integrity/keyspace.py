"""Reading one database from end to end: SCAN, then a probe of each key, then its content, all pipelined.

The probe tells how much memory a key uses (and its type, where wanted) before its content is asked for, so that a
batch is bounded in bytes and not only in keys.  Each write carries three things, and in this order::

    SCAN of page 4  ·  probe of page 3  ·  content of page 2

While the server works on it, the content of page 1 is taken in and dealt with; then the replies to the first two are
there, the next write can go out, and the server has it before it is done with page 2.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from integrity.errors import ProtocolError
from integrity.expiry import Commands
from integrity.pace import Pace
from integrity.replies import ErrorReply, Reply
from integrity.sizes import MEMORY_USAGE, sizes_by_length
from integrity.wire import Connection, arguments_of, every

if TYPE_CHECKING:
    from integrity.partition import CursorRange
    from integrity.rules import Rules

_PAGES_READY: Final = 2
"""Pages that wait, probed, for their content to be asked for; with more, SCAN pauses."""


@dataclass(frozen=True, slots=True)
class BigKey:
    """A key whose value is read in pieces."""

    key: bytes
    size: int
    """Bytes of memory on the server."""


@dataclass(frozen=True, slots=True)
class Page:
    """Keys of one SCAN reply (or a part of them, where they are large) with what the probe told."""

    keys: list[bytes]
    arguments: list[bytes]
    """The keys as RESP arguments."""
    types: list[bytes]
    """As TYPE answers; empty where types were not asked for."""
    sizes: list[int]
    """Bytes of memory on the server; 0 where the server does not tell."""
    size: int
    cursor: int
    """Where SCAN goes on when this page is done; the page's own start where more parts of it follow."""
    completes: bool
    """Whether this is the last part of its SCAN reply; only then may a checkpoint move to :attr:`cursor`."""
    last: bool
    """Whether the range ends here."""
    big: list[BigKey] = field(default_factory=list)
    """Keys of the same SCAN reply that are too large to be read whole; not among :attr:`keys`."""
    excluded: dict[str, int] = field(default_factory=dict)
    """Rule → how many keys of the same SCAN reply it left out."""

    @property
    def count(self) -> int:
        """How many keys of the SCAN reply this page accounts for."""
        return len(self.keys) + len(self.big) + sum(self.excluded.values())


def scan_command(cursor: int, count: int) -> bytes:
    """One packed SCAN."""
    at, number = b"%d" % cursor, b"%d" % count
    return b"*4\r\n$4\r\nSCAN\r\n$%d\r\n%b\r\n$5\r\nCOUNT\r\n$%d\r\n%b\r\n" % (
        len(at),
        at,
        len(number),
        number,
    )


def scan_reply(connection: Connection, reply: Reply) -> tuple[int, list[bytes]]:
    """Cursor and keys of a SCAN reply.

    :raises ServerError: the server answered with an error or something else.
    """
    if isinstance(reply, ErrorReply):
        raise connection.error_for(reply, "SCAN")
    if isinstance(reply, list) and len(reply) == 2:
        cursor, keys = reply
        if isinstance(cursor, bytes) and cursor.isdigit() and isinstance(keys, list):
            return int(cursor), [key for key in keys if isinstance(key, bytes)]
    raise ProtocolError(connection.role, connection.where, "SCAN answered in an unknown shape.", "")


def memory_usage_known(connection: Connection) -> bool:
    """Whether the server tells the size of a key, and this user may ask."""
    reply = connection.exchange([b"*3\r\n$6\r\nMEMORY\r\n$5\r\nUSAGE\r\n$14\r\ngreenfly:probe\r\n"])[0]
    return not isinstance(reply, ErrorReply)


@dataclass(frozen=True, slots=True)
class _Scanned:
    """Keys of one SCAN reply that are yet to be probed."""

    keys: list[bytes]
    cursor: int
    last: bool


class KeyspaceReader:
    """Reads one range of the current database of *connection*, from a cursor on.

    :param keys: the range.
    :param cursor: where to begin in it; None for its start.
    :param pace: asked before every page.
    :param big_bytes: keys that use more memory than this are not read but handed over by name; needs *with_sizes*.
    :param rules: which keys are left out.
    :param read: makes the commands that read a page's content; called once per page, in order, right before they are
        sent, so that the caller can ask another server for the same keys in the same moment.
    :param with_types: also ask for each key's type.
    :param with_sizes: ask for each key's memory use (see :func:`memory_usage_known`).
    """

    def __init__(
        self,
        connection: Connection,
        *,
        keys: CursorRange,
        cursor: int | None,
        pace: Pace,
        batch_bytes: int,
        big_bytes: int,
        rules: Rules,
        read: Callable[[Page], Commands],
        with_types: bool,
        with_sizes: bool,
        known_sizes: Mapping[bytes, int] | None = None,
    ) -> None:
        self._connection = connection
        self._range = keys
        self._cursor = keys.start if cursor is None else cursor
        self._pace = pace
        self._batch_bytes = batch_bytes
        self._big_bytes = big_bytes
        self._rules = rules
        self._read = read
        self._with_types = with_types or rules.needs_types
        self._known_sizes = None if rules.needs_sizes else known_sizes
        self._with_sizes = with_sizes and self._known_sizes is None
        self._scanned_all = False
        self._scanned: _Scanned | None = None
        self._overlapping: _Scanned | None = None
        """The range's last keys, until it is known which of them the next range brings too."""
        self._overlap_count = 0
        self._ready: deque[Page] = deque()

    def __iter__(self) -> Iterator[tuple[Page, list[Reply]]]:
        """Pages with the replies to their read commands, in SCAN order.

        :raises ServerError: connection lost or the server refused.
        """
        connection = self._connection
        arriving: Page | None = None
        replies = 0
        while True:
            scans = len(self._ready) < _PAGES_READY and (not self._scanned_all or bool(self._overlapping))
            probes = self._scanned
            page = self._ready.popleft() if self._ready else None
            if not scans and probes is None and page is None and arriving is None:
                return
            commands = [self._scan_command()] if scans else []
            arguments = arguments_of(probes.keys) if probes else []
            if probes is not None:
                commands.append(self._probe_commands(arguments))
            expected = 0
            if page is not None:
                self._pace.admit(page.count, page.size)
                content, expected = self._read(page)
                commands.append(content)
            connection.send(b"".join(commands))
            # The server works on what was just sent while the page before it is taken in and dealt with.
            if arriving is not None:
                yield arriving, connection.receive_many(replies)
            arriving, replies = page, expected
            self._scanned = self._take_scan() if scans else None
            if probes is not None:
                told = connection.receive_many(len(probes.keys) * (self._with_types + self._with_sizes))
                self._ready.extend(split_page(self._probed(probes, arguments, told), self._batch_bytes))

    def pages_of(self, keys: Sequence[bytes]) -> Sequence[Page]:
        """Pages of keys that are known by name, probed, and cut so that each is bounded in bytes.

        :raises ServerError: connection lost or the server refused.
        """
        arguments = arguments_of(keys)
        self._connection.send(self._probe_commands(arguments))
        told = self._connection.receive_many(len(keys) * (self._with_types + self._with_sizes))
        if self._known_sizes is not None:
            types = [name if isinstance(name, bytes) else b"none" for name in told]
            self._known_sizes = dict(zip(keys, sizes_by_length(self._connection, keys, types), strict=True))
        page = self._probed(_Scanned(list(keys), 0, last=False), arguments, told)
        return split_page(replace(page, completes=False), self._batch_bytes)

    def _scan_command(self) -> bytes:
        next_start = self._range.next_start
        if self._overlapping is not None and next_start is not None:
            return scan_command(next_start, self._overlap_count)
        self._overlap_count = self._pace.batch_keys
        return scan_command(self._cursor, self._overlap_count)

    def _take_scan(self) -> _Scanned | None:
        cursor, keys = scan_reply(self._connection, self._connection.receive())
        if self._overlapping is not None:
            # These are the next range's first keys; whoever reads that range deals with them.
            theirs = frozenset(keys)
            last = self._overlapping
            self._overlapping = None
            return _Scanned([key for key in last.keys if key not in theirs], last.cursor, last=True)
        self._cursor = cursor
        self._scanned_all = self._range.ends_at(cursor)
        scanned = _Scanned(keys, cursor, self._scanned_all)
        if self._scanned_all and cursor and self._range.next_start is not None:
            self._overlapping = scanned
            return None
        return scanned

    def _probe_commands(self, arguments: list[bytes]) -> bytes:
        types = every(b"*2\r\n$4\r\nTYPE\r\n", arguments) if self._with_types else b""
        return types + every(MEMORY_USAGE, arguments) if self._with_sizes else types

    def _probed(self, scanned: _Scanned, arguments: list[bytes], replies: list[Reply]) -> Page:
        count = len(scanned.keys)
        types: list[bytes] = []
        sizes = [0] * count
        if self._with_types:
            for reply in replies[:count]:
                if reply.__class__ is bytes:
                    types.append(reply)
                elif isinstance(reply, ErrorReply):
                    raise self._connection.error_for(reply, "TYPE")
        if self._with_sizes:
            told = replies[len(replies) - count :]
            sizes = [size if size.__class__ is int else 0 for size in told]
        keys = scanned.keys
        excluded: dict[str, int] = {}
        big: list[BigKey] = []
        if not self._rules.selects_all:
            selection = self._rules.select(keys, types, sizes)
            excluded = selection.excluded
            keys, arguments, types, sizes = _only(selection.kept, keys, arguments, types, sizes)
        if self._known_sizes:
            known = self._known_sizes
            sizes = [known.get(key, 0) for key in keys]
        if self._big_bytes and sizes and max(sizes) > self._big_bytes:
            big = [BigKey(key, size) for key, size in zip(keys, sizes, strict=True) if size > self._big_bytes]
            small = [i for i, size in enumerate(sizes) if size <= self._big_bytes]
            keys, arguments, types, sizes = _only(small, keys, arguments, types, sizes)
        return Page(
            keys,
            arguments,
            types,
            sizes,
            sum(sizes),
            scanned.cursor,
            completes=True,
            last=scanned.last,
            big=big,
            excluded=excluded,
        )


def _only(
    kept: Sequence[int], keys: list[bytes], arguments: list[bytes], types: list[bytes], sizes: list[int]
) -> tuple[list[bytes], list[bytes], list[bytes], list[int]]:
    """The same four lists with the positions *kept* alone; types may be empty."""
    if len(kept) == len(keys):
        return keys, arguments, types, sizes
    return (
        [keys[i] for i in kept],
        [arguments[i] for i in kept],
        [types[i] for i in kept] if types else types,
        [sizes[i] for i in kept],
    )


def split_page(page: Page, batch_bytes: int) -> Sequence[Page]:
    """Cut a page into parts of at most *batch_bytes* each (one larger key is a part of its own).

    What is not read with the page (big and excluded keys) goes with the last part.
    """
    if page.size <= batch_bytes:
        return [page]
    parts: list[Page] = []
    start = size = 0
    for end, key_size in enumerate(page.sizes):
        if end > start and size + key_size > batch_bytes:
            parts.append(_part(page, start, end, size, last=False))
            start, size = end, 0
        size += key_size
    parts.append(_part(page, start, len(page.keys), size, last=True))
    return parts


def _part(page: Page, start: int, end: int, size: int, *, last: bool) -> Page:
    return Page(
        page.keys[start:end],
        page.arguments[start:end],
        page.types[start:end],
        page.sizes[start:end],
        size,
        page.cursor,
        page.completes and last,
        page.last and last,
        page.big if last else [],
        page.excluded if last else {},
    )
