"""DUMP payloads: what their first byte says.

A payload is one RDB type byte, the body, two bytes of RDB version (little-endian) and eight of CRC-64.  The type
byte tells the kind without asking the server for it.  Values: Redis ``rdb.h``, Dragonfly ``rdb_extensions.h``.
"""

from __future__ import annotations

from typing import Final

import anycrc

from integrity.replies import ErrorReply, Reply
from integrity.transfer.downgrade import STREAM_7_0, STREAM_7_2, stream_for_7_0

FOOTER_BYTES: Final = 10
_CRC64: Final = anycrc.Model("CRC64-REDIS")
_WRONG_VERSION: Final = "version or checksum"
_WRONG_FORM: Final = "Bad data format"

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


def lowest_rdb_version(rdb_type: int) -> int | None:
    """The oldest RDB version whose servers can read this type byte; None for types that only newer ones know."""
    if rdb_type <= 15:
        return 9  # Redis 5 to 6.2
    if rdb_type <= 19:
        return 10  # Redis 7.0
    return 11 if rdb_type <= 21 else None  # Redis 7.2


def with_rdb_version(payload: bytes, version: int) -> bytes:
    """The same payload under another RDB version, its CRC-64 computed anew."""
    body = payload[:-FOOTER_BYTES] + version.to_bytes(2, "little")
    return body + int(_CRC64.calc(body)).to_bytes(8, "little")


def for_older_server(payload: bytes, refusal: Reply) -> bytes | None:
    """The payload in the form of an older server, where *refusal* says that this may help; None where it cannot.

    Whether it arrived as the same value is for the verification to say, as for every key.
    """
    return relabelled(payload, refusal) or downgraded(payload, refusal)


def relabelled(payload: bytes, refusal: Reply) -> bytes | None:
    """The payload under the oldest RDB version that has its type, where *refusal* is about the version alone.

    A newer server writes the same body under a newer version (Valkey 9 writes 80, Redis 8.6 writes 13).
    """
    if not isinstance(refusal, ErrorReply) or _WRONG_VERSION not in str(refusal):
        return None
    version = lowest_rdb_version(payload[0])
    if version is None or version >= rdb_version(payload):
        return None
    return with_rdb_version(payload, version)


def downgraded(payload: bytes, refusal: Reply) -> bytes | None:
    """A stream of Redis 7.2 or Dragonfly as one of Redis 7.0, where *refusal* is about version or type.

    The two differ by times that no checksum holds.
    """
    if payload[0] != STREAM_7_2 or not isinstance(refusal, ErrorReply):
        return None
    if _WRONG_VERSION not in str(refusal) and _WRONG_FORM not in str(refusal):
        return None
    body, version = stream_for_7_0(payload[1:-FOOTER_BYTES]), lowest_rdb_version(STREAM_7_0)
    if body is None or version is None:
        return None
    return with_rdb_version(bytes([STREAM_7_0]) + body + bytes(FOOTER_BYTES), version)
