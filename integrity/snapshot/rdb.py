"""Writing an RDB file from DUMP payloads: no value is decoded, its body goes into the file as the server gave it.

An entry is ``[FC expiry-ms] type key body``; a payload is ``type body footer``.  Format: Redis ``rdb.c``.
"""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import anycrc
import xxhash

from integrity.transfer.payload import FOOTER_BYTES

_AUX, _EXPIRY_MS, _SELECT_DB, _EOF = b"\xfa", b"\xfc", b"\xfe", b"\xff"
_FIRST_VALKEY_VERSION: Final = 80
"""Valkey 9 left Redis' numbering, and begins its files with its own name."""
_FLUSH_BYTES: Final = 1 << 20
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


def encode_entry(key: bytes, rdb_type: int, body: bytes, expiry_ms: int | None) -> tuple[bytes, int]:
    """One key's entry, and the offset of the body in it."""
    expiry = _EXPIRY_MS + expiry_ms.to_bytes(8, "little") if expiry_ms is not None else b""
    head = expiry + bytes([rdb_type]) + encode_string(key)
    return head + body, len(head)


class RdbWriter:
    """Writes one RDB file; use as a context manager.  Without :meth:`finish` the file is not loadable."""

    def __init__(self, path: Path, rdb_version: int, aux: dict[str, str]) -> None:
        self._file = path.open("xb")
        self._model = anycrc.Model("CRC64-REDIS")
        self._crc: int = 0
        self._xxh3 = xxhash.xxh3_128()
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self.size = 0
        self._database: int | None = None
        self._write(
            b"VALKEY%03d" % rdb_version
            if rdb_version >= _FIRST_VALKEY_VERSION
            else b"REDIS%04d" % rdb_version
        )
        for name, value in aux.items():
            self._write(_AUX + encode_string(name.encode()) + encode_string(value.encode()))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def select(self, database: int) -> None:
        """Entries that follow belong to *database*."""
        if database != self._database:
            self._write(_SELECT_DB + encode_length(database))
            self._database = database

    def add_payload(self, key: bytes, payload: bytes, expiry_ms: int | None) -> tuple[int, int]:
        """Add one key from its DUMP payload; returns offset and length of its body in the file."""
        return self.add(key, payload[0], payload[1:-FOOTER_BYTES], expiry_ms)

    def add(self, key: bytes, rdb_type: int, body: bytes, expiry_ms: int | None) -> tuple[int, int]:
        """Add one key; returns offset and length of its body in the file."""
        entry, head = encode_entry(key, rdb_type, body, expiry_ms)
        offset = self.size + head
        self._write(entry)
        return offset, len(body)

    def finish(self) -> None:
        """Write the end mark and the checksum, and flush to the disk."""
        self._write(_EOF)
        self._flush()
        trailer = self._crc.to_bytes(8, "little")
        self._file.write(trailer)
        self._xxh3.update(trailer)
        self.size += len(trailer)
        self._file.flush()
        os.fsync(self._file.fileno())

    @property
    def xxh3(self) -> str:
        """XXH3-128 of the finished file, 32 hexadecimal digits."""
        return self._xxh3.hexdigest()

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
        self._xxh3.update(data)
        self._file.write(data)
