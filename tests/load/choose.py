"""The next command on a key of each kind: one that its present state allows, so that a server must accept it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final, TypeVar

from tests.load.journal import Command
from tests.load.state import Group, Keyspace, Stream
from tests.load.streams import format_id

_T = TypeVar("_T")
_HOUR_MS: Final = 3_600_000
_GROUPS: Final = (b"billing", b"audit")
_CONSUMERS: Final = (b"anna", b"ben", b"cleo")


@dataclass(slots=True)
class Draw:
    """What a choice is made from."""

    rng: Random
    space: Keyspace
    now_ms: int = 0

    def below(self, end: int) -> int:
        """A whole number from 0; five times as fast as ``randrange``."""
        return int(self.rng.random() * end)

    def one(self, choices: Sequence[_T]) -> _T:
        """One of them."""
        return choices[int(self.rng.random() * len(choices))]

    def value(self, most: int = 60) -> bytes:
        """Any bytes, at least eight, so that no two are the same."""
        return self.rng.randbytes(8 + self.below(most))

    def later(self) -> bytes:
        """A moment (Unix milliseconds) after any test."""
        return b"%d" % (self.now_ms + _HOUR_MS + self.below(_HOUR_MS))


def string(draw: Draw, key: bytes, other: bytes) -> Command:
    held = draw.space.text(key)
    if held is not None and len(held.data) > 2000:
        return b"SET", key, draw.value()
    match draw.below(14):
        case 0:
            return b"SET", key, draw.value(), b"EX", b"%d" % (3600 + draw.below(3600))
        case 1:
            return b"SET", key, draw.value(), b"PX", b"%d" % (_HOUR_MS + draw.below(_HOUR_MS))
        case 2:
            return b"SET", key, draw.value(), b"PXAT", draw.later()
        case 3:
            return b"SET", key, draw.value(), b"KEEPTTL"
        case 4:
            return b"SET", key, draw.value(), b"NX"
        case 5:
            return b"SET", key, draw.value(), b"XX"
        case 6:
            return b"APPEND", key, draw.value()
        case 7:
            return b"SETRANGE", key, b"%d" % draw.below(100), draw.value()
        case 8:
            return b"GETSET", key, draw.value()
        case 9:
            return b"GETDEL", key
        case 10:
            return b"GETEX", key, b"EX", b"%d" % (3600 + draw.below(3600))
        case 11:
            return b"GETEX", key, b"PERSIST"
        case 12:
            return b"MSET", key, draw.value(), other, draw.value()
    return b"SET", key, draw.value(200)


def counter(draw: Draw, key: bytes, other: bytes) -> Command:
    """Only ever up, so that an increment that was done twice is told from one that was lost."""
    return (b"INCR", key) if draw.below(2) else (b"INCRBY", key, b"%d" % (1 + draw.below(1000)))


def fraction(draw: Draw, key: bytes, other: bytes) -> Command:
    """Quarters are exact in every representation that a server may choose."""
    return b"INCRBYFLOAT", key, draw.one((b"0.25", b"1.5", b"12.75"))


def bitmap(draw: Draw, key: bytes, other: bytes) -> Command:
    return b"SETBIT", key, b"%d" % draw.below(2000), draw.one((b"0", b"1", b"1"))


def hash_(draw: Draw, key: bytes, other: bytes) -> Command:
    held = draw.space.fields(key)
    present = list(held.fields) if held else []
    if len(present) > 25:
        return b"HDEL", key, *present[:12]
    match draw.below(8):
        case 0 | 1 if present:
            return b"HDEL", key, draw.one(present)
        case 2 | 3 | 4:
            return b"HINCRBY", key, b"count%d" % draw.below(4), b"%d" % (1 + draw.below(9))
        case 5:
            return b"HSET", key, b"a", draw.value(), b"b", draw.value()
    return b"HSET", key, b"field%d" % draw.below(60), draw.value()


def list_(draw: Draw, key: bytes, other: bytes) -> Command:
    held = draw.space.items(key)
    items = held.items if held else []
    if len(items) > 12:
        return b"LTRIM", key, b"2", b"7"
    match draw.below(14):
        case 0 | 1:
            return b"LPUSH", key, draw.value(), draw.value()
        case 2:
            return b"LPOP", key
        case 3:
            return b"RPOP", key
        case 4 if items:
            return b"LSET", key, b"%d" % draw.below(len(items)), draw.value()
        case 5 if items:
            return b"LINSERT", key, draw.one((b"BEFORE", b"AFTER")), draw.one(items), draw.value()
        case 6:
            return b"RPOPLPUSH", key, draw.one((key, other))
        case 7:
            return b"LMOVE", key, other, draw.one((b"LEFT", b"RIGHT")), draw.one((b"LEFT", b"RIGHT"))
        case 8 if items:
            return b"LREM", key, b"0", draw.one(items)
        case 9 if len(items) > 3:
            return b"LTRIM", key, b"1", b"%d" % (len(items) - 2)
    return b"RPUSH", key, *(draw.value() for _ in range(1 + draw.below(3)))


def set_(draw: Draw, key: bytes, other: bytes) -> Command:
    held = draw.space.members(key)
    present = list(held.members) if held else []
    if len(present) > 25:
        return b"SREM", key, *present[:15]
    match draw.below(8):
        case 0 if present:
            return b"SREM", key, draw.one(present)
        case 1:
            return b"SPOP", key
        case 2 if present:
            return b"SMOVE", key, other, draw.one(present)
        case 3:
            return b"SADD", key, *(b"%d" % draw.below(500) for _ in range(3))
    return b"SADD", key, draw.value()


def sorted_set(draw: Draw, key: bytes, other: bytes) -> Command:
    held = draw.space.scores(key)
    present = list(held.scores) if held else []
    if len(present) > 15:
        return b"ZREMRANGEBYRANK", key, b"0", b"9"
    match draw.below(9):
        case 0 if present:
            return b"ZREM", key, draw.one(present)
        case 1:
            return b"ZPOPMIN", key
        case 2:
            return b"ZRANGESTORE", other, key, b"0", b"%d" % draw.below(20)
        case 6 if len(present) > 3:
            return b"ZREMRANGEBYRANK", key, b"0", b"1"
        case 3 | 4 | 5:
            return b"ZINCRBY", key, draw.one((b"0.25", b"3", b"10.5")), b"player%d" % draw.below(20)
    return b"ZADD", key, b"%.2f" % (draw.below(400) / 4), draw.value(), b"-2.5", b"player%d" % draw.below(20)


def hyperloglog(draw: Draw, key: bytes, other: bytes) -> Command:
    return b"PFADD", key, *(draw.value(20) for _ in range(1 + draw.below(3)))


def stream(draw: Draw, key: bytes, other: bytes) -> Command:
    held = draw.space.stream(key)
    if held is not None:
        missing = [name for name in _GROUPS if name not in held.groups]
        if len(held.entries) > 20:
            return b"XTRIM", key, b"MAXLEN", b"=", b"12"
        match draw.below(10):
            case 0 | 1 | 2 if missing:
                return b"XGROUP", b"CREATE", key, missing[0], draw.one((b"0", b"$")), b"MKSTREAM"
            case 0 if draw.below(20) == 0:
                return b"XGROUP", b"DESTROY", key, draw.one(_GROUPS)
            case 0 if held.entries and draw.below(3) == 0:
                return b"XDEL", key, format_id(draw.one(list(held.entries)))
            case 1 if len(held.entries) > 4:
                return b"XTRIM", key, b"MAXLEN", b"=", b"%d" % (len(held.entries) - 2)
            case 2 | 3 | 4 | 5 | 6 if held.groups:
                name = draw.one(list(held.groups))
                return _consume(draw, key, name, held, held.groups[name])
    parts = (b"order", b"%d" % draw.below(10**9), b"note", draw.value())
    # The application's own ids are of the same clock as the server's.
    if held is not None and held.last < (draw.now_ms, 0) and draw.below(4) == 0:
        return b"XADD", key, format_id((draw.now_ms, draw.below(5) + 1)), *parts
    return b"XADD", key, b"*", *parts


def _consume(draw: Draw, key: bytes, name: bytes, held: Stream, group: Group) -> Command:
    pending = list(group.pending)
    choice = draw.below(10)
    if pending and (choice < 4 or len(pending) > 40):
        some = pending[: 1 + draw.below(8)]
        return b"XACK", key, name, *map(format_id, some)
    if choice == 4 and (claimable := [identifier for identifier in pending if identifier in held.entries]):
        return b"XCLAIM", key, name, draw.one(_CONSUMERS), b"0", *map(format_id, claimable[:3])
    count = b"%d" % (1 + draw.below(10))
    return b"XREADGROUP", b"GROUP", name, draw.one(_CONSUMERS), b"COUNT", count, b"STREAMS", key, b">"


CHOOSERS: Final[dict[str, Callable[[Draw, bytes, bytes], Command]]] = {
    "string": string,
    "counter": counter,
    "fraction": fraction,
    "bitmap": bitmap,
    "hash": hash_,
    "list": list_,
    "set": set_,
    "zset": sorted_set,
    "hll": hyperloglog,
    "stream": stream,
}
"""By the kind that a key carries in its name."""
