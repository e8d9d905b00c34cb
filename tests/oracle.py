"""A second opinion: reads two servers by itself and compares everything.

It shares no code with the engine, and reads differently on purpose: typed commands through redis-py, streams through
XRANGE and XPENDING, whole values side by side and no checksums.  What it says is not affected by a mistake that the
engine makes on both sides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, Literal, TypeAlias

from tests.raw import (
    Raw,
    Reply,
    UnexpectedReply,
    as_bytes,
    as_entries,
    as_int,
    as_list,
    as_pending,
    as_scalar,
    as_strings,
    as_table,
)

What: TypeAlias = Literal["missing", "extra", "type", "value", "expiry"]
Plain: TypeAlias = (
    "bytes | int | float | tuple[Plain, ...] | frozenset[Plain] | dict[bytes, Plain] | Stream | None"
)

_BATCH: Final = 500


@dataclass(frozen=True, slots=True)
class Stream:
    """Everything about a stream that a move must keep."""

    entries: Plain
    last_id: bytes
    groups: Plain
    counters: tuple[bytes | int, bytes | int] | None
    """Entries added and the highest deleted id; servers older than Redis 7 keep neither."""

    def same(self, other: Stream) -> bool:
        """Whether both hold the same, as far as both servers keep it."""
        mine, theirs = ((s.entries, s.last_id, s.groups) for s in (self, other))
        return mine == theirs and (None in {self.counters, other.counters} or self.counters == other.counters)


_READERS: Final[dict[bytes, tuple[tuple[bytes, ...], tuple[bytes, ...]]]] = {
    b"string": ((b"GET",), ()),
    b"list": ((b"LRANGE",), (b"0", b"-1")),
    b"set": ((b"SMEMBERS",), ()),
    b"hash": ((b"HGETALL",), ()),
    b"zset": ((b"ZRANGE",), (b"0", b"-1", b"WITHSCORES")),
    b"stream": ((b"XRANGE",), (b"-", b"+")),
}


@dataclass(frozen=True, slots=True)
class Difference:
    """One key that is not the same on both sides."""

    database: int
    key: bytes
    what: What
    source: str
    target: str


def compare(source_url: str, target_url: str, tolerance_ms: int = 1000) -> list[Difference]:
    """Compare all databases of two servers; an empty list means that they hold the same.

    :param tolerance_ms: how far apart two absolute expiries may be.
    """
    databases = sorted(_databases(source_url) | _databases(target_url))
    return [
        difference
        for database in databases
        for difference in _compare_database(source_url, target_url, database, tolerance_ms)
    ]


def read(url: str, database: int, key: bytes) -> Plain:
    """One value, in a form that can be compared with ``==``; see :meth:`Stream.same` for streams."""
    with Side(url, database) as side:
        (kind,), _ = side.types_and_expiries([key])
        return side.values([(key, kind)])[0]


def _compare_database(
    source_url: str, target_url: str, database: int, tolerance_ms: int
) -> Iterator[Difference]:
    with Side(source_url, database) as source, Side(target_url, database) as target:
        yield from compare_sides(source, target, database, tolerance_ms)


def compare_sides(
    source: Side, target: Side, database: int = 0, tolerance_ms: int = 1000
) -> Iterator[Difference]:
    """The same for one database of two sides, of which one may be a cluster."""
    ours, theirs = source.keys(), target.keys()
    for key in sorted(ours - theirs):
        yield Difference(database, key, "missing", "there", "not there")
    for key in sorted(theirs - ours):
        yield Difference(database, key, "extra", "not there", "there")
    common = sorted(ours & theirs)
    for start in range(0, len(common), _BATCH):
        yield from _compare_batch(source, target, common[start : start + _BATCH], database, tolerance_ms)


def _compare_batch(
    source: Side, target: Side, keys: Sequence[bytes], database: int, tolerance_ms: int
) -> Iterator[Difference]:
    our_types, our_expiries = source.types_and_expiries(keys)
    their_types, their_expiries = target.types_and_expiries(keys)
    same_type = []
    for key, ours, theirs in zip(keys, our_types, their_types, strict=True):
        if ours == theirs == b"none":
            continue  # expired on both sides since the SCAN
        if ours == theirs:
            same_type.append((key, ours))
        else:
            yield Difference(database, key, "type", ours.decode(), theirs.decode())
    for key, our_expiry, their_expiry in zip(keys, our_expiries, their_expiries, strict=True):
        one_sided = (our_expiry is None) != (their_expiry is None)
        if one_sided or abs((our_expiry or 0) - (their_expiry or 0)) > tolerance_ms:
            yield Difference(database, key, "expiry", str(our_expiry), str(their_expiry))
    pairs = zip(same_type, source.values(same_type), target.values(same_type), strict=True)
    for (key, kind), our_value, their_value in pairs:
        if not _same(our_value, their_value):
            yield Difference(database, key, "value", *_excerpts(kind, our_value, their_value))


class Side(Raw):
    """One database of one server."""

    def __init__(self, url: str, database: int) -> None:
        super().__init__(url, database)
        self._tells_absolute = isinstance(self.many([(b"PEXPIRETIME", b"no such key")])[0], int)

    def types_and_expiries(self, keys: Sequence[bytes]) -> tuple[list[bytes], list[int | None]]:
        """TYPE and absolute expiry in milliseconds (None: never) of each key."""
        ask = b"PEXPIRETIME" if self._tells_absolute else b"PTTL"
        replies = self.many([(b"TIME",), *((name, key) for key in keys for name in (b"TYPE", ask))])
        now = 0
        if not self._tells_absolute:
            seconds, micros = (int(as_bytes(part)) for part in as_list(replies[0]))
            now = seconds * 1000 + micros // 1000
        expiries = [as_int(reply) for reply in replies[2::2]]
        return (
            [as_bytes(reply) for reply in replies[1::2]],
            [now + expiry if expiry >= 0 else None for expiry in expiries],
        )

    def values(self, keys: Sequence[tuple[bytes, bytes]]) -> list[Plain]:
        """The value of each (key, type), in a form that can be compared with ``==``."""
        commands = []
        for key, kind in keys:
            if kind not in _READERS:
                raise UnexpectedReply(f"{key!r} is of a type that the oracle cannot read: {kind!r}")
            head, tail = _READERS[kind]
            commands.append((*head, key, *tail))
        replies = self.many(commands)
        streams = iter(self._streams([key for key, kind in keys if kind == b"stream"]))
        return [
            next(streams)(_plain(kind, reply)) if kind == b"stream" else _plain(kind, reply)
            for (_, kind), reply in zip(keys, replies, strict=True)
        ]

    def _streams(self, keys: Sequence[bytes]) -> list[Callable[[Plain], Stream]]:
        """Each stream but for its entries: last id, counters, groups, pending entries, consumers."""
        replies = self.many(
            [command for key in keys for command in ((b"XINFO", b"STREAM", key), (b"XINFO", b"GROUPS", key))]
        )
        facts = [as_table(reply) for reply in replies[::2]]
        groups = [[as_table(group) for group in as_list(reply)] for reply in replies[1::2]]
        asked = [
            command
            for key, found in zip(keys, groups, strict=True)
            for group in found
            for command in (
                (b"XPENDING", key, as_bytes(group[b"name"]), b"-", b"+", b"1000000"),
                (b"XINFO", b"CONSUMERS", key, as_bytes(group[b"name"])),
            )
        ]
        answers = iter(self.many(asked))
        streams: list[Callable[[Plain], Stream]] = []
        for fact, found in zip(facts, groups, strict=True):
            states: dict[bytes, Plain] = {
                as_bytes(group[b"name"]): (
                    as_bytes(group[b"last-delivered-id"]),
                    tuple(as_pending(next(answers))),
                    frozenset(as_bytes(as_table(consumer)[b"name"]) for consumer in as_list(next(answers))),
                )
                for group in found
            }
            counters = None
            if b"entries-added" in fact:
                counters = as_scalar(fact[b"entries-added"]), as_scalar(fact[b"max-deleted-entry-id"])
            last_id = as_bytes(fact[b"last-generated-id"])
            streams.append(partial(Stream, last_id=last_id, groups=states, counters=counters))
        return streams


def _same(ours: Plain, theirs: Plain) -> bool:
    if isinstance(ours, Stream) and isinstance(theirs, Stream):
        return ours.same(theirs)
    return ours == theirs or _same_hyperloglog(ours, theirs)


def _plain(kind: bytes, reply: Reply) -> Plain:
    match kind:
        case b"string":
            # None: it expired since its type was read.
            return None if reply is None else as_bytes(reply)
        case b"list":
            return tuple(as_strings(reply))
        case b"set":
            return frozenset(as_strings(reply))
        case b"hash":
            return {name: as_bytes(value) for name, value in as_table(reply).items()}
        case b"zset":
            return {name: float(as_bytes(score)) for name, score in as_table(reply).items()}
        case b"stream":
            return tuple((identifier, tuple(fields)) for identifier, fields in as_entries(reply))
    raise UnexpectedReply(f"no reader for {kind!r}")


def _same_hyperloglog(ours: Plain, theirs: Plain) -> bool:
    """Whether two strings are HyperLogLogs with the same registers; the cached cardinality is not looked at."""
    if not (isinstance(ours, bytes) and isinstance(theirs, bytes)):
        return False
    registers = _registers(ours)
    return registers is not None and registers == _registers(theirs)


def _registers(value: bytes) -> list[int] | None:
    """All 16,384 registers of a dense or sparse HyperLogLog, read bit by bit; None for any other string."""
    if value[:4] != b"HYLL" or len(value) < 16 or value[4] > 1 or any(value[5:8]):
        return None
    body = value[16:]
    if value[4] == 0:
        bits = int.from_bytes(body, "little")
        return [bits >> (6 * index) & 63 for index in range(16_384)] if len(body) == 12_288 else None
    registers: list[int] = []
    octets = iter(body)
    for octet in octets:
        if octet >= 0x80:
            registers += [(octet >> 2 & 31) + 1] * ((octet & 3) + 1)
        elif octet >= 0x40:
            registers += [0] * (((octet & 63) << 8) + next(octets, 0) + 1)
        else:
            registers += [0] * (octet + 1)
    return registers if len(registers) == 16_384 else None


def _databases(url: str) -> set[int]:
    with Raw(url) as server:
        text = as_bytes(server(b"INFO", b"keyspace")).decode()
    lines = (line.partition(":")[0] for line in text.splitlines() if line.startswith("db"))
    return {int(name.removeprefix("db")) for name in lines}


def _excerpts(kind: bytes, ours: Plain, theirs: Plain) -> tuple[str, str]:
    """A short text about each side, from the place where they part."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        names = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))[:3]
        texts = [f"{[(name, side.get(name)) for name in names]!r}" for side in (ours, theirs)]
    elif isinstance(ours, frozenset) and isinstance(theirs, frozenset):
        texts = [f"only here {list(mine - other)[:3]!r}" for mine, other in ((ours, theirs), (theirs, ours))]
    elif isinstance(ours, tuple | bytes) and isinstance(theirs, tuple | bytes):
        at = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), -1)
        texts = [f"from {at}: {side[max(at, 0) : at + 8]!r}" for side in (ours, theirs)]
    else:
        texts = [repr(ours), repr(theirs)]
    mine, other = (f"{kind.decode()} {text}"[:1000] for text in texts)
    return mine, other
