"""Hashes.  Canonical form: the sum of the digests of (length-prefixed field, value), with the count.

The expiries of single fields are compared beside the digest (:mod:`integrity.kinds.field_expiry`), as a key's own
expiry is: within a tolerance, because Dragonfly keeps them in whole seconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from xxhash import xxh3_128_intdigest

from integrity.checksum import digest_of_sum, digest_unordered
from integrity.kinds.base import MalformedReply, apart, elements_of
from integrity.kinds.field_expiry import ExpiryWriter, FieldExpiries, field_expiries
from integrity.kinds.pieces import Piece, PieceSize, PieceWriter, chunks, scanned_elements
from integrity.replies import Reply
from integrity.wire import Connection, pack

_PREFIX: Final = tuple(b"%d:" % length for length in range(1024))


def _pair_digests(flat: list[bytes]) -> Iterator[int]:
    """One digest per field, made without a Python statement per field."""
    fields = flat[::2]
    try:
        prefixes = list(map(_PREFIX.__getitem__, map(len, fields)))
    except IndexError:
        prefixes = [b"%d:" % len(field) for field in fields]
    return map(xxh3_128_intdigest, map(b"".join, zip(prefixes, fields, flat[1::2], strict=True)))


class HashKind:
    """``hash``"""

    name = "hash"
    prefix = b"*2\r\n$7\r\nHGETALL\r\n"
    suffix = b""

    def digest(self, reply: Reply) -> bytes:
        if not isinstance(reply, list) or len(reply) % 2:
            raise MalformedReply("HGETALL is no list of pairs")
        try:
            return digest_unordered(b"H", _pair_digests(reply), len(reply) // 2)  # type: ignore[arg-type]
        except TypeError as error:
            raise MalformedReply("HGETALL is no list of strings") from error

    def digests(self, replies: Sequence[Reply]) -> list[bytes]:
        return [self.digest(reply) for reply in replies]

    def size(self, reply: Reply) -> int:
        return len(reply) // 2 if isinstance(reply, list) else 0

    def difference(self, source: Reply, target: Reply) -> str:
        left, right = _table(source), _table(target)
        changed = sum(1 for field, value in left.items() if field in right and right[field] != value)
        return apart(
            "field",
            with_another_value=changed,
            only_on_the_source=len(left.keys() - right.keys()),
            only_on_the_target=len(right.keys() - left.keys()),
        )

    def pieces(self, connection: Connection, key: bytes, size: int, limit: PieceSize) -> Iterator[Piece]:
        knows = True
        for pairs in scanned_elements(connection, b"HSCAN", b"HLEN", key, size, limit):
            expiries: tuple[int, ...] | None = ()
            if knows:
                expiries = field_expiries(connection, key, pairs[::2])
                knows = expiries is not None
            yield Piece([*pairs], expiries=expiries or ())

    def hasher(self) -> HashHasher:
        return HashHasher()

    def write(self, target: Connection, key: bytes, pieces: Iterable[Piece]) -> tuple[str, ...]:
        with PieceWriter(target) as writer:
            expiring = ExpiryWriter(writer, key)
            for piece in pieces:
                pairs = elements_of(piece.content)
                expiries = expiring.commands(pairs, piece.expiries)
                writer.send([*(pack(b"HSET", key, *part) for part in chunks(pairs, 2)), *expiries])
        return expiring.lost


class HashHasher:
    """The digest of a hash that comes in pieces, and its fields' expiries."""

    def __init__(self) -> None:
        self.size = 0
        self._sum = 0
        self.expiries = FieldExpiries()

    def add(self, piece: Piece) -> None:
        """Take one piece in."""
        pairs = elements_of(piece.content)
        self._sum += sum(_pair_digests(pairs))
        self.size += len(pairs) // 2
        if piece.expiries:
            self.expiries.add(pairs[::2], piece.expiries)

    def digest(self) -> bytes:
        """16 bytes."""
        return digest_of_sum(b"H", self._sum, self.size)


def _table(reply: Reply) -> dict[bytes, bytes]:
    items = iter(elements_of(reply))
    return dict(zip(items, items, strict=True))
