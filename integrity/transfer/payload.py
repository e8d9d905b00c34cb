"""DUMP payloads: what their first byte says.

A payload is one RDB type byte, the body, two bytes of RDB version (little-endian) and eight of CRC-64.  The type
byte tells the kind without asking the server for it.  Values: Redis ``rdb.h``, Dragonfly ``rdb_extensions.h``.
"""

from __future__ import annotations

from typing import Final

FOOTER_BYTES: Final = 10

_TYPES: Final[dict[str, tuple[int, ...]]] = {
    "string": (0,),
    "list": (1, 10, 14, 18),
    "set": (2, 11, 20, 32),
    "zset": (3, 5, 12, 17),
    "hash": (4, 9, 13, 16, 22, 23, 24, 25, 31),
    "module": (6, 7),
    "stream": (15, 19, 21),
    "ReJSON-RL": (30,),
    "MBbloom--": (33, 34),
    "CMSk-TYPE": (35,),
    "TopK-TYPE": (36,),
    "MBbloomCF": (37,),
}
KIND_BY_RDB_TYPE: Final[tuple[str, ...]] = tuple(
    next((kind for kind, types in _TYPES.items() if number in types), f"rdb type {number}")
    for number in range(256)
)
"""Indexed by the payload's first byte."""


def rdb_version(payload: bytes) -> int:
    """The RDB version in a payload's footer."""
    return int.from_bytes(payload[-FOOTER_BYTES : -FOOTER_BYTES + 2], "little")
