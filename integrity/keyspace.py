"""Reading one database from end to end: SCAN, then a probe of each key, then its content, all pipelined.

The probe tells how much memory a key uses (and its type, where wanted) before its content is asked for, so that a
batch is bounded in bytes and not only in keys.  Three stages overlap on one connection: while the content of one
batch arrives, the next batch is already asked for and the page after it is being scanned and probed::

    write:  SCAN 3 · probe page 2 · read page 1          reply order = write order
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from integrity.errors import ProtocolError
from integrity.expiry import Commands
from integrity.replies import ErrorReply, Reply
from integrity.wire import Connection, arguments_of, every

_AHEAD: Final = 2
"""Batches whose content is asked for at once: one arriving, one waiting at the server."""


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
    """Whether the database ends here."""


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
class _Scan:
    """A SCAN is on its way."""


@dataclass(frozen=True, slots=True)
class _Probe:
    """The probes of one SCAN reply are on their way."""

    keys: list[bytes]
    arguments: list[bytes]
    cursor: int
    replies: int


@dataclass(frozen=True, slots=True)
class _Read:
    """The content of one page is on its way."""

    page: Page
    replies: int


class KeyspaceReader:
    """Reads the current database of *connection* from a cursor on.

    :param read: makes the commands that read a page's content; called once per page, in order, right before they are
        sent, so that the caller can ask another server for the same keys in the same moment.
    :param with_types: also ask for each key's type.
    :param with_sizes: ask for each key's memory use (see :func:`memory_usage_known`).
    """

    def __init__(
        self,
        connection: Connection,
        *,
        cursor: int,
        batch_keys: int,
        batch_bytes: int,
        read: Callable[[Page], Commands],
        with_types: bool,
        with_sizes: bool,
    ) -> None:
        self._connection = connection
        self._cursor = cursor
        self._batch_keys = batch_keys
        self._batch_bytes = batch_bytes
        self._read = read
        self._with_types = with_types
        self._with_sizes = with_sizes
        self._scanned_all = False
        self._ready: deque[Page] = deque()
        self._in_flight: deque[_Scan | _Probe | _Read] = deque()
        self._outgoing: list[bytes] = []

    def __iter__(self) -> Iterator[tuple[Page, list[Reply]]]:
        """Pages with the replies to their read commands, in SCAN order.

        :raises ServerError: connection lost or the server refused.
        """
        connection = self._connection
        while True:
            self._top_up()
            if not self._in_flight:
                return
            match self._in_flight.popleft():
                case _Scan():
                    self._cursor, keys = scan_reply(connection, connection.receive())
                    self._scanned_all = self._cursor == 0
                    self._probe(keys)
                case _Probe() as probe:
                    page = self._probed(probe, connection.receive_many(probe.replies))
                    self._ready.extend(split_page(page, self._batch_bytes))
                case _Read() as read:
                    yield read.page, connection.receive_many(read.replies)

    def _top_up(self) -> None:
        """Ask for whatever may be asked for now, in one write."""
        reading = sum(isinstance(stage, _Read) for stage in self._in_flight)
        while self._ready and reading < _AHEAD:
            page = self._ready.popleft()
            commands, replies = self._read(page)
            self._outgoing.append(commands)
            self._in_flight.append(_Read(page, replies))
            reading += 1
        scanning = any(isinstance(stage, _Scan) for stage in self._in_flight)
        waiting = len(self._ready) + sum(isinstance(stage, _Probe) for stage in self._in_flight)
        if not self._scanned_all and not scanning and waiting < _AHEAD:
            self._outgoing.append(scan_command(self._cursor, self._batch_keys))
            self._in_flight.append(_Scan())
        if self._outgoing:
            self._connection.send(b"".join(self._outgoing))
            self._outgoing.clear()

    def _probe(self, keys: list[bytes]) -> None:
        arguments = arguments_of(keys)
        replies = 0
        if self._with_types:
            self._outgoing.append(every(b"*2\r\n$4\r\nTYPE\r\n", arguments))
            replies += len(keys)
        if self._with_sizes:
            self._outgoing.append(every(b"*3\r\n$6\r\nMEMORY\r\n$5\r\nUSAGE\r\n", arguments))
            replies += len(keys)
        self._in_flight.append(_Probe(keys, arguments, self._cursor, replies))

    def _probed(self, probe: _Probe, replies: list[Reply]) -> Page:
        count = len(probe.keys)
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
        return Page(
            probe.keys, probe.arguments, types, sizes, sum(sizes), probe.cursor, True, probe.cursor == 0
        )


def split_page(page: Page, batch_bytes: int) -> Sequence[Page]:
    """Cut a page into parts of at most *batch_bytes* each (one larger key is a part of its own)."""
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
    )
