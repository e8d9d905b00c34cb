"""Lists.  Canonical form: the elements in order."""

from __future__ import annotations

from collections.abc import Sequence

from integrity.checksum import digest_bytes, digest_sequence
from integrity.kinds.base import MalformedReply, elements_of, plural
from integrity.replies import Reply


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
