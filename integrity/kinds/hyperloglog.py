"""HyperLogLog: a string whose header caches a cardinality that reading may rewrite.

Canonical form: the 16,384 decoded registers.  The encoding (sparse or dense) and the cached cardinality (bytes 8–15)
are left out; everything else counts.  Layout: Redis ``hyperloglog.c``.
"""

from __future__ import annotations

from typing import Final

MAGIC: Final = b"HYLL"
REGISTERS: Final = 16_384
_HEADER: Final = 16
_DENSE, _SPARSE = 0, 1
_DENSE_BYTES: Final = _HEADER + REGISTERS * 6 // 8
LONGEST: Final = _HEADER + 2 * REGISTERS
"""No well-formed HyperLogLog has more bytes: each sparse opcode covers at least one register with at most two bytes."""


def registers(value: bytes) -> bytes | None:
    """The registers, one byte each, or None where *value* is not a well-formed HyperLogLog."""
    if len(value) < _HEADER or value[:4] != MAGIC or value[5:8] != b"\0\0\0":
        return None
    if value[4] == _DENSE:
        return _dense(value) if len(value) == _DENSE_BYTES else None
    return _sparse(value) if value[4] == _SPARSE else None


def _dense(value: bytes) -> bytes:
    import numpy as np

    packed = np.frombuffer(value, dtype=np.uint8, offset=_HEADER).reshape(-1, 3).astype(np.uint32)
    word = packed[:, 0] | packed[:, 1] << 8 | packed[:, 2] << 16
    return np.stack([word >> shift & 63 for shift in (0, 6, 12, 18)], axis=1).astype(np.uint8).tobytes()


def _sparse(value: bytes) -> bytes | None:
    parts: list[bytes] = []
    count, at, end = 0, _HEADER, len(value)
    while at < end:
        opcode = value[at]
        at += 1
        if opcode & 0x80:
            run, register = (opcode & 3) + 1, (opcode >> 2 & 31) + 1
        elif opcode & 0x40:
            if at == end:
                return None
            run, register = ((opcode & 63) << 8 | value[at]) + 1, 0
            at += 1
        else:
            run, register = (opcode & 63) + 1, 0
        parts.append(bytes([register]) * run)
        count += run
    return b"".join(parts) if count == REGISTERS else None
