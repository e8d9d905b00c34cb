"""The canonical checksum: the same for the same value, whatever server, version, encoding or reading order.

The digest of a key is 16 bytes of XXH3-128 over a *canonical value* that begins with a one-byte type tag; the parts of
each kind are in :mod:`integrity.kinds`, the definition for people in ``docs/checksum.md``.  XXH3 finds accidents, not
adversaries: someone who can choose values can make two with the same digest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from struct import pack
from typing import Final, Self

from xxhash import xxh3_128_digest, xxh3_128_intdigest

DEFINITION: Final = "greenfly-canonical/1 xxh3-128"
"""Recorded with every manifest and run; digests of two definitions are never compared."""

DIGEST_BYTES: Final = 16
MASK_128: Final = (1 << 128) - 1

digest_bytes = xxh3_128_digest
_concat: Final[Callable[[bytes, bytes], bytes]] = bytes.__add__


def digest_sequence(elements: Sequence[bytes]) -> bytes:
    """Digest of byte strings in order.

    Lengths and contents are hashed apart (little-endian 64-bit lengths, then the concatenation) and the two digests
    together with the count: no two different sequences share an input, and a long one can be fed in pieces.
    """
    count = len(elements)
    return xxh3_128_digest(
        pack("<Q", count)
        + xxh3_128_digest(pack(f"<{count}Q", *map(len, elements)))
        + xxh3_128_digest(b"".join(elements))
    )


def digest_unordered(tag: bytes, member_digests: Iterable[int], count: int) -> bytes:
    """Digest of a collection without order: the sum mod 2^128 of its members' digests, with the count."""
    return digest_of_sum(tag, sum(member_digests), count)


def digest_of_sum(tag: bytes, total: int, count: int) -> bytes:
    """Digest from a finished sum of member digests; a value read in pieces ends here too."""
    return xxh3_128_digest(tag + pack("<Q", count) + (total & MASK_128).to_bytes(16, "little"))


class Fingerprint:
    """The commutative combination of (key, digest) pairs of one database: the sum mod 2^128 of their own digests."""

    __slots__ = ("_sum", "keys")

    def __init__(self) -> None:
        self.keys = 0
        self._sum = 0

    @classmethod
    def of(cls, keys: int, digits: str) -> Self:
        """What another process made of so many keys, from its :meth:`hex`."""
        fingerprint = cls()
        fingerprint.keys, fingerprint._sum = keys, int(digits, 16)
        return fingerprint

    def add(self, key: bytes, digest: bytes) -> None:
        """Count one key in."""
        self.keys += 1
        self._sum += xxh3_128_intdigest(digest + key)

    def add_many(self, keys: Sequence[bytes], digests: Sequence[bytes]) -> None:
        """Count many keys in."""
        self.keys += len(keys)
        self._sum += sum(map(xxh3_128_intdigest, map(_concat, digests, keys)))

    def remove(self, key: bytes, digest: bytes) -> None:
        """Count one key out again."""
        self.keys -= 1
        self._sum -= xxh3_128_intdigest(digest + key)

    def merge(self, other: Fingerprint) -> None:
        """Count in all that *other* holds."""
        self.keys += other.keys
        self._sum += other._sum

    def hex(self) -> str:
        """32 hexadecimal digits."""
        return f"{self._sum & MASK_128:032x}"
