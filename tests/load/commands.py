"""What commands do to a state, and what they answer: a small model of a server, without expiry and without errors.

A handler changes the state and returns the answer that a server must give.  Where a server may choose (a random
member, an id) the handler takes its choice from the answer; without an answer it returns :data:`ANYTHING`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Final, Literal, TypeAlias

from tests.load.journal import Command, Reply, expand
from tests.load.state import Keyspace, ModelError, Place, Text, Window


class NoReply(Enum):
    """Marks the absence of an answer, which is not the same as the answer nil."""

    NO_REPLY = "no reply"
    ANYTHING = "anything"


NO_REPLY: Final = NoReply.NO_REPLY
ANYTHING: Final = NoReply.ANYTHING


@dataclass(frozen=True, slots=True)
class Moment:
    """Between which two moments (Unix milliseconds) a command ran, and what was answered."""

    earliest_ms: int
    latest_ms: int
    reply: Reply | Literal[NoReply.NO_REPLY]

    def after(self, milliseconds: int) -> Window:
        """When what is set now expires."""
        return Window(self.earliest_ms + milliseconds, self.latest_ms + milliseconds)


Expected: TypeAlias = Reply | Literal[NoReply.ANYTHING]
Handler: TypeAlias = Callable[[Keyspace, Command, Moment], Expected]
Keys: TypeAlias = Callable[[Command], tuple[bytes, ...]]

OK: Final = b"OK"
HANDLERS: Final[dict[bytes, tuple[Handler, Keys]]] = {}


def first(command: Command) -> tuple[bytes, ...]:
    """Commands with one key."""
    return (command[1],)


def first_two(command: Command) -> tuple[bytes, ...]:
    """Commands with two keys."""
    return command[1:3]


def rest(command: Command) -> tuple[bytes, ...]:
    """Commands with keys only."""
    return command[1:]


def handles(*names: bytes, keys: Keys = first) -> Callable[[Handler], Handler]:
    """Register a handler."""

    def register(handler: Handler) -> Handler:
        for name in names:
            HANDLERS[name] = handler, keys
        return handler

    return register


def apply(space: Keyspace, command: Command, moment: Moment) -> Expected:
    """Do what a command does, in the present database, and return what is answered."""
    return HANDLERS[command[0]][0](space, command, moment)


def places(space: Keyspace, database: int, command: Command) -> list[Place]:
    """Which keys a command may change."""
    if command[0] == b"FLUSHDB":
        return [place for place in space.held if place[0] == database]
    found = [(database, key) for key in HANDLERS[command[0]][1](command)]
    return [*found, (int(command[2]), command[1])] if command[0] == b"MOVE" else found


# -- strings -----------------------------------------------------------------------------------------------------------


@handles(b"SET")
def _set(space: Keyspace, command: Command, moment: Moment) -> Expected:
    _, key, value, *options = command
    old = space.get(key)
    expiry = None
    asked = iter(options)
    for option in asked:
        match option:
            case b"NX" if old is not None:
                return None
            case b"XX" if old is None:
                return None
            case b"KEEPTTL":
                expiry = old.expiry if old else None
            case b"EX":
                expiry = moment.after(int(next(asked)) * 1000)
            case b"PX":
                expiry = moment.after(int(next(asked)))
            case b"PXAT":
                at = int(next(asked))
                expiry = Window(at, at)
    space.put(key, Text(expand(value), expiry=expiry))
    return OK


@handles(b"MSET", keys=lambda command: command[1::2])
def _mset(space: Keyspace, command: Command, moment: Moment) -> Expected:
    for key, value in zip(command[1::2], command[2::2], strict=True):
        space.put(key, Text(value))
    return OK


@handles(b"APPEND")
def _append(space: Keyspace, command: Command, moment: Moment) -> Expected:
    _, key, more = command
    held = _text_for(space, key)
    held.data += more
    return len(held.data)


@handles(b"SETRANGE")
def _setrange(space: Keyspace, command: Command, moment: Moment) -> Expected:
    _, key, offset, part = command
    held, at = _text_for(space, key), int(offset)
    held.data = held.data[:at].ljust(at, b"\0") + part + held.data[at + len(part) :]
    return len(held.data)


@handles(b"SETBIT")
def _setbit(space: Keyspace, command: Command, moment: Moment) -> Expected:
    _, key, offset, bit = command
    held = _text_for(space, key)
    byte, mask = int(offset) // 8, 128 >> int(offset) % 8
    data = bytearray(held.data.ljust(byte + 1, b"\0"))
    old = int(bool(data[byte] & mask))
    data[byte] = data[byte] | mask if bit == b"1" else data[byte] & ~mask
    held.data = bytes(data)
    return old


@handles(b"INCR")
def _incr(space: Keyspace, command: Command, moment: Moment) -> Expected:
    return _add(space, command[1], 1)


@handles(b"INCRBY")
def _incrby(space: Keyspace, command: Command, moment: Moment) -> Expected:
    return _add(space, command[1], int(command[2]))


@handles(b"DECRBY")
def _decrby(space: Keyspace, command: Command, moment: Moment) -> Expected:
    return _add(space, command[1], -int(command[2]))


@handles(b"INCRBYFLOAT")
def _incrbyfloat(space: Keyspace, command: Command, moment: Moment) -> Expected:
    held = _text_for(space, command[1])
    held.data = number(float(held.data or b"0") + float(command[2]))
    return held.data


@handles(b"GETSET")
def _getset(space: Keyspace, command: Command, moment: Moment) -> Expected:
    _, key, value = command
    old = space.text(key)
    space.put(key, Text(value))
    return old.data if old else None


@handles(b"GETDEL")
def _getdel(space: Keyspace, command: Command, moment: Moment) -> Expected:
    old = space.text(command[1])
    space.drop(command[1])
    return old.data if old else None


@handles(b"GETEX")
def _getex(space: Keyspace, command: Command, moment: Moment) -> Expected:
    _, key, option, *amount = command
    held = space.text(key)
    if held is None:
        return None
    match option:
        case b"EX":
            held.expiry = moment.after(int(amount[0]) * 1000)
        case b"PXAT":
            held.expiry = Window(int(amount[0]), int(amount[0]))
        case b"PERSIST":
            held.expiry = None
        case _:
            raise ModelError(f"GETEX {option!r}")
    return held.data


def number(value: float) -> bytes:
    """A float as both servers write it; only fractions of two are exact in all of them."""
    return b"%d" % value if value == int(value) else repr(value).encode()


def _text_for(space: Keyspace, key: bytes) -> Text:
    held = space.text(key)
    if held is None:
        held = Text(b"")
        space.put(key, held)
    return held


def _add(space: Keyspace, key: bytes, amount: int) -> int:
    held = _text_for(space, key)
    value = int(held.data or b"0") + amount
    held.data = b"%d" % value
    return value


# -- whole keys --------------------------------------------------------------------------------------------------------


@handles(b"DEL", b"UNLINK", keys=rest)
def _del(space: Keyspace, command: Command, moment: Moment) -> Expected:
    return sum(space.drop(key) for key in command[1:])


@handles(b"EXPIRE")
def _expire(space: Keyspace, command: Command, moment: Moment) -> Expected:
    return _expire_at(space, command[1], moment.after(int(command[2]) * 1000))


@handles(b"PEXPIRE")
def _pexpire(space: Keyspace, command: Command, moment: Moment) -> Expected:
    return _expire_at(space, command[1], moment.after(int(command[2])))


@handles(b"PEXPIREAT")
def _pexpireat(space: Keyspace, command: Command, moment: Moment) -> Expected:
    return _expire_at(space, command[1], Window(int(command[2]), int(command[2])))


def _expire_at(space: Keyspace, key: bytes, expiry: Window) -> int:
    held = space.get(key)
    if held is None:
        return 0
    held.expiry = expiry
    return 1


@handles(b"PERSIST")
def _persist(space: Keyspace, command: Command, moment: Moment) -> Expected:
    held = space.get(command[1])
    if held is None or held.expiry is None:
        return 0
    held.expiry = None
    return 1


@handles(b"RENAME", keys=first_two)
def _rename(space: Keyspace, command: Command, moment: Moment) -> Expected:
    _, old, new = command
    held = space.get(old)
    if held is None:
        raise ModelError(f"RENAME of {old!r}, which is not there")
    space.drop(old)
    space.put(new, held)
    return OK


@handles(b"COPY", keys=first_two)
def _copy(space: Keyspace, command: Command, moment: Moment) -> Expected:
    _, source, target, *replace = command
    held = space.get(source)
    if held is None or (space.get(target) is not None and not replace):
        return 0
    space.put(target, held.clone())
    return 1


@handles(b"MOVE")
def _move(space: Keyspace, command: Command, moment: Moment) -> Expected:
    _, key, database = command
    held, target = space.get(key), (int(database), key)
    if held is None or target in space.held:
        return 0
    space.drop(key)
    space.held[target] = held
    return 1


@handles(b"FLUSHDB", keys=lambda command: ())
def _flushdb(space: Keyspace, command: Command, moment: Moment) -> Expected:
    for place in [place for place in space.held if place[0] == space.database]:
        del space.held[place]
    return OK
