"""Writing an RDB file from bodies: those of DUMP payloads go into it as the server gave them, none is decoded.

An entry is ``[FC expiry-ms] type key body``; a payload is ``type body footer``.  Format: Redis ``rdb.c``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, TypeAlias

import anycrc
from xxhash import xxh3_64, xxh3_64_intdigest

from integrity.snapshot.files import Sink
from integrity.transfer.payload import FOOTER_BYTES

_EXPIRY_MS, _SELECT_DB = b"\xfc", b"\xfe"
AUX: Final = b"\xfa"
EOF: Final = b"\xff"
_FIRST_VALKEY_VERSION: Final = 80
"""Valkey 9 left Redis' numbering, and begins its files with its own name."""
_FLUSH_BYTES: Final = 1 << 20
Placed: TypeAlias = tuple[int, int, int]
"""Offset and length of a key's body in the file, and its XXH3-64."""
OLDEST_RDB_VERSION: Final = 9
"""Written where the source holds no key whose payload could tell the version."""


def encode_length(length: int) -> bytes:
    """RDB length encoding."""
    if length < 1 << 6:
        return bytes([length])
    if length < 1 << 14:
        return (0x4000 | length).to_bytes(2, "big")
    if length < 1 << 32:
        return b"\x80" + length.to_bytes(4, "big")
    return b"\x81" + length.to_bytes(8, "big")


def encode_string(text: bytes) -> bytes:
    """Length-prefixed, not compressed."""
    return encode_length(len(text)) + text


def encode_select(database: int) -> bytes:
    """Entries that follow belong to *database*."""
    return _SELECT_DB + encode_length(database)


def encode_entry_head(key: bytes, rdb_type: int, expiry_ms: int | None) -> bytes:
    """What stands before one key's body."""
    expiry = _EXPIRY_MS + expiry_ms.to_bytes(8, "little") if expiry_ms is not None else b""
    return expiry + bytes([rdb_type]) + encode_string(key)


def magic(rdb_version: int) -> bytes:
    """The first nine bytes of a file."""
    return b"VALKEY%03d" % rdb_version if rdb_version >= _FIRST_VALKEY_VERSION else b"REDIS%04d" % rdb_version


class RdbWriter:
    """Writes one RDB file into *sink*.  Without :meth:`finish` the file is not loadable."""

    def __init__(self, sink: Sink, rdb_version: int, aux: dict[str, str]) -> None:
        self._sink = sink
        self._model = anycrc.Model("CRC64-REDIS")
        self._crc: int = 0
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self.size = 0
        self._database: int | None = None
        self._write(magic(rdb_version))
        for name, value in aux.items():
            self._write(AUX + encode_string(name.encode()) + encode_string(value.encode()))

    def select(self, database: int) -> None:
        """Entries that follow belong to *database*."""
        if database != self._database:
            self._write(encode_select(database))
            self._database = database

    def add_payload(self, key: bytes, payload: bytes, expiry_ms: int | None) -> Placed:
        """Add one key from its DUMP payload."""
        return self.add(key, payload[0], payload[1:-FOOTER_BYTES], expiry_ms)

    def add(self, key: bytes, rdb_type: int, body: bytes, expiry_ms: int | None) -> Placed:
        """Add one key."""
        self._write(encode_entry_head(key, rdb_type, expiry_ms))
        offset = self.size
        self._write(body)
        return offset, len(body), xxh3_64_intdigest(body)

    def add_chunks(self, key: bytes, rdb_type: int, chunks: Iterable[bytes], expiry_ms: int | None) -> Placed:
        """Add one key whose body comes in parts."""
        self._write(encode_entry_head(key, rdb_type, expiry_ms))
        offset, state = self.size, xxh3_64()
        for chunk in chunks:
            state.update(chunk)
            self._write(chunk)
        return offset, self.size - offset, state.intdigest()

    def finish(self) -> None:
        """Write the end mark and the checksum."""
        self._write(EOF)
        self._flush()
        trailer = self._crc.to_bytes(8, "little")
        self._sink.write(trailer)
        self.size += len(trailer)

    def _write(self, data: bytes) -> None:
        self._pending.append(data)
        self._pending_bytes += len(data)
        self.size += len(data)
        if self._pending_bytes >= _FLUSH_BYTES:
            self._flush()

    def _flush(self) -> None:
        data = b"".join(self._pending)
        self._pending.clear()
        self._pending_bytes = 0
        self._crc = self._model.calc(data, self._crc)
        self._sink.write(data)
