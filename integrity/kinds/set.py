"""Sets.  Canonical form: the sum of the members' digests, with the count."""

from __future__ import annotations

from collections.abc import Sequence

from xxhash import xxh3_128_intdigest

from integrity.checksum import digest_unordered
from integrity.kinds.base import MalformedReply, elements_of, plural
from integrity.replies import Reply


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
        return f"{plural(len(left - right), 'member')} only on the source, {len(right - left):,} only on the target"
