"""The smallest damage of each kind: one bit, one byte, one element, one id, one count, one second too many.

Every mutation names the findings that must come of it.  What :func:`harmless` changes is what the definition of a
value leaves out; nothing must come of that.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random
from typing import Final, TypeAlias, TypeVar

from tests.values import (
    LATER_S,
    Command,
    Document,
    Fields,
    Group,
    Id,
    Items,
    Log,
    Members,
    Scores,
    Text,
    Value,
    change,
    rebuild,
)

Finding: TypeAlias = tuple[str, bytes]
"""Class, key."""
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Entry:
    """One key of the source."""

    key: bytes
    kind: str
    value: Value
    expiry_ms: int | None

    def write(self) -> list[Command]:
        """The commands that create it."""
        return rebuild(self.key, self.value, self.expiry_ms)[1:]


@dataclass(frozen=True, slots=True)
class Mutation:
    """One small damage of one key of the target."""

    name: str
    commands: list[Command]
    expected: frozenset[Finding]


def flip(data: bytes, rng: Random) -> bytes:
    """One bit of it; of nothing, one byte more."""
    if not data:
        return bytes([1 << rng.randrange(8)])
    changed = bytearray(data)
    changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(changed)


# -- values ------------------------------------------------------------------------------------------------------------


def _text(value: Text, rng: Random) -> tuple[str, Value]:
    data = value.data
    if data.startswith(b"HYLL") and len(data) > 16:
        # Bytes 8 to 15 are a cached cardinality, which is no part of the value.
        at = rng.choice([*range(8), *rng.choices(range(16, len(data)), k=56)])
        changed = bytearray(data)
        changed[at] ^= 1 << rng.randrange(8)
        return "bit of a HyperLogLog flipped", Text(bytes(changed))
    match rng.randrange(5) if data else 3:
        case 0:
            at = rng.randrange(len(data))
            other = (data[at] + rng.randrange(1, 256)) % 256
            return "byte changed", Text(data[:at] + bytes([other]) + data[at + 1 :])
        case 1:
            return "byte cut off", Text(data[:-1])
        case 2 | 3:
            return "byte added", Text(data + rng.randbytes(1))
    return "bit flipped", Text(flip(data, rng))


def _items(value: Items, rng: Random) -> tuple[str, Value]:
    items = list(value.items)
    swappable = [n for n in range(len(items) - 1) if items[n] != items[n + 1]]
    match rng.randrange(5):
        case 0 if swappable:
            n = rng.choice(swappable)
            items[n], items[n + 1] = items[n + 1], items[n]
            return "elements swapped", Items(tuple(items))
        case 1 if len(items) > 1:
            return "element dropped", Items(tuple(items[:-1]))
        case 2:
            return "element repeated", Items((*items, items[-1]))
    n = rng.randrange(len(items))
    items[n] = flip(items[n], rng)
    return "bit of an element flipped", Items(tuple(items))


def _other_than(taken: set[bytes] | frozenset[bytes] | dict[bytes, _T], base: bytes, rng: Random) -> bytes:
    changed = flip(base, rng)
    while changed in taken:
        changed += b"+"
    return changed


def _members(value: Members, rng: Random) -> tuple[str, Value]:
    members = value.members
    old = rng.choice(sorted(members))
    new = _other_than(members, old, rng)
    match rng.randrange(4):
        case 0 if len(members) > 1:
            return "member dropped", Members(members - {old})
        case 1:
            return "member added", Members(members | {new})
    return "bit of a member flipped", Members(members - {old} | {new})


def _fields(value: Fields, rng: Random) -> tuple[str, Value]:
    fields, expiries = dict(value.fields), dict(value.expiries)
    if expiries and rng.randrange(2):
        field = rng.choice(sorted(expiries))
        if rng.randrange(3) == 0:
            del expiries[field]
            return "field expiry dropped", Fields(fields, expiries)
        expiries[field] += rng.choice((-3, 3, 60))
        return "field expiry moved", Fields(fields, expiries)
    field = rng.choice(sorted(fields))
    other = _other_than(fields, field, rng)
    match rng.randrange(5):
        case 0 if len(fields) > 1 and field not in expiries:
            del fields[field]
            return "field dropped", Fields(fields, expiries)
        case 1:
            return "field added", Fields(fields | {other: b""}, expiries)
        case 2 if field not in expiries:
            fields[other] = fields.pop(field)
            return "bit of a field flipped", Fields(fields, expiries)
    fields[field] = flip(fields[field], rng)
    return "bit of a field's value flipped", Fields(fields, expiries)


def _scores(value: Scores, rng: Random) -> tuple[str, Value]:
    scores = dict(value.scores)
    member = rng.choice(sorted(scores))
    other = _other_than(scores, member, rng)
    match rng.randrange(6):
        case 0 if len(scores) > 1:
            del scores[member]
            return "member dropped", Scores(scores)
        case 1:
            return "member added", Scores(scores | {other: 0.0})
        case 2:
            scores[other] = scores.pop(member)
            return "bit of a member flipped", Scores(scores)
        case 3:
            bits = bytearray(struct.pack("<d", scores[member]))
            bits[rng.randrange(8)] ^= 1 << rng.randrange(8)
            changed: float = struct.unpack("<d", bits)[0]
            if not math.isnan(changed) and changed != scores[member]:
                return "bit of a score flipped", Scores(scores | {member: changed})
    if math.isfinite(scores[member]):
        nudged = math.nextafter(scores[member], rng.choice((math.inf, -math.inf)))
        return "score nudged", Scores(scores | {member: nudged})
    return "score made finite", Scores(scores | {member: 0.0})


def _log(value: Log, rng: Random) -> tuple[str, Value]:
    while True:
        name, maker = rng.choice(_LOG_CHANGES)
        changed = maker(value, rng)
        if changed is not None:
            return name, changed


def _document(value: Document, rng: Random) -> tuple[str, Value]:
    assert isinstance(value.root, dict)
    name = rng.choice(sorted(value.root))
    rest = {k: v for k, v in value.root.items() if k != name}
    match rng.randrange(4):
        case 0:
            return "name changed", Document(rest | {name + "'": value.root[name]})
        case 1:
            return "name dropped", Document(rest)
        case 2:
            return "value put into a list", Document(rest | {name: [value.root[name]]})
    match value.root[name]:
        case bool(old):
            return "truth turned", Document(rest | {name: not old})
        case int(old):
            return "number raised", Document(rest | {name: old + 1})
        case float(old):
            return "fraction nudged", Document(rest | {name: math.nextafter(old, 1e9)})
        case str(old):
            return "letter added", Document(rest | {name: old + "a"})
        case old:
            return "value put into a list", Document(rest | {name: [old]})


# -- streams -----------------------------------------------------------------------------------------------------------


def _touched(value: Log) -> set[Id]:
    """Ids that something else of the stream refers to."""
    return {i for group in value.groups for i, _, _ in group.pending}


def _with_group(value: Log, old: Group, new: Group) -> Log:
    return replace(value, groups=tuple(new if group is old else group for group in value.groups))


def _a_group(value: Log, rng: Random) -> Group | None:
    return rng.choice(value.groups) if value.groups else None


def _raise_id(value: Log, rng: Random) -> Log | None:
    taken = {*value.entries, *value.deleted, value.last}
    movable = [
        i
        for i in value.entries
        if i not in _touched(value) and (i[0], i[1] + 1) not in taken and i < value.last
    ]
    if not movable:
        return None
    old = rng.choice(movable)
    entries = dict(value.entries)
    entries[old[0], old[1] + 1] = entries.pop(old)
    return replace(value, entries=entries)


def _change_entry(value: Log, rng: Random) -> Log | None:
    if not value.entries:
        return None
    at = rng.choice(sorted(value.entries))
    parts = list(value.entries[at])
    n = rng.randrange(len(parts))
    parts[n] = flip(parts[n], rng)
    return replace(value, entries=value.entries | {at: tuple(parts)})


def _drop_entry(value: Log, rng: Random) -> Log | None:
    free = sorted(set(value.entries) - _touched(value))
    if not free or len(value.entries) + len(value.deleted) < 2:
        return None
    gone = rng.choice(free)
    return replace(value, entries={i: parts for i, parts in value.entries.items() if i != gone})


def _delete_entry(value: Log, rng: Random) -> Log | None:
    """As XDEL does it: the pending record stays."""
    if not value.entries:
        return None
    gone = rng.choice(sorted(value.entries))
    entries = {i: parts for i, parts in value.entries.items() if i != gone}
    return replace(value, entries=entries, deleted=value.deleted | {gone})


def _add_entry(value: Log, rng: Random) -> Log | None:
    new = (value.last[0], value.last[1] + 1)
    return replace(value, entries=value.entries | {new: (b"f", rng.randbytes(1))}, last=new)


def _raise_last(value: Log, rng: Random) -> Log | None:
    return replace(value, last=(value.last[0], value.last[1] + rng.randrange(1, 3)))


def _count_one_more(value: Log, rng: Random) -> Log | None:
    """An entry that came and went before all others: only ``entries-added`` tells."""
    del rng
    return replace(value, deleted=value.deleted | {(1, 1)}) if value.deleted else None


def _rename_group(value: Log, rng: Random) -> Log | None:
    group = _a_group(value, rng)
    if group is None:
        return None
    name = _other_than({g.name for g in value.groups}, group.name, rng)
    return _with_group(value, group, replace(group, name=name))


def _drop_group(value: Log, rng: Random) -> Log | None:
    group = _a_group(value, rng)
    return None if group is None else replace(value, groups=tuple(g for g in value.groups if g is not group))


def _add_group(value: Log, rng: Random) -> Log | None:
    new = Group(_other_than({g.name for g in value.groups}, b"group", rng), (0, 0), (), ())
    return replace(value, groups=(*value.groups, new))


def _move_group(value: Log, rng: Random) -> Log | None:
    group = _a_group(value, rng)
    if group is None:
        return None
    return _with_group(value, group, replace(group, last=(group.last[0], group.last[1] + 1)))


def _pending_group(value: Log, rng: Random) -> tuple[Group, int] | None:
    groups = [group for group in value.groups if group.pending]
    if not groups:
        return None
    group = rng.choice(groups)
    return group, rng.randrange(len(group.pending))


def _acknowledge(value: Log, rng: Random) -> Log | None:
    found = _pending_group(value, rng)
    if found is None:
        return None
    group, n = found
    return _with_group(value, group, replace(group, pending=group.pending[:n] + group.pending[n + 1 :]))


def _deliver_again(value: Log, rng: Random) -> Log | None:
    found = _pending_group(value, rng)
    if found is None:
        return None
    group, n = found
    identifier, consumer, count = group.pending[n]
    pending = (*group.pending[:n], (identifier, consumer, count + 1), *group.pending[n + 1 :])
    return _with_group(value, group, replace(group, pending=pending))


def _hand_over(value: Log, rng: Random) -> Log | None:
    found = _pending_group(value, rng)
    if found is None:
        return None
    group, n = found
    identifier, consumer, count = group.pending[n]
    others = [name for name in group.consumers if name != consumer]
    if not others:
        return None
    pending = (*group.pending[:n], (identifier, rng.choice(others), count), *group.pending[n + 1 :])
    return _with_group(value, group, replace(group, pending=pending))


def _add_consumer(value: Log, rng: Random) -> Log | None:
    group = _a_group(value, rng)
    if group is None:
        return None
    name = _other_than({*group.consumers}, b"consumer", rng)
    return _with_group(value, group, replace(group, consumers=(*group.consumers, name)))


def _rename_consumer(value: Log, rng: Random) -> Log | None:
    groups = [group for group in value.groups if group.consumers]
    if not groups:
        return None
    group = rng.choice(groups)
    old = rng.choice(group.consumers)
    new = _other_than({*group.consumers}, old, rng).replace(b"\0", b"!")
    if new in group.consumers:
        return None
    consumers = tuple(new if name == old else name for name in group.consumers)
    pending = tuple((i, new if name == old else name, count) for i, name, count in group.pending)
    return _with_group(value, group, replace(group, consumers=consumers, pending=pending))


_LOG_CHANGES: Final[tuple[tuple[str, Callable[[Log, Random], Log | None]], ...]] = (
    ("entry id raised", _raise_id),
    ("bit of an entry flipped", _change_entry),
    ("entry never added", _drop_entry),
    ("entry deleted", _delete_entry),
    ("entry added", _add_entry),
    ("last id raised", _raise_last),
    ("one more added and deleted", _count_one_more),
    ("bit of a group's name flipped", _rename_group),
    ("group dropped", _drop_group),
    ("group added", _add_group),
    ("last delivered id raised", _move_group),
    ("pending entry acknowledged", _acknowledge),
    ("one delivery more", _deliver_again),
    ("pending entry handed over", _hand_over),
    ("consumer added", _add_consumer),
    ("bit of a consumer's name flipped", _rename_consumer),
)


def changed_value(value: Value, rng: Random) -> tuple[str, Value]:
    """The smallest change of some sort: its name, and the value after it."""
    match value:
        case Text():
            return _text(value, rng)
        case Items():
            return _items(value, rng)
        case Members():
            return _members(value, rng)
        case Fields():
            return _fields(value, rng)
        case Scores():
            return _scores(value, rng)
        case Log():
            return _log(value, rng)
        case Document():
            return _document(value, rng)


# -- keys --------------------------------------------------------------------------------------------------------------


def mutate(entry: Entry, rng: Random, *, tolerance_ms: int) -> Mutation:
    """Damage one key: four times in five its value, else its expiry, its type, its name, or all of it."""
    key = entry.key
    if rng.randrange(5):
        name, value = changed_value(entry.value, rng)
        commands = change(key, entry.value, value, entry.expiry_ms)
        finding = "field-expiry" if name.startswith("field expiry") else "value"
        return Mutation(f"{entry.kind}: {name}", commands, frozenset({(finding, key)}))

    def mutation(name: str, command: Command | list[Command], *expected: Finding) -> Mutation:
        commands = command if isinstance(command, list) else [command]
        return Mutation(name, commands, frozenset(expected))

    match rng.randrange(5):
        case 0:
            if entry.expiry_ms is None:
                given: Command = (b"PEXPIREAT", key, LATER_S * 1000 + rng.randrange(10**9))
                return mutation("expiry given", given, ("expiry", key))
            if rng.randrange(3) == 0:
                return mutation("expiry dropped", (b"PERSIST", key), ("expiry", key))
            # One second more than tolerated, because Dragonfly rounds distant expiries to seconds.
            moved = entry.expiry_ms + rng.choice((-1, 1)) * (tolerance_ms + rng.randrange(1001, 5000))
            return mutation("expiry moved", (b"PEXPIREAT", key, moved), ("expiry", key))
        case 1:
            other: Value = Items((b"x",)) if entry.kind != "list" else Text(b"x")
            return mutation("type changed", rebuild(key, other, entry.expiry_ms), ("type", key))
        case 2:
            return mutation("key deleted", (b"DEL", key), ("missing", key))
        case 3:
            new = key + b"\0"
            return mutation("key renamed", (b"RENAME", key, new), ("missing", key), ("extra", new))
    new = key + b"?"
    return mutation("key added", (b"SET", new, b""), ("extra", new))


def harmless(entry: Entry, rng: Random) -> tuple[str, list[Command]] | None:
    """A change of the target that is no difference; None where this key lends itself to none."""
    match entry.value:
        case Text(data) if entry.kind == "hyperloglog":
            at = rng.randrange(8, 16)
            return "cached cardinality", [
                (b"SETRANGE", entry.key, at, bytes([data[at] ^ 1 << rng.randrange(8)]))
            ]
        case Scores(scores) if 0.0 in scores.values():
            zero = next(member for member, score in scores.items() if score == 0.0)
            return "minus zero", [(b"ZADD", entry.key, b"-0.0", zero)]
        case Text() | Document():
            return None
    # Written anew by typed commands: another encoding, another order, other idle times.
    return "written anew", rebuild(entry.key, entry.value, entry.expiry_ms)
