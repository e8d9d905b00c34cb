"""Sorted sets.  Canonical form: the sum of the digests of (score as IEEE-754 bits, member), with the count.

Scores are compared as numbers: their text differs between versions.  −0 counts as 0, because Dragonfly answers 0 for
it and some Redis encodings drop the sign.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from struct import Struct
from typing import Final

from xxhash import xxh3_128_intdigest

from integrity.checksum import digest_of_sum, digest_unordered
from integrity.kinds.base import MalformedReply, apart, elements_of
from integrity.kinds.pieces import (
    Piece,
    PieceSize,
    PieceWriter,
    ValueChanged,
    ask,
    chunks,
    count_of,
)
from integrity.replies import Reply
from integrity.wire import Connection, pack

_double: Final = Struct("<d").pack
# Adding zero turns −0 into 0 and leaves every other number as it is.
_plus_zero: Final = (0.0).__add__


def _pair_digests(flat: list[bytes]) -> Iterator[int]:
    """One digest per member, made without a Python statement per member."""
    scores = map(_double, map(_plus_zero, map(float, flat[1::2])))
    return map(xxh3_128_intdigest, map(bytes.__add__, scores, flat[::2]))


class SortedSetKind:
    """``zset``"""

    name = "zset"
    prefix = b"*5\r\n$6\r\nZRANGE\r\n"
    suffix = b"$1\r\n0\r\n$2\r\n-1\r\n$10\r\nWITHSCORES\r\n"

    def digest(self, reply: Reply) -> bytes:
        if not isinstance(reply, list) or len(reply) % 2:
            raise MalformedReply("ZRANGE WITHSCORES is no list of pairs")
        try:
            return digest_unordered(b"Z", _pair_digests(reply), len(reply) // 2)  # type: ignore[arg-type]
        except (TypeError, ValueError) as error:
            raise MalformedReply("ZRANGE WITHSCORES is no list of members and scores") from error

    def digests(self, replies: Sequence[Reply]) -> list[bytes]:
        return [self.digest(reply) for reply in replies]

    def size(self, reply: Reply) -> int:
        return len(reply) // 2 if isinstance(reply, list) else 0

    def difference(self, source: Reply, target: Reply) -> str:
        left, right = _table(source), _table(target)
        changed = [m for m, score in left.items() if m in right and right[m] != score]
        return apart(
            "member",
            with_another_score=len(changed),
            only_on_the_source=len(left.keys() - right.keys()),
            only_on_the_target=len(right.keys() - left.keys()),
        )

    def pieces(self, connection: Connection, key: bytes, size: int, limit: PieceSize) -> Iterator[Piece]:
        count = count_of(connection, b"ZCARD", key)
        step = limit.elements_for(count, size)
        for start in range(0, count, step):
            last = b"%d" % (start + step - 1)
            pairs = elements_of(ask(connection, b"ZRANGE", key, b"%d" % start, last, b"WITHSCORES"))
            if len(pairs) != 2 * min(step, count - start):
                raise ValueChanged("its size changed")
            yield Piece([*pairs])
        if count_of(connection, b"ZCARD", key) != count:
            raise ValueChanged("its size changed")

    def hasher(self) -> SortedSetHasher:
        return SortedSetHasher()

    def write(self, target: Connection, key: bytes, pieces: Iterable[Piece]) -> tuple[str, ...]:
        with PieceWriter(target) as writer:
            for piece in pieces:
                pairs = elements_of(piece.content)
                flat = [item for pair in zip(pairs[1::2], pairs[::2], strict=True) for item in pair]
                writer.send([pack(b"ZADD", key, *part) for part in chunks(flat, 2)])
        return ()


class SortedSetHasher:
    """The digest of a sorted set that comes in pieces."""

    def __init__(self) -> None:
        self.size = 0
        self._sum = 0

    def add(self, piece: Piece) -> None:
        """Take one piece in."""
        pairs = elements_of(piece.content)
        try:
            self._sum += sum(_pair_digests(pairs))
        except ValueError as error:
            raise MalformedReply("a score is no number") from error
        self.size += len(pairs) // 2

    def digest(self) -> bytes:
        """16 bytes."""
        return digest_of_sum(b"Z", self._sum, self.size)


def _table(reply: Reply) -> dict[bytes, float]:
    items = iter(elements_of(reply))
    return {member: float(score) for member, score in zip(items, items, strict=True)}
