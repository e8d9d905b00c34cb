"""JSON documents (RedisJSON, Dragonfly).  Canonical form: the parsed document, object keys sorted, no white space."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence

from integrity.checksum import digest_bytes
from integrity.kinds.base import MalformedReply
from integrity.kinds.pieces import Piece, PieceSize, PieceWriter, ValueChanged, ask
from integrity.replies import Reply
from integrity.wire import Connection, pack


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

    def pieces(self, connection: Connection, key: bytes, size: int, limit: PieceSize) -> Iterator[Piece]:
        """One piece: a document has no parts that could be asked for by position."""
        content = ask(connection, b"JSON.GET", key)
        if content is None:
            raise ValueChanged("it is gone")
        yield Piece(content)

    def hasher(self) -> JsonHasher:
        return JsonHasher()

    def write(self, target: Connection, key: bytes, pieces: Iterable[Piece]) -> tuple[str, ...]:
        with PieceWriter(target) as writer:
            for piece in pieces:
                if isinstance(piece.content, bytes):
                    writer.send([pack(b"JSON.SET", key, b"$", piece.content)])
        return ()


class JsonHasher:
    """The digest of a document that comes as one piece."""

    def __init__(self) -> None:
        self.size = 0
        self._digest = b""

    def add(self, piece: Piece) -> None:
        """Take the piece in."""
        kind = JsonKind()
        self.size, self._digest = kind.size(piece.content), kind.digest(piece.content)

    def digest(self) -> bytes:
        """16 bytes."""
        return self._digest
