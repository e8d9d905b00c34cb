"""Numbers of the RDB format: what one byte before a key says.

Sources: Redis ``rdb.h``, Valkey ``rdb.h``, Dragonfly ``rdb_extensions.h``; for Redis Enterprise librdb's ``defines.h``.
"""

from __future__ import annotations

from typing import Final

# Types of values.
STRING: Final = 0
LIST: Final = 1
SET: Final = 2
SORTED_SET_TEXT: Final = 3
"""Scores as text."""
HASH: Final = 4
SORTED_SET: Final = 5
MODULE_OLD: Final = 6
MODULE: Final = 7
HASH_ZIPMAP: Final = 9
LIST_ZIPLIST: Final = 10
SET_INTSET: Final = 11
SORTED_SET_ZIPLIST: Final = 12
HASH_ZIPLIST: Final = 13
LIST_QUICKLIST: Final = 14
STREAM: Final = 15
HASH_LISTPACK: Final = 16
SORTED_SET_LISTPACK: Final = 17
LIST_QUICKLIST_2: Final = 18
STREAM_2: Final = 19
SET_LISTPACK: Final = 20
STREAM_3: Final = 21
HASH_2: Final = 22
"""Valkey's hash whose fields expire; release candidates of Redis 7.4 used the number for a form of their own."""
HASH_LISTPACK_EXPIRING_OLD: Final = 23
HASH_EXPIRING: Final = 24
HASH_LISTPACK_EXPIRING: Final = 25
JSON: Final = 30
HASH_DRAGONFLY: Final = 31
SET_DRAGONFLY: Final = 32
BLOOM: Final = 33
BLOOM_CHUNKED: Final = 34
COUNT_MIN: Final = 35
TOP_K: Final = 36
CUCKOO: Final = 37

OF_DRAGONFLY: Final = frozenset(
    {JSON, HASH_DRAGONFLY, SET_DRAGONFLY, BLOOM, BLOOM_CHUNKED, COUNT_MIN, TOP_K, CUCKOO}
)

STREAM_FORMS: Final = {STREAM: 1, STREAM_2: 2, STREAM_3: 3}
"""Streams of Redis 5, 7.0 and 7.2."""
PAIRS: Final = frozenset(
    {
        SORTED_SET_TEXT,
        HASH,
        SORTED_SET,
        HASH_ZIPMAP,
        SORTED_SET_ZIPLIST,
        HASH_ZIPLIST,
        HASH_LISTPACK,
        SORTED_SET_LISTPACK,
        HASH_2,
        HASH_LISTPACK_EXPIRING_OLD,
        HASH_EXPIRING,
        HASH_LISTPACK_EXPIRING,
        HASH_DRAGONFLY,
    }
)
"""Types whose elements are two strings: hashes and sorted sets."""

LAST_TYPE: Final = 63
"""What is larger is no type of a value."""

# What may stand before a key instead of a type.
ENTERPRISE_LRU: Final = 107
ENTERPRISE_SLOT: Final = 121
DRAGONFLY_MASK: Final = 220
SLOT_INFO: Final = 244
FUNCTION: Final = 245
FUNCTION_OLD: Final = 246
MODULE_AUX: Final = 247
IDLE: Final = 248
FREQUENCY: Final = 249
AUX: Final = 250
RESIZE: Final = 251
EXPIRY_MS: Final = 252
EXPIRY_SECONDS: Final = 253
SELECT: Final = 254
END: Final = 255

# Versions.
FIRST_VALKEY_VERSION: Final = 80
"""Valkey 9 left Redis' numbering, and begins its files with its own name."""
NEWEST_REDIS_VERSION: Final = 13
NEWEST_VALKEY_VERSION: Final = 80
NEWEST_DRAGONFLY_VERSION: Final = 12
"""Later versions of Redis use Dragonfly's numbers for types of their own."""
FIRST_VERSION_WITH_CHECKSUM: Final = 5
