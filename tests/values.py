"""Values of every kind, made from random numbers: their shapes, the commands that write them, and from one to another.

Shared by what tries thousands of values: :mod:`tests.mutations` damages them, the tests about pieces and typed
rewriting read and write them.  Nothing here comes from the engine.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from random import Random
from time import time
from typing import Final, TypeAlias

from tests.raw import Argument, Raw, Reply, UnexpectedReply

Command: TypeAlias = tuple[Argument, ...]
Id: TypeAlias = tuple[int, int]
_IN_FLIGHT: Final = 500
_START: Final = 1_700_000_000_000
LATER_S: Final = int(time()) + 3600
"""From here on fields expire: ahead of now, and within what Dragonfly can keep."""


def send(raw: Raw, commands: list[Command]) -> list[Reply]:
    """Send commands, not too many at once.

    :raises UnexpectedReply: one of them was answered with an error.
    """
    replies: list[Reply] = []
    for start in range(0, len(commands), _IN_FLIGHT):
        part = commands[start : start + _IN_FLIGHT]
        for command, reply in zip(part, raw.many(part), strict=True):
            if isinstance(reply, Exception):
                raise UnexpectedReply(f"{command!r}: {reply}")
            replies.append(reply)
    return replies


def name_of(identifier: Id) -> bytes:
    """``1700000000000-3``"""
    return b"%d-%d" % identifier


# -- the shapes --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Text:
    """A string, a bitmap, or a HyperLogLog."""

    data: bytes

    def write(self, key: bytes) -> list[Command]:
        return [(b"SET", key, self.data)]


@dataclass(frozen=True, slots=True)
class Items:
    """A list."""

    items: tuple[bytes, ...]

    def write(self, key: bytes) -> list[Command]:
        return [(b"RPUSH", key, *self.items)]


@dataclass(frozen=True, slots=True)
class Members:
    """A set."""

    members: frozenset[bytes]

    def write(self, key: bytes) -> list[Command]:
        return [(b"SADD", key, *sorted(self.members))]


@dataclass(frozen=True, slots=True)
class Fields:
    """A hash; some fields may expire, where the server has that."""

    fields: dict[bytes, bytes]
    expiries: dict[bytes, int]
    """Field → absolute expiry in whole seconds."""

    def write(self, key: bytes) -> list[Command]:
        flat = [part for pair in self.fields.items() for part in pair]
        expiring = [
            (b"HSETEX", key, b"PXAT", at * 1000, b"FIELDS", 1, field, self.fields[field])
            for field, at in self.expiries.items()
        ]
        return [(b"HSET", key, *flat), *expiring]


@dataclass(frozen=True, slots=True)
class Scores:
    """A sorted set."""

    scores: dict[bytes, float]

    def write(self, key: bytes) -> list[Command]:
        return [(b"ZADD", key, *(p for member, s in self.scores.items() for p in (repr(s), member)))]


@dataclass(frozen=True, slots=True)
class Group:
    """A consumer group of a stream."""

    name: bytes
    last: Id
    consumers: tuple[bytes, ...]
    pending: tuple[tuple[Id, bytes, int], ...]
    """Id, consumer, delivery count."""


@dataclass(frozen=True, slots=True)
class Log:
    """A stream."""

    entries: dict[Id, tuple[bytes, ...]]
    deleted: frozenset[Id]
    """Ids that were added and deleted again; pending entries may be among them."""
    last: Id
    groups: tuple[Group, ...]

    def write(self, key: bytes) -> list[Command]:
        everything = self.entries | dict.fromkeys(self.deleted, (b"deleted", b""))
        commands: list[Command] = [
            (b"XADD", key, name_of(identifier), *everything[identifier]) for identifier in sorted(everything)
        ]
        for group in self.groups:
            commands.append((b"XGROUP", b"CREATE", key, group.name, name_of(group.last)))
            commands += [
                (b"XGROUP", b"CREATECONSUMER", key, group.name, consumer) for consumer in group.consumers
            ]
            for identifier, consumer, count in group.pending:
                claim = (b"XCLAIM", key, group.name, consumer, 0, name_of(identifier))
                commands.append((*claim, b"RETRYCOUNT", count, b"FORCE", b"JUSTID"))
        if self.deleted:
            commands.append((b"XDEL", key, *map(name_of, sorted(self.deleted))))
        return [*commands, (b"XSETID", key, name_of(self.last))]


@dataclass(frozen=True, slots=True)
class Document:
    """A JSON document."""

    root: object

    def write(self, key: bytes) -> list[Command]:
        return [(b"JSON.SET", key, b"$", json.dumps(self.root))]


Value: TypeAlias = Text | Items | Members | Fields | Scores | Log | Document


def rebuild(key: bytes, value: Value, expiry_ms: int | None) -> list[Command]:
    """The commands that put a value in the place of whatever is there."""
    expire: list[Command] = [] if expiry_ms is None else [(b"PEXPIREAT", key, expiry_ms)]
    return [(b"DEL", key), *value.write(key), *expire]


def change(key: bytes, old: Value, new: Value, expiry_ms: int | None) -> list[Command]:
    """The commands that turn one value into another, touching as little as the type allows; no expiry is lost.

    Streams are made anew, and documents, because JSON.SET drops the expiry on Dragonfly.
    """
    match old, new:
        case Text(a), Text(b):
            at = [i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y]
            if len(a) == len(b) and len(at) == 1:
                return [(b"SETRANGE", key, at[0], b[at[0] : at[0] + 1])]
            if b.startswith(a):
                return [(b"APPEND", key, b[len(a) :])]
            return [(b"SET", key, b, b"KEEPTTL")]
        case Items(a), Items(b) if len(a) == len(b):
            return [(b"LSET", key, i, y) for i, (x, y) in enumerate(zip(a, b, strict=True)) if x != y]
        case Items(a), Items(b) if b[: len(a)] == a:
            return [(b"RPUSH", key, *b[len(a) :])]
        case Items(a), Items(b) if a[: len(b)] == b and b:
            return [(b"LTRIM", key, 0, len(b) - 1)]
        case Members(a), Members(b) if b:
            # In, then out: a set that is empty in between would lose its expiry.
            added: list[Command] = [(b"SADD", key, *sorted(b - a))] if b - a else []
            return added + ([(b"SREM", key, *sorted(a - b))] if a - b else [])
        case Fields(a, expiring), Fields(b, also) if b and not expiring and not also:
            written: list[Command] = [(b"HSET", key, f, v) for f, v in b.items() if a.get(f) != v]
            return written + [(b"HDEL", key, f) for f in a.keys() - b.keys()]
        case Scores(a), Scores(b) if b:
            scored: list[Command] = [
                (b"ZADD", key, repr(s), m) for m, s in b.items() if m not in a or repr(a[m]) != repr(s)
            ]
            return scored + [(b"ZREM", key, m) for m in a.keys() - b.keys()]
    return rebuild(key, new, expiry_ms)


# -- making them -------------------------------------------------------------------------------------------------------

_ODD_TEXTS: Final = (
    *(b"", b"0", b"-1", b"007", b"1.50", b"9223372036854775807", b"-9223372036854775808", b"\0"),
    *(b"\r\n", b"*1\r\n$4\r\nPING\r\n", b"HYLL", b"\xff\xfe", b" ", "ключ 鍵 🔑".encode(), b"nan", b"inf"),
)
_ODD_SCORES: Final = (
    *(inf, -inf, 0.0, 1.0, -1.0, 5e-324, -5e-324, 1.7976931348623157e308, 0.1 + 0.2, 2.0**53, 2.0**53 + 2),
    *(1e-7, 1e21, 3.141592653589793, 123456789.125, -1e300, 2.2250738585072014e-308),
)
_COMPACT: Final = 130
"""More elements than a server keeps in its compact encoding of a sorted set."""


def some_bytes(rng: Random, most: int = 40) -> bytes:
    """Text, numbers, or any bytes at all."""
    match rng.randrange(8):
        case 0:
            return rng.choice(_ODD_TEXTS)
        case 1:
            return b"%d" % (rng.getrandbits(rng.randrange(1, 65)) * rng.choice((1, -1)))
        case 2:
            return b"word-%x" % rng.getrandbits(24)
        case 3 if most >= 40:
            return rng.randbytes(rng.randrange(60, 90))  # around the 64 bytes of the compact encodings
        case _:
            return rng.randbytes(rng.randrange(most))


def some_score(rng: Random) -> float:
    """Any double but NaN, often an odd one."""
    match rng.randrange(4):
        case 0:
            return rng.choice(_ODD_SCORES)
        case 1:
            return float(rng.randrange(-1000, 1000))
        case 2:
            return rng.uniform(-1e6, 1e6)
    score: float = struct.unpack("<d", rng.randbytes(8))[0]
    return score if score == score else 1.5  # noqa: PLR0124  (NaN is no score)


def _count(rng: Random) -> int:
    return rng.randrange(_COMPACT, 2 * _COMPACT) if rng.randrange(25) == 0 else rng.randrange(1, 14)


def make_text(rng: Random) -> Text:
    """A string: short, odd, compressible, long."""
    match rng.randrange(10):
        case 0:
            return Text(rng.randbytes(rng.randrange(1000, 6000)))
        case 1:
            return Text(b"abcdefgh" * rng.randrange(20, 400))
        case _:
            return Text(some_bytes(rng, 200))


def make_hyperloglog(rng: Random) -> Text:
    """A HyperLogLog as its bytes; one in four dense."""
    registers = [0] * 16_384
    for _ in range(rng.randrange(1, 60)):
        registers[rng.randrange(16_384)] = rng.randrange(1, 32)
    cache = rng.randbytes(7) + bytes([rng.getrandbits(8)])
    if rng.randrange(4) == 0:
        number = sum(value << 6 * index for index, value in enumerate(registers) if value)
        return Text(b"HYLL\0\0\0\0" + cache + number.to_bytes(12_288, "little"))
    return Text(b"HYLL\1\0\0\0" + cache + _sparse(registers))


def _sparse(registers: list[int]) -> bytes:
    out, at = bytearray(), 0
    while at < len(registers):
        value, run = registers[at], 1
        limit = 16_384 if value == 0 else 4
        while at + run < len(registers) and registers[at + run] == value and run < limit:
            run += 1
        if value:
            out.append(0x80 | value - 1 << 2 | run - 1)
        elif run <= 64:
            out.append(run - 1)
        else:
            out += bytes([0x40 | run - 1 >> 8, run - 1 & 255])
        at += run
    return bytes(out)


def make_items(rng: Random) -> Items:
    """A list."""
    return Items(tuple(some_bytes(rng) for _ in range(_count(rng))))


def make_members(rng: Random) -> Members:
    """A set of words and bytes, or of numbers only."""
    count = _count(rng)
    if rng.randrange(4) == 0:
        return Members(frozenset(b"%d" % rng.randrange(-(2**31), 2**31) for _ in range(count)))
    return Members(frozenset(some_bytes(rng) for _ in range(count)))


def make_fields(rng: Random) -> Fields:
    """A hash without expiring fields."""
    return Fields({some_bytes(rng): some_bytes(rng) for _ in range(_count(rng))}, {})


def make_expiring_fields(rng: Random) -> Fields:
    """A hash of which some fields expire, in an hour to ten days."""
    fields = {some_bytes(rng): some_bytes(rng) for _ in range(_count(rng))}
    chosen = rng.sample(sorted(fields), rng.randrange(1, len(fields) + 1))
    return Fields(fields, {field: LATER_S + rng.randrange(864_000) for field in chosen})


def make_scores(rng: Random) -> Scores:
    """A sorted set."""
    return Scores({some_bytes(rng): some_score(rng) for _ in range(_count(rng))})


def make_log(rng: Random) -> Log:
    """A stream: up to three groups, pending entries of which some are deleted, a last id beyond the last entry.

    Dragonfly 1.40 cuts the name of a consumer at a NUL byte, and knows no XCLAIM for a group without a name: neither
    is made.
    """
    ids: list[Id] = []
    at = _START + rng.getrandbits(20)
    for _ in range(rng.randrange(1, 60) if rng.randrange(12) == 0 else rng.randrange(1, 10)):
        at += rng.choice((0, 1, 17))
        ids.append((at, ids[-1][1] + 1 + rng.randrange(3) if ids and ids[-1][0] == at else rng.randrange(3)))
    deleted = frozenset(i for i in ids if rng.randrange(5) == 0)
    entries = {
        i: tuple(some_bytes(rng) for _ in range(2 * rng.randrange(1, 4))) for i in ids if i not in deleted
    }
    last = ids[-1] if rng.randrange(3) else (ids[-1][0] + rng.randrange(1, 9), rng.randrange(5))
    names = {some_bytes(rng) or b"g" for _ in range(rng.choice((0, 1, 1, 2, 3)))}
    return Log(entries, deleted, last, tuple(_make_group(rng, name, ids) for name in sorted(names)))


def _make_group(rng: Random, name: bytes, ids: list[Id]) -> Group:
    names = {b"c:" + some_bytes(rng).replace(b"\0", b"0") for _ in range(rng.randrange(4))}
    consumers = tuple(sorted(names))
    pending = tuple(
        (i, rng.choice(consumers), rng.randrange(1, 9)) for i in ids if consumers and rng.randrange(3) == 0
    )
    return Group(name, rng.choice([*ids, (0, 0)]), consumers, pending)


def make_document(rng: Random) -> Document:
    """A JSON object."""
    return Document({f"f{n}": _json(rng, 3) for n in range(rng.randrange(1, 6))})


def _json(rng: Random, depth: int) -> object:
    match rng.randrange(8 if depth else 6):
        case 0:
            return rng.randrange(-(2**53), 2**53)
        case 1:
            return rng.uniform(-1e3, 1e3)
        case 2:
            return rng.choice((True, False, None))
        case 3 | 4 | 5:
            return rng.choice(("", "zoë", 'a "quoted" \\ word', "\n\t", "🔑", f"w{rng.getrandbits(30)}"))
        case 6:
            return [_json(rng, depth - 1) for _ in range(rng.randrange(4))]
    return {f"k{n}": _json(rng, depth - 1) for n in range(rng.randrange(4))}


MAKERS: Final[dict[str, Callable[[Random], Value]]] = {
    "string": make_text,
    "hyperloglog": make_hyperloglog,
    "list": make_items,
    "set": make_members,
    "hash": make_fields,
    "zset": make_scores,
    "stream": make_log,
}
"""Kinds that every server has."""
DRAGONFLY_MAKERS: Final[dict[str, Callable[[Random], Value]]] = MAKERS | {
    "hash with expiring fields": make_expiring_fields,
    "json": make_document,
}
