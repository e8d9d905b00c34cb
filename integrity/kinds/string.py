"""Strings, bitmaps and HyperLogLogs.  Canonical form: the bytes; a HyperLogLog as its registers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from xxhash import xxh3_128

from integrity.checksum import digest_bytes
from integrity.kinds.base import MalformedReply, plural
from integrity.kinds.hyperloglog import LONGEST, MAGIC, registers
from integrity.kinds.pieces import Piece, PieceSize, PieceWriter, ValueChanged, ask, count_of
from integrity.replies import Reply
from integrity.wire import Connection, pack


class StringKind:
    """``string``"""

    name = "string"
    prefix = b"*2\r\n$3\r\nGET\r\n"
    suffix = b""

    def digest(self, reply: Reply) -> bytes:
        if not isinstance(reply, bytes):
            raise MalformedReply("GET is no string")
        if reply.startswith(MAGIC):
            decoded = registers(reply)
            if decoded is not None:
                return digest_bytes(b"P" + decoded)
        return digest_bytes(b"S" + reply)

    def digests(self, replies: Sequence[Reply]) -> list[bytes]:
        try:
            # Most strings are no HyperLogLog: hash them without a call of ours for each.
            plain = list(map(digest_bytes, map(b"S".__add__, replies)))  # type: ignore[arg-type]
        except TypeError as error:
            raise MalformedReply("GET is no string") from error
        for index, reply in enumerate(replies):
            if reply[:4] == MAGIC:  # type: ignore[index]
                plain[index] = self.digest(reply)
        return plain

    def size(self, reply: Reply) -> int:
        return len(reply) if isinstance(reply, bytes) else 0

    def difference(self, source: Reply, target: Reply) -> str:
        if not isinstance(source, bytes) or not isinstance(target, bytes):
            return "not readable"
        common = min(len(source), len(target))
        at = next((i for i in range(common) if source[i] != target[i]), common)
        lengths = (
            "" if len(source) == len(target) else f"; {plural(len(source), 'byte')} against {len(target):,}"
        )
        return f"first differs at byte {at:,}{lengths}"

    def pieces(self, connection: Connection, key: bytes, size: int, limit: PieceSize) -> Iterator[Piece]:
        length = count_of(connection, b"STRLEN", key)
        # Whether it is a HyperLogLog shows only on the whole of it.
        step = max(limit.bytes, LONGEST)
        for start in range(0, length, step) or (0,):
            content = ask(connection, b"GETRANGE", key, b"%d" % start, b"%d" % (start + step - 1))
            if not isinstance(content, bytes):
                raise MalformedReply("GETRANGE is no string")
            if len(content) != min(step, length - start):
                raise ValueChanged("its length changed")
            yield Piece(content)
        if count_of(connection, b"STRLEN", key) != length:
            raise ValueChanged("its length changed")

    def hasher(self) -> StringHasher:
        return StringHasher()

    def write(self, target: Connection, key: bytes, pieces: Iterable[Piece]) -> tuple[str, ...]:
        with PieceWriter(target) as writer:
            command = b"SET"
            for piece in pieces:
                if isinstance(piece.content, bytes):
                    writer.send([pack(command, key, piece.content)])
                    command = b"APPEND"
        return ()


class StringHasher:
    """The digest of a string that comes in pieces."""

    def __init__(self) -> None:
        self.size = 0
        self._state = xxh3_128(b"S")
        self._first = b""

    def add(self, piece: Piece) -> None:
        """Take one piece in."""
        if not isinstance(piece.content, bytes):
            raise MalformedReply("a piece of a string is no string")
        if not self.size:
            self._first = piece.content[: LONGEST + 1]
        self.size += len(piece.content)
        self._state.update(piece.content)

    def digest(self) -> bytes:
        """16 bytes."""
        if self._first.startswith(MAGIC) and self.size == len(self._first):
            return StringKind().digest(self._first)
        return self._state.digest()
