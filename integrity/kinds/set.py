"""Sets.  Canonical form: the sum of the members' digests, with the count."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from xxhash import xxh3_128_intdigest

from integrity.checksum import digest_of_sum, digest_unordered
from integrity.kinds.base import MalformedReply, apart, elements_of
from integrity.kinds.member_expiry import MemberExpiryWriter
from integrity.kinds.pieces import Piece, PieceSize, PieceWriter, chunks, scanned_elements
from integrity.replies import Reply
from integrity.wire import Connection, pack


class SetKind:
    """``set``"""

    name = "set"
    prefix = b"*2\r\n$8\r\nSMEMBERS\r\n"
    suffix = b""

    def digest(self, reply: Reply) -> bytes:
        if not isinstance(reply, list):
            raise MalformedReply("SMEMBERS is no list")
        try:
            return digest_unordered(b"T", map(xxh3_128_intdigest, reply), len(reply))  # type: ignore[arg-type]
        except TypeError as error:
            raise MalformedReply("SMEMBERS is no list of strings") from error

    def digests(self, replies: Sequence[Reply]) -> list[bytes]:
        return [self.digest(reply) for reply in replies]

    def size(self, reply: Reply) -> int:
        return len(reply) if isinstance(reply, list) else 0

    def difference(self, source: Reply, target: Reply) -> str:
        left, right = set(elements_of(source)), set(elements_of(target))
        return apart("member", only_on_the_source=len(left - right), only_on_the_target=len(right - left))

    def pieces(self, connection: Connection, key: bytes, size: int, limit: PieceSize) -> Iterator[Piece]:
        for members in scanned_elements(connection, b"SSCAN", b"SCARD", key, size, limit):
            yield Piece([*members])

    def hasher(self) -> SetHasher:
        return SetHasher()

    def write(self, target: Connection, key: bytes, pieces: Iterable[Piece]) -> tuple[str, ...]:
        with PieceWriter(target) as writer:
            expiring = MemberExpiryWriter(writer, key)
            for piece in pieces:
                members = elements_of(piece.content)
                writer.send([pack(b"SADD", key, *part) for part in chunks(members, 1)])
                if piece.expiries:
                    expiring.write(members, piece.expiries)
        return expiring.lost


class SetHasher:
    """The digest of a set that comes in pieces."""

    def __init__(self) -> None:
        self.size = 0
        self._sum = 0

    def add(self, piece: Piece) -> None:
        """Take one piece in."""
        members = elements_of(piece.content)
        self.size += len(members)
        self._sum += sum(map(xxh3_128_intdigest, members))

    def digest(self) -> bytes:
        """16 bytes."""
        return digest_of_sum(b"T", self._sum, self.size)
