"""DUMP payloads, which RESTORE takes, made from bodies of an RDB file."""

from __future__ import annotations

from typing import Final

import anycrc

_CRC64: Final = anycrc.Model("CRC64-REDIS")


def payload_of(rdb_type: int, body: bytes, rdb_version: int) -> bytes:
    """A DUMP payload: type, body, RDB version, CRC-64."""
    data = bytes([rdb_type]) + body + rdb_version.to_bytes(2, "little")
    return data + int(_CRC64.calc(data)).to_bytes(8, "little")
