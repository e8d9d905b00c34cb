"""Where a command's key stands, and how a command about many keys is cut into one for each node."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Final, TypeAlias

from integrity.replies import ErrorReply, Reply

Command: TypeAlias = list[bytes]
"""A command's name and arguments."""
Join: TypeAlias = "Callable[[Sequence[Reply]], Reply]"
"""Makes one reply of several."""

KEY_AT: Final[dict[bytes, int]] = dict.fromkeys(
    (b"MEMORY", b"XINFO", b"OBJECT", b"XGROUP", b"DEBUG", b"BITOP"), 2
)
"""Where the first key stands, if that is not right behind the name."""

ANYWHERE: Final = frozenset(
    {b"TIME", b"COMMAND", b"CONFIG", b"ACL", b"CLIENT", b"ECHO", b"LATENCY", b"MODULE"}
)
"""Commands about one node as good as any other."""

SEVERAL_KEYS: Final = frozenset({b"MGET", b"MSET", b"EXISTS", b"UNLINK", b"DEL", b"TOUCH"})
"""Commands that may be about keys of several slots."""

TWO_KEYS: Final = frozenset({b"RENAME", b"RENAMENX"})
"""Commands about a second key right behind the first; whoever sends them sees to it that both are in one slot."""

READS: Final = frozenset(
    b"GET STRLEN GETRANGE DUMP TYPE EXISTS MGET TTL PTTL EXPIRETIME PEXPIRETIME MEMORY OBJECT "
    b"HGET HMGET HGETALL HKEYS HLEN HSCAN HTTL HPTTL HEXPIRETIME HPEXPIRETIME FIELDTTL "
    b"SMEMBERS SCARD SSCAN LRANGE LLEN ZRANGE ZSCORE ZCARD ZSCAN "
    b"XINFO XLEN XRANGE XREVRANGE XPENDING JSON.GET JSON.TYPE".split()
)
"""Commands that change nothing: they are asked again also where a connection broke before the answer came."""

_REPEATABLE: Final = frozenset(
    b"SET PEXPIREAT PEXPIRE PERSIST UNLINK DEL HSET HDEL HPEXPIREAT HSETEX SADD SADDEX ZADD JSON.SET".split()
)
"""Writes that leave the same behind when they are done twice."""


def may_be_repeated(command: Command) -> bool:
    """Whether the command may be done once more where it was done already."""
    name = command[0]
    return name in READS or name in _REPEATABLE or (name == b"RESTORE" and b"REPLACE" in command[4:])


@dataclass(frozen=True, slots=True)
class Cut:
    """A command about several keys as commands about one each."""

    parts: list[Command]
    join: Join


def cut(command: Command) -> Cut | None:
    """The command in pieces; None where it is about one key."""
    name = command[0]
    if name == b"MGET":
        return Cut([[b"GET", key] for key in command[1:]], _values)
    if name == b"MSET":
        pairs = zip(command[1::2], command[2::2], strict=True)
        return Cut([[b"SET", key, value] for key, value in pairs], _same)
    if len(command) > 2 and name in SEVERAL_KEYS:
        return Cut([[name, key] for key in command[1:]], _sum)
    return None


def keys_of(commands: Sequence[Command]) -> list[bytes]:
    """The key that each command is about."""
    return [command[KEY_AT.get(command[0], 1)] for command in commands]


def all_keys(command: Command) -> list[bytes]:
    """Every key of a command about one slot."""
    first = command[KEY_AT.get(command[0], 1)]
    return [first, command[2]] if command[0] in TWO_KEYS else [first]


_DIGITS: Final = tuple(len(str(number)) for number in range(4096))


def packed_size(commands: Sequence[Command]) -> int:
    """Bytes that the commands take in RESP."""
    lengths = list(map(len, chain.from_iterable(commands)))
    counts = list(map(len, commands))
    numbers = [*lengths, *counts]
    try:
        digits = sum(map(_DIGITS.__getitem__, numbers))
    except IndexError:
        digits = sum(len(str(number)) for number in numbers)
    return digits + sum(lengths) + 5 * len(lengths) + 3 * len(counts)


def _values(replies: Sequence[Reply]) -> Reply:
    """As MGET answers: nothing for what is no string."""
    if ErrorReply not in map(type, replies):
        return list(replies)
    values: list[Reply] = []
    for reply in replies:
        if isinstance(reply, ErrorReply):
            if not str(reply).startswith("WRONGTYPE"):
                return reply
            values.append(None)
        else:
            values.append(reply)
    return values


def _sum(replies: Sequence[Reply]) -> Reply:
    total = 0
    for reply in replies:
        if not isinstance(reply, int):
            return reply
        total += reply
    return total


def _same(replies: Sequence[Reply]) -> Reply:
    """An error where there is one, else what all answer."""
    return next((reply for reply in replies if isinstance(reply, ErrorReply)), replies[0])


EVERYWHERE: Final[dict[bytes, Join]] = {b"PING": _same, b"DBSIZE": _sum, b"FLUSHALL": _same}
"""Commands that every master has to answer, and what their answers come to."""
