"""What commands on hashes, lists, sets, sorted sets and HyperLogLogs do; see :mod:`tests.load.commands`."""

from __future__ import annotations

from tests.load.commands import ANYTHING, NO_REPLY, OK, Expected, Moment, first_two, handles, number
from tests.load.hyperloglog import add
from tests.load.journal import Command, expand
from tests.load.state import Fields, Items, Keyspace, Members, ModelError, Scores, Sketch

# -- hashes ------------------------------------------------------------------------------------------------------------


@handles(b"HSET")
def _hset(space: Keyspace, command: Command, moment: Moment) -> Expected:
    held = _fields_for(space, command[1])
    before = len(held.fields)
    for name, value in zip(command[2::2], command[3::2], strict=True):
        held.fields[name] = expand(value)
    return len(held.fields) - before


@handles(b"HDEL")
def _hdel(space: Keyspace, command: Command, moment: Moment) -> Expected:
    _, key, *names = command
    held = space.fields(key)
    if held is None:
        return 0
    removed = sum(held.fields.pop(name, None) is not None for name in names)
    if not held.fields:
        space.drop(key)
    return removed


@handles(b"HINCRBY")
def _hincrby(space: Keyspace, command: Command, moment: Moment) -> Expected:
    _, key, name, amount = command
    held = _fields_for(space, key)
    value = int(held.fields.get(name, b"0")) + int(amount)
    held.fields[name] = b"%d" % value
    return value


def _fields_for(space: Keyspace, key: bytes) -> Fields:
    held = space.fields(key)
    if held is None:
        held = Fields({})
        space.put(key, held)
    return held


# -- lists -------------------------------------------------------------------------------------------------------------


@handles(b"RPUSH")
def _rpush(space: Keyspace, command: Command, moment: Moment) -> Expected:
    held = _items_for(space, command[1])
    held.items.extend(expand(item) for item in command[2:])
    return len(held.items)


@handles(b"LPUSH")
def _lpush(space: Keyspace, command: Command, moment: Moment) -> Expected:
    held = _items_for(space, command[1])
    held.items[:0] = [expand(item) for item in reversed(command[2:])]
    return len(held.items)


@handles(b"LPOP")
def _lpop(space: Keyspace, command: Command, moment: Moment) -> Expected:
    return _pop(space, command[1], 0)


@handles(b"RPOP")
def _rpop(space: Keyspace, command: Command, moment: Moment) -> Expected:
    return _pop(space, command[1], -1)


@handles(b"LTRIM")
def _ltrim(space: Keyspace, command: Command, moment: Moment) -> Expected:
    """Start and stop are not negative here."""
    _, key, start, stop = command
    held = space.items(key)
    if held is not None:
        held.items = held.items[int(start) : int(stop) + 1]
        if not held.items:
            space.drop(key)
    return OK


@handles(b"LSET")
def _lset(space: Keyspace, command: Command, moment: Moment) -> Expected:
    _, key, index, item = command
    held = space.items(key)
    if held is None or not 0 <= int(index) < len(held.items):
        raise ModelError(f"LSET of {key!r} beyond its end")
    held.items[int(index)] = item
    return OK


@handles(b"LINSERT")
def _linsert(space: Keyspace, command: Command, moment: Moment) -> Expected:
    _, key, where, pivot, item = command
    held = space.items(key)
    if held is None:
        return 0
    if pivot not in held.items:
        return -1
    held.items.insert(held.items.index(pivot) + (where == b"AFTER"), item)
    return len(held.items)


@handles(b"LREM")
def _lrem(space: Keyspace, command: Command, moment: Moment) -> Expected:
    """All of them: the count is 0 here."""
    _, key, _, item = command
    held = space.items(key)
    if held is None:
        return 0
    kept = [other for other in held.items if other != item]
    removed = len(held.items) - len(kept)
    held.items = kept
    if not kept:
        space.drop(key)
    return removed


@handles(b"RPOPLPUSH", keys=first_two)
def _rpoplpush(space: Keyspace, command: Command, moment: Moment) -> Expected:
    return _carry(space, command[1], command[2], -1, 0)


@handles(b"LMOVE", keys=first_two)
def _lmove(space: Keyspace, command: Command, moment: Moment) -> Expected:
    _, source, target, where, to = command
    return _carry(space, source, target, 0 if where == b"LEFT" else -1, 0 if to == b"LEFT" else None)


def _items_for(space: Keyspace, key: bytes) -> Items:
    held = space.items(key)
    if held is None:
        held = Items([])
        space.put(key, held)
    return held


def _pop(space: Keyspace, key: bytes, at: int) -> bytes | None:
    held = space.items(key)
    if held is None:
        return None
    item = held.items.pop(at)
    if not held.items:
        space.drop(key)
    return item


def _carry(space: Keyspace, source: bytes, target: bytes, at: int, to: int | None) -> bytes | None:
    """To: 0 is the head, None the tail."""
    expiry = held.expiry if (held := space.items(source)) else None
    item = _pop(space, source, at)
    if item is None:
        return None
    into = _items_for(space, target)
    if source == target:
        into.expiry = expiry  # the key was never gone, although its only element was
    into.items.insert(len(into.items) if to is None else to, item)
    return item


# -- sets --------------------------------------------------------------------------------------------------------------


@handles(b"SADD")
def _sadd(space: Keyspace, command: Command, moment: Moment) -> Expected:
    held = _members_for(space, command[1])
    before = len(held.members)
    held.members.update(dict.fromkeys(command[2:]))
    return len(held.members) - before


@handles(b"SREM")
def _srem(space: Keyspace, command: Command, moment: Moment) -> Expected:
    _, key, *members = command
    return sum(_remove(space, key, member) for member in members)


@handles(b"SPOP")
def _spop(space: Keyspace, command: Command, moment: Moment) -> Expected:
    """Without an answer nothing is done: which member it was is for the caller to try."""
    key, reply = command[1], moment.reply
    held = space.members(key)
    if held is None:
        return None
    if isinstance(reply, bytes) and _remove(space, key, reply):
        return reply
    # A member that the set does not have, or none at all, is not an answer of this set.
    return ANYTHING if reply is NO_REPLY else b"one of its members"


@handles(b"SMOVE", keys=first_two)
def _smove(space: Keyspace, command: Command, moment: Moment) -> Expected:
    _, source, target, member = command
    if not _remove(space, source, member):
        return 0
    _members_for(space, target).members[member] = None
    return 1


def _members_for(space: Keyspace, key: bytes) -> Members:
    held = space.members(key)
    if held is None:
        held = Members({})
        space.put(key, held)
    return held


def _remove(space: Keyspace, key: bytes, member: bytes) -> bool:
    held = space.members(key)
    if held is None or member not in held.members:
        return False
    del held.members[member]
    if not held.members:
        space.drop(key)
    return True


# -- sorted sets -------------------------------------------------------------------------------------------------------


@handles(b"ZADD")
def _zadd(space: Keyspace, command: Command, moment: Moment) -> Expected:
    held = _scores_for(space, command[1])
    before = len(held.scores)
    for score, member in zip(command[2::2], command[3::2], strict=True):
        held.scores[member] = float(score)
    return len(held.scores) - before


@handles(b"ZINCRBY")
def _zincrby(space: Keyspace, command: Command, moment: Moment) -> Expected:
    _, key, amount, member = command
    held = _scores_for(space, key)
    held.scores[member] = held.scores.get(member, 0.0) + float(amount)
    return number(held.scores[member])


@handles(b"ZREM")
def _zrem(space: Keyspace, command: Command, moment: Moment) -> Expected:
    _, key, *members = command
    held = space.scores(key)
    return 0 if held is None else _discard(space, key, held, members)


@handles(b"ZPOPMIN")
def _zpopmin(space: Keyspace, command: Command, moment: Moment) -> Expected:
    held = space.scores(command[1])
    if held is None:
        return []
    member, score = held.ranked()[0]
    _discard(space, command[1], held, [member])
    return [member, number(score)]


@handles(b"ZREMRANGEBYRANK")
def _zremrangebyrank(space: Keyspace, command: Command, moment: Moment) -> Expected:
    _, key, start, stop = command
    held = space.scores(key)
    if held is None:
        return 0
    return _discard(space, key, held, [member for member, _ in held.ranked()[int(start) : int(stop) + 1]])


@handles(b"ZRANGESTORE", keys=first_two)
def _zrangestore(space: Keyspace, command: Command, moment: Moment) -> Expected:
    _, target, source, start, stop = command
    held = space.scores(source)
    kept = dict(held.ranked()[int(start) : int(stop) + 1]) if held else {}
    if kept:
        space.put(target, Scores(kept))
    else:
        space.drop(target)
    return len(kept)


def _scores_for(space: Keyspace, key: bytes) -> Scores:
    held = space.scores(key)
    if held is None:
        held = Scores({})
        space.put(key, held)
    return held


def _discard(space: Keyspace, key: bytes, held: Scores, members: list[bytes]) -> int:
    removed = sum(held.scores.pop(member, None) is not None for member in members)
    if not held.scores:
        space.drop(key)
    return removed


# -- HyperLogLogs ------------------------------------------------------------------------------------------------------


@handles(b"PFADD")
def _pfadd(space: Keyspace, command: Command, moment: Moment) -> Expected:
    _, key, *elements = command
    held = space.sketch(key)
    created = held is None
    if held is None:
        held = Sketch({})
        space.put(key, held)
    changed = [add(held.registers, element) for element in elements]
    return int(created or any(changed))
