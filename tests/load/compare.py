"""Two values of one key, and how the second departs from the first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import TypeAlias

from tests.load.state import (
    SOME_ID,
    Fields,
    Held,
    Items,
    Members,
    Scores,
    Sketch,
    Stream,
    Text,
)
from tests.oracle import _registers as registers_of


class Kind(StrEnum):
    """What is wrong with a key."""

    LOST = "lost"
    """Something acknowledged is not there, or an older value is."""
    RESURRECTED = "resurrected"
    """Something is there that was deleted, that expired, or that was never acknowledged."""
    DUPLICATED = "duplicated"
    """Something is there more often than it was written."""
    WRONG_EXPIRY = "wrong-expiry"
    WRONG_GROUP = "wrong-group"
    """A consumer group has delivered or pending entries that are not those of the log."""
    WRONG_REPLY = "wrong-reply"
    """An answer during the load was not the one that the acknowledged writes before it lead to."""


Problem: TypeAlias = tuple[Kind, str]


def compare(held: Held, found: Held) -> Iterator[Problem]:
    """What of the value that must be held is not as it must be; the expiry is not looked at."""
    match held, found:
        case Text(), Text():
            yield from _texts(held.data, found.data)
        case Sketch(), Text():
            yield from _sketches(held, found.data)
        case Items(), Items():
            yield from _items(held.items, found.items)
        case Members(), Members():
            yield from _names(held.members, found.members)
        case Fields(), Fields():
            yield from _names(held.fields, found.fields)
            for name in held.fields.keys() & found.fields.keys():
                for kind, detail in _texts(held.fields[name], found.fields[name]):
                    yield kind, f"{name!r}: {detail}"
        case Scores(), Scores():
            yield from _names(held.scores, found.scores)
            for name in held.scores.keys() & found.scores.keys():
                ours, theirs = held.scores[name], found.scores[name]
                if ours != theirs:
                    yield _more_or_less(ours, theirs), f"{name!r}: {theirs}, and must be {ours}"
        case Stream(), Stream():
            yield from _streams(_resolved(held, found), found)
        case _:
            yield Kind.LOST, f"{type(found).__name__}, and must be {type(held).__name__}"


def _texts(ours: bytes, theirs: bytes) -> Iterator[Problem]:
    """Counters only go up and appended text only grows: more than must be there was written twice."""
    if ours == theirs:
        return
    mine, other = _number(ours), _number(theirs)
    if mine is not None and other is not None:
        kind = _more_or_less(mine, other)
    else:
        kind = Kind.DUPLICATED if ours and len(theirs) > len(ours) and theirs.startswith(ours) else Kind.LOST
    yield kind, f"{theirs[:200]!r}, and must be {ours[:200]!r}"


def _number(text: bytes) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _more_or_less(ours: float, theirs: float) -> Kind:
    return Kind.DUPLICATED if theirs > ours else Kind.LOST


def _sketches(held: Sketch, data: bytes) -> Iterator[Problem]:
    registers = registers_of(data)
    found = None if registers is None else {index: run for index, run in enumerate(registers) if run}
    if found != held.registers:
        more = found is not None and held.registers.items() <= found.items()
        yield Kind.RESURRECTED if more else Kind.LOST, "a HyperLogLog with other registers"


def _items(ours: list[bytes], theirs: list[bytes]) -> Iterator[Problem]:
    if ours == theirs:
        return
    mine, other = Counter(ours), Counter(theirs)
    for item in mine - other:
        yield Kind.LOST, f"{item[:200]!r} {other[item]} times, and must be {mine[item]} times"
    for item in other - mine:
        yield (
            Kind.DUPLICATED if mine[item] else Kind.RESURRECTED,
            f"{item[:200]!r} {other[item]} times, and must be {mine[item]} times",
        )
    if mine == other:
        yield Kind.LOST, f"the order: {theirs[:20]!r}, and must be {ours[:20]!r}"


def _names(ours: Mapping[bytes, object], theirs: Mapping[bytes, object]) -> Iterator[Problem]:
    for name in ours.keys() - theirs.keys():
        yield Kind.LOST, f"{name!r} is not there"
    for name in theirs.keys() - ours.keys():
        yield Kind.RESURRECTED, f"{name!r} must not be there"


def _resolved(held: Stream, found: Stream) -> Stream:
    """With the id that nobody learned taken from what is there."""
    if SOME_ID not in held.entries:
        return held
    resolved = held.clone()
    resolved.entries[found.last] = resolved.entries.pop(SOME_ID)
    resolved.last = found.last
    return resolved


def _streams(held: Stream, found: Stream) -> Iterator[Problem]:
    written = set(held.entries.values())
    for identifier, parts in held.entries.items():
        if found.entries.get(identifier) != parts:
            yield Kind.LOST, f"entry {identifier} {parts!r} is not there"
    for identifier, parts in found.entries.items():
        if identifier not in held.entries:
            kind = Kind.DUPLICATED if parts in written else Kind.RESURRECTED
            yield kind, f"entry {identifier} {parts!r} must not be there"
    if held.last != found.last:
        yield _last(held, found), f"last id {found.last}, and must be {held.last}"
    for name in held.groups.keys() ^ found.groups.keys():
        yield Kind.WRONG_GROUP, f"group {name!r} is{' not' * (name in held.groups)} there"
    for name in held.groups.keys() & found.groups.keys():
        ours, theirs = held.groups[name], found.groups[name]
        if ours.last != theirs.last:
            yield (
                Kind.WRONG_GROUP,
                f"{name!r} has delivered up to {theirs.last}, and must have to {ours.last}",
            )
        for identifier in ours.pending.keys() | theirs.pending.keys():
            mine, other = ours.pending.get(identifier), theirs.pending.get(identifier)
            if mine != other:
                yield Kind.WRONG_GROUP, f"{name!r}, entry {identifier}: {other}, and must be {mine}"


def _last(held: Stream, found: Stream) -> Kind:
    return Kind.LOST if found.last < held.last else Kind.DUPLICATED
