"""Twelve ways to damage a copy by hand, one key at a time, each the smallest of its kind.

Keys are chosen at random from a seed and never twice.  Nothing but the named damage changes: an expiry survives a
changed value, a stream with one other id keeps its groups, consumers and pending entries.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from random import Random
from typing import Final, Self

from tests.oracle import What
from tests.raw import Raw, Reply, as_bytes, as_entries, as_int, as_list, as_pending, as_strings, as_table

DATABASES: Final = (0, 1, 2)
_MINUTE: Final = 60_000
# A key that runs out while the test runs would be a difference of its own.
_SAFE_EXPIRY: Final = 5 * _MINUTE


@dataclass(frozen=True, slots=True)
class Key:
    """A key that could be damaged."""

    database: int
    name: bytes
    type: str
    expiry: int | None
    """Milliseconds left."""


@dataclass(frozen=True, slots=True)
class Damaged:
    """What was done to one key, and the class of finding that must come of it."""

    kind: str
    database: int
    key: bytes
    expected: What


Harm = Callable[[Raw, bytes, Random], bool]
"""Damages one key; False where the key does not lend itself to it, and then nothing was changed."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of damage."""

    name: str
    expected: What
    suits: Callable[[Key], bool]
    harm: Harm


def damage(url: str, seed: int, each: int = 20) -> list[Damaged]:
    """Do every kind of damage to *each* keys of the server at *url*.

    :raises AssertionError: the data has too few keys that suit a kind.
    """
    with ExitStack() as stack:
        raws = {number: stack.enter_context(Raw(url, number)) for number in DATABASES}
        return list(_damage(raws, Random(seed), each))


def _damage(raws: dict[int, Raw], rng: Random, each: int) -> Iterator[Damaged]:
    keys = [key for number, raw in raws.items() for key in _survey(raw, number)]
    rng.shuffle(keys)
    used: set[Key] = set()
    for kind in KINDS:
        count = 0
        for key in keys:
            if count == each:
                break
            if key in used or not kind.suits(key):
                continue
            if kind.harm(raws[key.database], key.name, rng):
                used.add(key)
                count += 1
                yield Damaged(kind.name, key.database, key.name, kind.expected)
        assert count == each, f"only {count} keys suit {kind.name!r}"
    for index in range(each):
        number = DATABASES[index % len(DATABASES)]
        name = b"added by hand:%d:\xff" % index
        raws[number](b"SET", name, b"nobody asked for this")
        yield Damaged("key added", number, name, "extra")


def _survey(raw: Raw, database: int) -> Iterator[Key]:
    names = sorted(raw.keys())
    for start in range(0, len(names), 500):
        batch = names[start : start + 500]
        replies = raw.many([(command, name) for name in batch for command in (b"TYPE", b"PTTL")])
        for name, kind, left in zip(batch, replies[::2], replies[1::2], strict=True):
            milliseconds = as_int(left)
            if milliseconds < 0 or milliseconds > _SAFE_EXPIRY:
                yield Key(
                    database, name, as_bytes(kind).decode(), milliseconds if milliseconds >= 0 else None
                )


def _flip_a_byte(raw: Raw, key: bytes, rng: Random) -> bool:
    value = as_bytes(raw(b"GET", key))
    # A HyperLogLog's bytes 8 to 15 are a cache; changing one of them is no damage.
    if not value or value.startswith(b"HYLL"):
        return False
    at = rng.randrange(len(value))
    raw(b"SETRANGE", key, at, bytes([value[at] ^ 1]))
    return True


def _replace_a_member(raw: Raw, key: bytes, rng: Random) -> bool:
    old = rng.choice(sorted(as_strings(raw(b"SMEMBERS", key))))
    # First in, then out: a set that is empty in between would lose its expiry.
    assert raw(b"SADD", key, old + b"7") == 1
    assert raw(b"SREM", key, old) == 1
    return True


def _swap_two_elements(raw: Raw, key: bytes, rng: Random) -> bool:
    items = as_strings(raw(b"LRANGE", key, 0, -1))
    first = rng.randrange(len(items))
    others = [index for index, item in enumerate(items) if item != items[first]]
    if not others:
        return False
    second = rng.choice(others)
    raw(b"LSET", key, first, items[second])
    raw(b"LSET", key, second, items[first])
    return True


def _nudge_a_score(raw: Raw, key: bytes, rng: Random) -> bool:
    scores = {
        member: float(as_bytes(score))
        for member, score in as_table(raw(b"ZRANGE", key, 0, -1, b"WITHSCORES")).items()
    }
    finite = sorted(member for member, score in scores.items() if math.isfinite(score))
    if not finite:
        return False
    member = rng.choice(finite)
    nudged = math.nextafter(scores[member], math.inf)
    raw(b"ZADD", key, repr(nudged), member)
    assert float(as_bytes(raw(b"ZSCORE", key, member))) == nudged != scores[member]
    return True


def _change_a_field(raw: Raw, key: bytes, rng: Random) -> bool:
    table = as_table(raw(b"HGETALL", key))
    field = rng.choice(sorted(table))
    raw(b"HSET", key, field, as_bytes(table[field]) + b"\0")
    return True


def _touch_a_pending_entry(raw: Raw, key: bytes, rng: Random) -> bool:
    """Acknowledge one pending entry, or count one more delivery of it."""
    present = {identifier for identifier, _ in as_entries(raw(b"XRANGE", key, b"-", b"+"))}
    for group in (as_table(item) for item in as_list(raw(b"XINFO", b"GROUPS", key))):
        name = as_bytes(group[b"name"])
        pending = as_pending(raw(b"XPENDING", key, name, b"-", b"+", 1000))
        # XCLAIM drops the record of an entry that is gone, which would be more than was meant.
        pending = [item for item in pending if item[0] in present]
        if pending:
            identifier, consumer, count = rng.choice(pending)
            if rng.random() < 0.5:
                raw(b"XACK", key, name, identifier)
            else:
                raw(b"XCLAIM", key, name, consumer, 0, identifier, b"RETRYCOUNT", count + 1)
            return True
    return False


def _change_an_entry_id(raw: Raw, key: bytes, rng: Random) -> bool:
    """Build the stream again with one id raised by one; groups, consumers and pending entries stay as they were."""
    entries = as_entries(raw(b"XRANGE", key, b"-", b"+"))
    facts = as_table(raw(b"XINFO", b"STREAM", key))
    ids = [identifier for identifier, _ in entries]
    if facts.get(b"entries-added", len(ids)) != len(ids) or raw(b"PTTL", key) != -1:
        return False  # not every server lets the counters of a stream with deleted entries be set
    groups = [_Group.read(raw, key, as_table(item)) for item in as_list(raw(b"XINFO", b"GROUPS", key))]
    waiting = {identifier for group in groups for identifier, _, _ in group.pending}
    if not ids or not waiting <= set(ids):
        return False
    taken = waiting | {group.last_delivered for group in groups} | {ids[-1]}
    choices = [
        at
        for at, (here, following) in enumerate(pairwise(ids))
        if here not in taken and _parts(_raised(here)) < _parts(following)
    ]
    if not choices:
        return False
    changed = rng.choice(choices)
    raw(b"DEL", key)
    for at, (identifier, fields) in enumerate(entries):
        raw(b"XADD", key, _raised(identifier) if at == changed else identifier, *fields)
    for group in groups:
        group.write(raw, key)
    return True


@dataclass(frozen=True, slots=True)
class _Group:
    """A consumer group, to be made again on a stream that was made again."""

    name: bytes
    last_delivered: bytes
    consumers: tuple[bytes, ...]
    pending: tuple[tuple[bytes, bytes, int], ...]

    @classmethod
    def read(cls, raw: Raw, key: bytes, facts: dict[bytes, Reply]) -> Self:
        name = as_bytes(facts[b"name"])
        consumers = as_list(raw(b"XINFO", b"CONSUMERS", key, name))
        return cls(
            name,
            as_bytes(facts[b"last-delivered-id"]),
            tuple(as_bytes(as_table(consumer)[b"name"]) for consumer in consumers),
            tuple(as_pending(raw(b"XPENDING", key, name, b"-", b"+", 1000))),
        )

    def write(self, raw: Raw, key: bytes) -> None:
        raw(b"XGROUP", b"CREATE", key, self.name, self.last_delivered)
        for consumer in self.consumers:
            raw(b"XGROUP", b"CREATECONSUMER", key, self.name, consumer)
        for identifier, consumer, count in self.pending:
            claim = (b"XCLAIM", key, self.name, consumer, 0, identifier)
            raw(*claim, b"RETRYCOUNT", count, b"FORCE", b"JUSTID")


def _move_the_expiry(raw: Raw, key: bytes, rng: Random) -> bool:
    del rng
    return raw(b"PEXPIREAT", key, as_int(raw(b"PEXPIRETIME", key)) + _MINUTE) == 1


def _remove_the_expiry(raw: Raw, key: bytes, rng: Random) -> bool:
    del rng
    return raw(b"PERSIST", key) == 1


def _change_the_type(raw: Raw, key: bytes, rng: Random) -> bool:
    del rng
    was = raw(b"TYPE", key)
    raw(b"DEL", key)
    raw(*((b"RPUSH", key, b"a list now") if was == b"string" else (b"SET", key, b"a string now")))
    return True


def _delete(raw: Raw, key: bytes, rng: Random) -> bool:
    del rng
    return raw(b"DEL", key) == 1


def _raised(identifier: bytes) -> bytes:
    milliseconds, sequence = _parts(identifier)
    return b"%d-%d" % (milliseconds, sequence + 1)


def _parts(identifier: bytes) -> tuple[int, int]:
    milliseconds, _, sequence = identifier.partition(b"-")
    return int(milliseconds), int(sequence)


KINDS: Final = (
    # The kinds with the fewest suitable keys choose first.
    Kind("stream id changed", "value", lambda key: key.type == "stream", _change_an_entry_id),
    Kind("pending entry changed", "value", lambda key: key.type == "stream", _touch_a_pending_entry),
    Kind("byte flipped", "value", lambda key: key.type == "string", _flip_a_byte),
    Kind("set member replaced", "value", lambda key: key.type == "set", _replace_a_member),
    Kind("list elements swapped", "value", lambda key: key.type == "list", _swap_two_elements),
    Kind("score nudged", "value", lambda key: key.type == "zset", _nudge_a_score),
    Kind("hash field changed", "value", lambda key: key.type == "hash", _change_a_field),
    Kind("expiry moved", "expiry", lambda key: key.expiry is not None, _move_the_expiry),
    Kind("expiry removed", "expiry", lambda key: key.expiry is not None, _remove_the_expiry),
    Kind("type changed", "type", lambda key: key.expiry is None, _change_the_type),
    Kind("key deleted", "missing", lambda key: True, _delete),
)
"""All kinds but the twelfth, the key that was added: it needs no key to begin with."""
