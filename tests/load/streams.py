"""What commands on streams and consumer groups do, and what scripts do; see :mod:`tests.load.commands`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tests.load.commands import ANYTHING, NO_REPLY, OK, Expected, Moment, apply, handles
from tests.load.journal import Command, Reply
from tests.load.state import SOME_ID, Group, Id, Keyspace, ModelError, Stream


def parse_id(text: bytes) -> Id:
    """``1700000000000-3`` as two numbers."""
    high, _, low = text.partition(b"-")
    return int(high), int(low or b"0")


def format_id(identifier: Id) -> bytes:
    """Two numbers as ``1700000000000-3``."""
    return b"%d-%d" % identifier


@handles(b"XADD")
def _xadd(space: Keyspace, command: Command, moment: Moment) -> Expected:
    _, key, asked, *parts = command
    held = _stream_for(space, key)
    expected: Expected = asked
    identifier = SOME_ID
    if asked != b"*":
        identifier = parse_id(asked)
    elif moment.reply is NO_REPLY:
        expected = ANYTHING
    elif isinstance(moment.reply, bytes) and parse_id(moment.reply) > held.last:
        identifier = parse_id(moment.reply)
        expected = moment.reply
    else:
        expected = b"an id above " + format_id(held.last)
    held.entries[identifier] = tuple(parts)
    held.last = identifier
    return expected


@handles(b"XDEL")
def _xdel(space: Keyspace, command: Command, moment: Moment) -> Expected:
    _, key, *ids = command
    held = space.stream(key)
    return sum(held.entries.pop(parse_id(text), None) is not None for text in ids) if held else 0


@handles(b"XTRIM")
def _xtrim(space: Keyspace, command: Command, moment: Moment) -> Expected:
    """``XTRIM key MAXLEN = n``"""
    _, key, _, _, most = command
    held = space.stream(key)
    old = list(held.entries)[: max(0, len(held.entries) - int(most))] if held else []
    for identifier in old:
        assert held is not None
        del held.entries[identifier]
    return len(old)


@handles(b"XGROUP", keys=lambda command: (command[2],))
def _xgroup(space: Keyspace, command: Command, moment: Moment) -> Expected:
    """``XGROUP CREATE key group id MKSTREAM`` and ``XGROUP DESTROY key group``."""
    _, action, key, name, *more = command
    held = _stream_for(space, key)
    if action == b"DESTROY":
        return int(held.groups.pop(name, None) is not None)
    if name in held.groups:
        raise ModelError(f"{key!r} has a group {name!r} already")
    held.groups[name] = Group(held.last if more[0] == b"$" else parse_id(more[0]), {})
    return OK


@handles(b"XREADGROUP", keys=lambda command: (command[-2],))
def _xreadgroup(space: Keyspace, command: Command, moment: Moment) -> Expected:
    """``XREADGROUP GROUP group consumer COUNT n STREAMS key >``"""
    _, _, name, consumer, _, count, _, key, _ = command
    held, group = _group(space, key, name)
    fresh = [identifier for identifier in held.entries if identifier > group.last][: int(count)]
    if not fresh:
        return None
    group.last = fresh[-1]
    group.pending |= dict.fromkeys(fresh, (consumer, 1))
    return [[key, _told(held, fresh)]]


@handles(b"XACK")
def _xack(space: Keyspace, command: Command, moment: Moment) -> Expected:
    _, key, name, *ids = command
    _, group = _group(space, key, name)
    return sum(group.pending.pop(parse_id(text), None) is not None for text in ids)


@handles(b"XCLAIM")
def _xclaim(space: Keyspace, command: Command, moment: Moment) -> Expected:
    """``XCLAIM key group consumer 0 id…`` of entries that are pending and not deleted."""
    _, key, name, consumer, _, *texts = command
    held, group = _group(space, key, name)
    ids = [parse_id(text) for text in texts]
    for identifier in ids:
        if identifier not in held.entries or identifier not in group.pending:
            raise ModelError(f"XCLAIM of {identifier}, which is deleted or not pending")
        group.pending[identifier] = consumer, group.pending[identifier][1] + 1
    return _told(held, ids)


def _stream_for(space: Keyspace, key: bytes) -> Stream:
    held = space.stream(key)
    if held is None:
        held = Stream({})
        space.put(key, held)
    return held


def _group(space: Keyspace, key: bytes, name: bytes) -> tuple[Stream, Group]:
    held = space.stream(key)
    if held is None or name not in held.groups:
        raise ModelError(f"{key!r} has no group {name!r}")
    return held, held.groups[name]


def _told(held: Stream, ids: Sequence[Id]) -> list[Reply]:
    return [[format_id(identifier), list(held.entries[identifier])] for identifier in ids]


# -- scripts -----------------------------------------------------------------------------------------------------------

ADD_AND_NOTE: Final = b"redis.call('INCRBY', KEYS[1], ARGV[1]) return redis.call('RPUSH', KEYS[2], ARGV[1])"
FIELD_AND_EXPIRY: Final = (
    b"redis.call('HSET', KEYS[1], ARGV[1], ARGV[2]) return redis.call('PEXPIREAT', KEYS[1], ARGV[3])"
)
TOKEN: Final = b"return redis.call('XADD', KEYS[1], '*', 'token', ARGV[1])"


@handles(b"EVAL", keys=lambda command: command[3 : 3 + int(command[2])])
def _eval(space: Keyspace, command: Command, moment: Moment) -> Expected:
    answers = [apply(space, step, moment) for step in steps(command)]
    return answers[-1]


def steps(command: Command) -> list[Command]:
    """What a script does, one command after the other; any other command is its own and only step."""
    if command[0] != b"EVAL":
        return [command]
    _, script, count, *parts = command
    keys, arguments = parts[: int(count)], parts[int(count) :]
    if script == ADD_AND_NOTE:
        return [(b"INCRBY", keys[0], arguments[0]), (b"RPUSH", keys[1], arguments[0])]
    if script == FIELD_AND_EXPIRY:
        return [(b"HSET", keys[0], arguments[0], arguments[1]), (b"PEXPIREAT", keys[0], arguments[2])]
    raise ModelError(f"a script without a model: {script!r}")
