"""Lists.  Canonical form: the elements in order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from integrity.checksum import digest_bytes, digest_sequence
from integrity.kinds.base import MalformedReply, elements_of, plural
from integrity.kinds.pieces import (
    Piece,
    PieceSize,
    PieceWriter,
    SequenceHasher,
    ValueChanged,
    ask,
    chunks,
    count_of,
)
from integrity.replies import Reply
from integrity.wire import Connection, pack


class ListKind:
    """``list``"""

    name = "list"
    prefix = b"*4\r\n$6\r\nLRANGE\r\n"
    suffix = b"$1\r\n0\r\n$2\r\n-1\r\n"

    def digest(self, reply: Reply) -> bytes:
        if not isinstance(reply, list):
            raise MalformedReply("LRANGE is no list")
        try:
            # The join refuses elements that are no strings.
            return digest_bytes(b"L" + digest_sequence(reply))  # type: ignore[arg-type]
        except TypeError as error:
            raise MalformedReply("LRANGE is no list of strings") from error

    def digests(self, replies: Sequence[Reply]) -> list[bytes]:
        return [self.digest(reply) for reply in replies]

    def size(self, reply: Reply) -> int:
        return len(reply) if isinstance(reply, list) else 0

    def difference(self, source: Reply, target: Reply) -> str:
        left, right = elements_of(source), elements_of(target)
        differing = [i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b]
        if differing:
            text = f"{plural(len(differing), 'element')} differ, the first at index {differing[0]:,}"
        else:
            text = f"equal up to index {min(len(left), len(right)) - 1:,}"
        return (
            text
            if len(left) == len(right)
            else f"{text}; {plural(len(left), 'element')} against {len(right):,}"
        )

    def pieces(self, connection: Connection, key: bytes, size: int, limit: PieceSize) -> Iterator[Piece]:
        count = count_of(connection, b"LLEN", key)
        step = limit.elements_for(count, size)
        for start in range(0, count, step):
            elements = elements_of(ask(connection, b"LRANGE", key, b"%d" % start, b"%d" % (start + step - 1)))
            if len(elements) != min(step, count - start):
                raise ValueChanged("its length changed")
            yield Piece([*elements])
        if count_of(connection, b"LLEN", key) != count:
            raise ValueChanged("its length changed")

    def hasher(self) -> ListHasher:
        return ListHasher()

    def write(self, target: Connection, key: bytes, pieces: Iterable[Piece]) -> tuple[str, ...]:
        with PieceWriter(target) as writer:
            for piece in pieces:
                writer.send([pack(b"RPUSH", key, *part) for part in chunks(elements_of(piece.content), 1)])
        return ()


class ListHasher:
    """The digest of a list that comes in pieces."""

    def __init__(self) -> None:
        self._sequence = SequenceHasher()

    @property
    def size(self) -> int:
        """Elements so far."""
        return self._sequence.count

    def add(self, piece: Piece) -> None:
        """Take one piece in."""
        self._sequence.add(elements_of(piece.content))

    def digest(self) -> bytes:
        """16 bytes."""
        return digest_bytes(b"L" + self._sequence.digest())
