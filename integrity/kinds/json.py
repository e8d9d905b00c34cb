"""JSON documents (RedisJSON, Dragonfly).  Canonical form: the parsed document, object keys sorted, no white space."""

from __future__ import annotations

import json
from collections.abc import Sequence

from integrity.checksum import digest_bytes
from integrity.kinds.base import MalformedReply
from integrity.replies import Reply


class JsonKind:
    """``ReJSON-RL``"""

    name = "ReJSON-RL"
    prefix = b"*2\r\n$8\r\nJSON.GET\r\n"
    suffix = b""

    def digest(self, reply: Reply) -> bytes:
        return digest_bytes(b"J" + self._canonical(reply))

    def _canonical(self, reply: Reply) -> bytes:
        if not isinstance(reply, bytes):
            raise MalformedReply("JSON.GET is no string")
        try:
            document = json.loads(reply)
        except ValueError as error:
            raise MalformedReply("JSON.GET is no JSON") from error
        return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode("ascii")

    def digests(self, replies: Sequence[Reply]) -> list[bytes]:
        return [self.digest(reply) for reply in replies]

    def size(self, reply: Reply) -> int:
        return len(reply) if isinstance(reply, bytes) else 0

    def difference(self, source: Reply, target: Reply) -> str:
        left, right = self._canonical(source), self._canonical(target)
        return f"another document ({len(left):,} bytes in canonical form against {len(right):,})"
