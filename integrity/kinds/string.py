"""Strings, bitmaps and HyperLogLogs.  Canonical form: the bytes; a HyperLogLog as its registers."""

from __future__ import annotations

from collections.abc import Sequence

from integrity.checksum import digest_bytes
from integrity.kinds.base import MalformedReply, plural
from integrity.kinds.hyperloglog import MAGIC, registers
from integrity.replies import Reply


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
