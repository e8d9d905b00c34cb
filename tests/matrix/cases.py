"""Every case but streams: kinds, on both sides of every size at which a server changes its encoding.

A case whose name ends in ``in pieces`` is larger than the run's threshold for big values.
"""

from __future__ import annotations

import json
import time
from typing import Final

from tests.matrix.loader import Case, Loader, noise, pairs, words
from tests.matrix.stream_cases import STREAM_CASES

_HFE: Final = frozenset({b"HPEXPIRETIME"})
_DRAGONFLY: Final = frozenset({"dragonfly"})
_REDIS: Final = frozenset({"redis", "valkey"})
_COMPACT: Final = frozenset({"listpack", "ziplist"})
_TABLE: Final = frozenset({"hashtable"})
_HOUR: Final = 3_600_000
_DAY: Final = 24 * _HOUR
_YEAR: Final = 365 * _DAY
_HASH_LIMIT: Final = b"hash-max-ziplist-entries"
_ZSET_LIMIT: Final = b"zset-max-ziplist-entries"


def _now_ms() -> int:
    return int(time.time() * 1000)


# -- strings ---------------------------------------------------------------------------------------------------------


def _string(name: str, value: bytes, encodings: str = "raw", *, big: bool = False, key: bytes = b"") -> Case:
    def load(loader: Loader, place: bytes) -> None:
        loader(b"SET", place, value)

    return Case(f"string/{name}", load, frozenset(encodings.split()), big=big, key=key)


def _bitmap(loader: Loader, key: bytes) -> None:
    for bit in (0, 7, 1000, 100_000):
        loader(b"SETBIT", key, bit, 1)


def _appended(loader: Loader, key: bytes) -> None:
    loader(b"SET", key, b"12")
    loader(b"APPEND", key, b"3")


_STRINGS: Final = [
    _string("integer", b"12345", "int"),
    _string("smallest integer", b"-9223372036854775808", "int"),
    _string("leading zero", b"007", "embstr"),
    _string("empty", b"", "embstr"),
    # Where the limit lies depends on the version, and in the newest on the length of the key.
    _string("20 bytes", b"e" * 20, "embstr"),
    _string("44 bytes", b"e" * 44, "embstr raw"),
    _string("45 bytes", b"r" * 45, "embstr raw"),
    _string("200 bytes", b"r" * 200),
    _string("binary", bytes(range(256)) * 4),
    _string("binary name", b"value", "embstr raw", key=b"\r\n\x00$5\r\n" + bytes(range(256))),
    _string("UTF-8", "Grüße, 世界 🐉".encode(), "embstr raw"),
    _string("64 KB, compressible", b"abcdefgh" * 8192),
    _string("64 KB, random", noise(65_536)),
    _string("200 KB", noise(200_000)),
    _string("400 KB in pieces", noise(400_000, 2), big=True),
    Case("string/made by APPEND", _appended, frozenset({"raw", "embstr"})),
    Case("string/bitmap", _bitmap, frozenset({"raw"})),
]


# -- HyperLogLogs ----------------------------------------------------------------------------------------------------


def _hyperloglog(name: str, count: int, *, counted: bool = False) -> Case:
    def load(loader: Loader, key: bytes) -> None:
        loader(b"PFADD", key, *(b"visitor %d" % i for i in range(count)))
        if counted:
            loader(b"PFCOUNT", key)

    return Case(f"HyperLogLog/{name}", load)


def _empty_hyperloglog(loader: Loader, key: bytes) -> None:
    # What PFADD without elements makes; Dragonfly's PFADD wants one.
    loader(b"SET", key, b"HYLL\x01\0\0\0" + b"\0" * 7 + b"\x00" + b"\x7f\xff")


_HYPERLOGLOGS: Final = [
    Case("HyperLogLog/empty", _empty_hyperloglog),
    _hyperloglog("sparse", 100),
    _hyperloglog("sparse, counted", 100, counted=True),
    _hyperloglog("dense", 5000),
]


# -- lists -----------------------------------------------------------------------------------------------------------


def _list(name: str, elements: list[bytes], encodings: str = "quicklist", *, big: bool = False) -> Case:
    def load(loader: Loader, key: bytes) -> None:
        loader.many(b"RPUSH", key, elements)

    return Case(f"list/{name}", load, frozenset(encodings.split()), big=big)


_LISTS: Final = [
    _list("one element", [b"only"], "listpack quicklist"),
    _list("small", [b"a", b"", b"-1", b"12345678901", b"a", bytes(range(256))], "listpack quicklist"),
    _list("8 KB node exceeded", list(words(1000, 16))),
    _list("20 KB elements", [noise(20_000, i) for i in range(5)]),
    _list("in pieces", list(words(20_000, 32)), big=True),
]


# -- sets ------------------------------------------------------------------------------------------------------------


def _set(name: str, members: list[bytes], encodings: str, *, big: bool = False) -> Case:
    def load(loader: Loader, key: bytes) -> None:
        loader.many(b"SADD", key, members)

    return Case(f"set/{name}", load, frozenset(encodings.split()), big=big)


def _integers(name: str, beyond: int, encoding: str) -> Case:
    def load(loader: Loader, key: bytes) -> None:
        count = loader.limit(b"set-max-intset-entries") + beyond
        loader(b"SADD", key, *(i * 1_000_003 - 5_000_000 for i in range(count)))

    return Case(f"set/{name}", load, frozenset({encoding}))


def _expiring_members(count: int) -> list[Case]:
    def load(loader: Loader, key: bytes) -> None:
        loader(b"SADD", key, b"stays")
        members = list(words(count, 32))
        for start in range(0, count, 1000):
            loader(b"SADDEX", key, 30 * 24 * 3600, *members[start : start + 1000])

    big = count > 1000
    name = "set/member expiry (SADDEX)" + (" in pieces" if big else "")
    return [Case(name, load, needs=frozenset({b"SADDEX"}), big=big)]


_SETS: Final = [
    _set("integers", [b"3", b"-1", b"70000", b"9223372036854775807"], "intset"),
    _integers("integers, at the limit", 0, "intset"),
    _integers("integers, beyond the limit", 1, "hashtable"),
    _set("small", [b"a", b"", b"7", bytes(range(64))], "listpack hashtable"),
    _set("128 members", list(words(128)), "listpack hashtable"),
    _set("129 members", list(words(129)), "hashtable"),
    _set("65-byte member", [b"x" * 65, b"y"], "hashtable"),
    _set("in pieces", list(words(10_000, 48)), "hashtable", big=True),
    *_expiring_members(3),
    *_expiring_members(10_000),
]


# -- sorted sets -----------------------------------------------------------------------------------------------------


def _zset(
    name: str, scored: list[tuple[str, bytes]], encodings: frozenset[str], *, big: bool = False
) -> Case:
    def load(loader: Loader, key: bytes) -> None:
        loader.many(b"ZADD", key, [item for score, member in scored for item in (score, member)])

    return Case(f"zset/{name}", load, encodings, big=big)


def _zset_at_limit(name: str, beyond: int, encodings: frozenset[str]) -> Case:
    def load(loader: Loader, key: bytes) -> None:
        count = loader.limit(_ZSET_LIMIT) + beyond
        loader(b"ZADD", key, *(item for i in range(count) for item in (i * 0.37, b"member:%d" % i)))

    return Case(f"zset/{name}", load, encodings)


def _geo(loader: Loader, key: bytes) -> None:
    loader(b"GEOADD", key, 13.361389, 38.115556, b"Palermo", 15.087269, 37.502669, b"Catania")


_ODD_SCORES: Final = [
    ("inf", b"inf"), ("-inf", b"-inf"), ("-0.0", b"minus zero"), ("0", b"zero"), ("5e-324", b"smallest"),
    ("9007199254740993", b"2^53+1"), ("1e300", b"1e300"), ("0.30000000000000004", b"0.1+0.2"),
    ("1.7976931348623157e308", b"largest"), ("-1e-7", b"small"), ("1e21", b"1e21"),
]  # fmt: skip
_SKIPLIST: Final = frozenset({"skiplist"})

_ZSETS: Final = [
    _zset("odd scores", _ODD_SCORES, _COMPACT),
    _zset("odd scores, skip list", [*_ODD_SCORES, ("1", b"x" * 65)], _SKIPLIST),
    _zset("equal scores", [("1", word) for word in words(50)], _COMPACT),
    _zset("empty member", [("1", b""), ("2", bytes(range(64)))], _COMPACT),
    _zset_at_limit("at the limit", 0, _COMPACT),
    _zset_at_limit("beyond the limit", 1, _SKIPLIST),
    _zset("in pieces", [(str(i * 0.37), w) for i, w in enumerate(words(8000, 40))], _SKIPLIST, big=True),
    Case("zset/geo", _geo, _COMPACT),
]


# -- hashes ----------------------------------------------------------------------------------------------------------


def _hash(name: str, flat: list[bytes], encodings: frozenset[str], *, big: bool = False) -> Case:
    def load(loader: Loader, key: bytes) -> None:
        loader.many(b"HSET", key, flat)

    return Case(f"hash/{name}", load, encodings, big=big)


def _hash_at_limit(name: str, beyond: int, encodings: frozenset[str]) -> Case:
    def load(loader: Loader, key: bytes) -> None:
        loader(b"HSET", key, *pairs(loader.limit(_HASH_LIMIT) + beyond))

    return Case(f"hash/{name}", load, encodings)


def _field_expiry(
    name: str,
    count: int,
    expiring: int,
    away_ms: int = 40 * _DAY + 123,
    *,
    big: bool = False,
    then_ms: int = 0,
    engines: frozenset[str] = _REDIS | _DRAGONFLY,
) -> Case:
    """A hash of *count* fields of which the first *expiring* have an expiry, each at another time."""

    def load(loader: Loader, key: bytes) -> None:
        loader.many(b"HSET", key, pairs(count, 40 if big else 8))
        for i in range(min(expiring, 7)):
            # Distinct times, with distinct milliseconds: Dragonfly keeps whole seconds.
            part = [item for n in range(i, expiring, 7) for item in pairs(1, 40 if big else 8, n)]
            for start in range(0, len(part), 1000):
                loader.expire_fields(key, _now_ms() + away_ms + i * 137, part[start : start + 1000])
        if then_ms:
            loader(b"PEXPIREAT", key, _now_ms() + then_ms)

    return Case(f"hash/field expiry, {name}", load, needs=_HFE, big=big, engines=engines)


def _formerly(loader: Loader, key: bytes) -> None:
    flat = pairs(10)
    loader(b"HSET", key, *flat)
    loader.expire_fields(key, _now_ms() + _DAY, flat)
    loader.persist_fields(key, flat[::2])


def _fields_expired(loader: Loader, key: bytes) -> None:
    flat = pairs(6)
    loader(b"HSET", key, *flat)
    # A whole second at least, which is what Dragonfly can keep; the loader waits longer than that.
    loader.expire_fields(key, _now_ms() + 1001, flat[:4])


_HASHES: Final = [
    _hash("small", [b"field", b"value", b"", b"", b"empty", b"", b"n", b"-1", b"\0\r\n", b"\xff"], _COMPACT),
    _hash_at_limit("at the limit", 0, _COMPACT),
    _hash_at_limit("beyond the limit", 1, _TABLE),
    _hash("64-byte value", [b"f", b"v" * 64], _COMPACT),
    _hash("65-byte value", [b"f", b"v" * 65], _TABLE),
    _hash("5 KB value", [b"f", noise(5000), b"g", b"1"], _TABLE),
    _hash("in pieces", pairs(8000, 48), _TABLE, big=True),
    _field_expiry("small, some fields", 10, 3),
    _field_expiry("small, all fields", 7, 7),
    _field_expiry("large", 1200, 500),
    _field_expiry("in pieces", 8000, 3000, big=True),
    _field_expiry("and the key's own", 5, 2, 60 * _DAY, then_ms=90 * _DAY),
    _field_expiry("in 10 years", 5, 2, 10 * _YEAR, engines=_REDIS),
    Case("hash/field expiry taken back", _formerly, needs=_HFE),
    Case("hash/fields that expired", _fields_expired, needs=_HFE),
]


# -- JSON and modules ------------------------------------------------------------------------------------------------


def _json(name: str, document: object, *, big: bool = False) -> Case:
    def load(loader: Loader, key: bytes) -> None:
        loader(b"JSON.SET", key, b"$", json.dumps(document))

    return Case(f"JSON/{name}", load, needs=frozenset({b"JSON.SET"}), big=big)


def _bloom(loader: Loader, key: bytes) -> None:
    loader(b"BF.RESERVE", key, 0.01, 1000)
    loader(b"BF.ADD", key, b"member")


def _count_min(loader: Loader, key: bytes) -> None:
    loader(b"CMS.INITBYDIM", key, 100, 5)
    loader(b"CMS.INCRBY", key, b"member", 3)


def _vectors(loader: Loader, key: bytes) -> None:
    loader(b"VADD", key, b"VALUES", 3, 0.1, 0.2, 0.3, b"element")


_DOCUMENT: Final = {"b": [1, -2.5, 1e21, True, None, "x\u20acy"], "a": {"z": {}, "y": []}, "": ""}
_OTHERS: Final = [
    _json("object", _DOCUMENT),
    _json("scalar", "text"),
    _json("large integers", [9007199254740993, 12345678901234567890123]),
    _json("in pieces", [{"number": i, "text": "x" * 40} for i in range(4000)], big=True),
    Case("module/Bloom filter", _bloom, needs=frozenset({b"BF.RESERVE"})),
    Case("module/count-min sketch", _count_min, needs=frozenset({b"CMS.INITBYDIM"})),
    Case("module/vector set", _vectors, needs=frozenset({b"VADD"})),
]


# -- expiries --------------------------------------------------------------------------------------------------------


def _expiry(name: str, away_ms: int, *, engines: frozenset[str] = _REDIS | _DRAGONFLY, size: int = 5) -> Case:
    def load(loader: Loader, key: bytes) -> None:
        loader(b"SET", key, noise(size))
        loader(b"PEXPIREAT", key, _now_ms() + away_ms)

    return Case(f"expiry/{name}", load, engines=engines, big=size > 300_000)


def _expiring_hash(loader: Loader, key: bytes) -> None:
    loader(b"HSET", key, *pairs(3))
    loader(b"PEXPIREAT", key, _now_ms() + 10 * _YEAR)


_EXPIRIES: Final = [
    _expiry("90 minutes and 123 ms", 90 * 60_000 + 123),
    _expiry("40 days", 40 * _DAY),
    _expiry("8.4 years", 3066 * _DAY),
    # Dragonfly itself keeps none that are further away.
    _expiry("10 years", 10 * _YEAR, engines=_REDIS),
    _expiry("40 days, in pieces", 40 * _DAY, size=400_000),
    _expiry("10 years, in pieces", 10 * _YEAR, engines=_REDIS, size=400_000),
    Case("expiry/10 years, of a hash", _expiring_hash, engines=_REDIS),
]

CASES: Final = (
    *_STRINGS, *_HYPERLOGLOGS, *_LISTS, *_SETS, *_ZSETS, *_HASHES, *STREAM_CASES, *_OTHERS, *_EXPIRIES,
)  # fmt: skip
"""In the order of the tables."""
