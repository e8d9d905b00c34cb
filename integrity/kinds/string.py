"""Strings, bitmaps and HyperLogLogs.  Canonical form: the bytes; a HyperLogLog as its registers."""

from __future__ import annotations

from integrity.checksum import digest_bytes
from integrity.kinds.base import MalformedReply, plural
from integrity.kinds.hyperloglog import MAGIC, registers
from integrity.wire import Reply


class StringKind:
    """``string``"""

    name = "string"

    def read(self, key: bytes) -> bytes:
        return b"*2\r\n$3\r\nGET\r\n$%d\r\n%b\r\n" % (len(key), key)

    def digest(self, reply: Reply) -> bytes:
        if not isinstance(reply, bytes):
            raise MalformedReply("GET is no string")
        if reply.startswith(MAGIC):
            decoded = registers(reply)
            if decoded is not None:
                return digest_bytes(b"P" + decoded)
        return digest_bytes(b"S" + reply)

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
