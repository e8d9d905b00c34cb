"""Big values, read and written in pieces: what one piece is, and the helpers that every kind uses for them.

Reading and hashing never hold more than a piece.  A value that changes while its pieces are read has no meaning as a
whole: where the server's own count gives the change away, :class:`ValueChanged` says so and the reader begins again;
where it does not, the digest of the copy differs from the next reading's, and that is a finding.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from struct import pack as pack_struct
from types import TracebackType
from typing import Final, Literal, Protocol, Self

from xxhash import xxh3_128, xxh3_128_digest

from integrity.errors import ServerError
from integrity.kinds.base import MalformedReply, elements_of
from integrity.replies import ErrorReply, Reply
from integrity.wire import Connection, pack

MOST_ARGUMENTS: Final = 32_768
"""Dragonfly refuses a command with more than 65,536 arguments."""

Part = Literal["value", "state", "pending ids", "entries", "group", "pending", "consumers"]


@dataclass(frozen=True, slots=True)
class PieceSize:
    """How much one piece may hold."""

    bytes: int
    elements: int

    def elements_for(self, count: int, size: int) -> int:
        """Elements per piece of a value of *count* elements that uses *size* bytes."""
        fitting = self.bytes * count // size if size else self.elements
        return max(1, min(self.elements, fitting))


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of one value, shaped as the server answered it."""

    content: Reply
    """A string's bytes; the flat elements or pairs of a collection; what a stream's :attr:`part` says."""
    part: Part = "value"
    expiries: tuple[int, ...] = ()
    """Absolute expiry of each field of a hash (or member of a set) in milliseconds, −1 for none; empty where no one has
    one."""


class ValueChanged(Exception):
    """The value was written to, or went away, while its pieces were read."""


class WriteRefused(Exception):
    """The target refused a piece."""

    def __init__(self, reply: ErrorReply) -> None:
        super().__init__(str(reply))
        self.reply = reply


class Hasher(Protocol):
    """Takes the pieces of one value in and tells the same digest as for the whole."""

    @property
    def size(self) -> int:
        """Bytes of a string, elements of everything else, so far."""

    def add(self, piece: Piece) -> None:
        """Take one piece in.

        :raises MalformedReply: it is not this kind's.
        """

    def digest(self) -> bytes:
        """The canonical digest of all pieces, 16 bytes."""


class SequenceHasher:
    """:func:`~integrity.checksum.digest_sequence` over elements that come in pieces."""

    __slots__ = ("_contents", "_lengths", "count")

    def __init__(self) -> None:
        self.count = 0
        self._lengths = xxh3_128()
        self._contents = xxh3_128()

    def add(self, elements: Sequence[bytes]) -> None:
        """Take elements in, in order."""
        self.count += len(elements)
        self._lengths.update(pack_struct(f"<{len(elements)}Q", *map(len, elements)))
        self._contents.update(b"".join(elements))

    def digest(self) -> bytes:
        """16 bytes."""
        return xxh3_128_digest(
            pack_struct("<Q", self.count) + self._lengths.digest() + self._contents.digest()
        )


_ABOUT_THE_SERVER: Final = ("NOAUTH", "WRONGPASS", "NOPERM", "LOADING", "MASTERDOWN", "READONLY")


def ask(connection: Connection, *arguments: bytes) -> Reply:
    """One command of a reading.

    :raises ValueChanged: the key is of another type by now.
    :raises MalformedReply: the server answered with another error that is about this key.
    :raises ServerError: the server answered with an error that is not about this key.
    """
    return asked(connection, connection.exchange([pack(*arguments)])[0], arguments[0])


def asked(connection: Connection, reply: Reply, command: bytes) -> Reply:
    """*reply* to *command*, if it is no error; see :func:`ask`."""
    if isinstance(reply, ErrorReply):
        text = str(reply)
        if text.startswith(_ABOUT_THE_SERVER):
            raise connection.error_for(reply, command.decode())
        if text.startswith(("WRONGTYPE", "NOGROUP")) or "no such key" in text.lower():
            raise ValueChanged(text)
        raise MalformedReply(text)
    return reply


def count_of(connection: Connection, command: bytes, key: bytes) -> int:
    """What STRLEN, LLEN, SCARD, HLEN, ZCARD or XLEN answers.

    :raises ValueChanged: the key is of another type by now.
    """
    count = ask(connection, command, key)
    if not isinstance(count, int):
        raise MalformedReply(f"{command.decode()} is no number")
    return count


def scanned_elements(
    connection: Connection, command: bytes, count_command: bytes, key: bytes, size: int, limit: PieceSize
) -> Iterable[list[bytes]]:
    """The flat replies of SSCAN or HSCAN over a whole collection.

    :raises ValueChanged: more or fewer elements came than the server counts, so some came twice or not at all.
    """
    count = count_of(connection, count_command, key)
    width = 2 if command == b"HSCAN" else 1
    wanted = b"%d" % limit.elements_for(count, size)
    cursor, seen = b"0", 0
    while True:
        reply = ask(connection, command, key, cursor, b"COUNT", wanted)
        if not isinstance(reply, list) or len(reply) != 2 or not isinstance(reply[0], bytes):
            raise MalformedReply(f"{command.decode()} answered in an unknown shape")
        elements = elements_of(reply[1])
        seen += len(elements) // width
        if elements:
            yield elements
        cursor = reply[0]
        if cursor == b"0":
            break
    if seen != count or count_of(connection, count_command, key) != count:
        raise ValueChanged(f"{seen:,} elements were read of {count:,}")


class PieceWriter:
    """Sends each piece's commands and takes the answers to the one before, so that both servers work at once.

    A context manager: it leaves no answer on the connection, whatever happens inside.
    """

    def __init__(self, target: Connection) -> None:
        self.target = target
        self._waiting = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.settle()
        elif isinstance(error, Exception) and not isinstance(error, ServerError):
            self.target.receive_many(self._waiting)

    def send(self, commands: Sequence[bytes]) -> None:
        """Send packed commands.

        :raises WriteRefused: one of the commands before them was answered with an error.
        """
        self.settle()
        self.target.send(b"".join(commands))
        self._waiting = len(commands)

    def settle(self) -> None:
        """Take the outstanding answers in.

        :raises WriteRefused: one of them is an error.
        """
        waiting, self._waiting = self._waiting, 0
        for reply in self.target.receive_many(waiting):
            if isinstance(reply, ErrorReply):
                raise WriteRefused(reply)

    def try_command(self, *arguments: bytes) -> Reply:
        """One command, whose error is for the caller to deal with."""
        self.settle()
        return self.target.exchange([pack(*arguments)])[0]


def chunks(flat: Sequence[bytes], width: int) -> Iterable[Sequence[bytes]]:
    """*flat* in parts that fit into one command; *width* elements stay together."""
    step = MOST_ARGUMENTS // width * width
    for start in range(0, len(flat), step):
        yield flat[start : start + step]
