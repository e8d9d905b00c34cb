"""Hashes.  Canonical form: the sum of the digests of (length-prefixed field, value), with the count."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from xxhash import xxh3_128_intdigest

from integrity.checksum import digest_unordered
from integrity.kinds.base import MalformedReply, elements_of, plural
from integrity.replies import Reply

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
        return (
            f"{plural(changed, 'field')} with another value, {len(left.keys() - right.keys()):,} only on the source, "
            f"{len(right.keys() - left.keys()):,} only on the target"
        )


def _table(reply: Reply) -> dict[bytes, bytes]:
    items = iter(elements_of(reply))
    return dict(zip(items, items, strict=True))
