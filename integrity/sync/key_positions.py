"""Which arguments of a command name keys that it may change.

The server's own COMMAND table says where the keys stand and which commands write.  What it cannot say, because the keys
stand after a count or a keyword, or because it says it wrongly, is in a table here.  Naming a key that did not change
costs one look at it; so sources are named where that is simpler, and commands that will fail are not told apart.
A command that may change keys and is in neither table may change all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from itertools import pairwise
from typing import Final

from integrity.errors import ProtocolError
from integrity.replies import Reply
from integrity.wire import Connection

_CACHED: Final = 10_000
"""Spellings of command names that are remembered; each is looked up again beyond that."""


class Effect(Enum):
    """What a command may do to keys, where that needs no look at its arguments, or more than one."""

    NOTHING = auto()
    FIRST = auto()
    """Its first argument is the only key that it may change."""
    ECHO = auto()
    """Nothing; but it may be a marker."""
    WAITS_TO_MOVE = auto()
    """Takes from the first key and gives to the second, perhaps later and without another line."""
    EVERYTHING = auto()
    """May change any key."""
    UNKNOWN = auto()
    """Not in any table, so it may change any key."""


@dataclass(frozen=True, slots=True)
class Picked:
    """The keys are some of the arguments."""

    pick: Callable[[Sequence[bytes]], Sequence[bytes]]
    """From the escaped arguments; keywords and counts hold nothing that is escaped."""
    most: int | None = None
    """How many arguments have to be known for it; None for all."""


Rule = Effect | Picked


def at_places(first: int, last: int, step: int) -> Rule:
    """As COMMAND tells it: from 1 on, a negative last place counted from the end."""
    if first == last == 1:
        return Effect.FIRST

    def pick(arguments: Sequence[bytes]) -> Sequence[bytes]:
        end = last if last > 0 else len(arguments) + last + 1
        return arguments[first - 1 : end : max(1, step)]

    return Picked(pick, last if last > 0 else None)


def _counted(place: int) -> Rule:
    """As many keys as the argument at *place* says, after it."""

    def pick(arguments: Sequence[bytes]) -> Sequence[bytes]:
        after = arguments[place + 1 :]
        # Where it is no plain number the command failed, or the server is more lenient than we are.
        return after[: int(arguments[place])] if len(after) and arguments[place].isdigit() else after

    return Picked(pick)


def _after(*words: bytes) -> Rule:
    """The argument after each of *words*, wherever they stand."""

    def pick(arguments: Sequence[bytes]) -> Sequence[bytes]:
        return [after for word, after in pairwise(arguments) if word.upper() in words]

    return Picked(pick)


def _read_groups(arguments: Sequence[bytes]) -> Sequence[bytes]:
    """XREADGROUP's streams: the first half of what follows STREAMS, which may also be the name of a group."""
    takes = {b"GROUP": 2, b"COUNT": 1, b"BLOCK": 1, b"NOACK": 0, b"CLAIM": 1}
    at = 0
    while at < len(arguments):
        word = arguments[at].upper()
        if word == b"STREAMS":
            rest = arguments[at + 1 :]
            return rest[: (len(rest) + 1) // 2]
        if word not in takes:
            break
        at += 1 + takes[word]
    return arguments


def _migrated(arguments: Sequence[bytes]) -> Sequence[bytes]:
    """MIGRATE's keys: the third argument where it is not empty, else all after KEYS."""
    words = [argument.upper() for argument in arguments]
    return [
        *filter(None, arguments[2:3]),
        *(arguments[words.index(b"KEYS") + 1 :] if b"KEYS" in words else ()),
    ]


_BY_HAND: Final[dict[bytes, Rule]] = {
    # Only what they write to.
    **dict.fromkeys(
        (b"ZUNIONSTORE ZINTERSTORE ZDIFFSTORE SUNIONSTORE SINTERSTORE SDIFFSTORE ZRANGESTORE").split(),
        Effect.FIRST,
    ),
    **dict.fromkeys(b"GEOSEARCHSTORE CMS.MERGE".split(), Effect.FIRST),
    **dict.fromkeys(b"SORT GEORADIUS GEORADIUSBYMEMBER".split(), _after(b"STORE", b"STOREDIST")),
    **dict.fromkeys(b"BITOP XGROUP PFDEBUG".split(), at_places(2, 2, 1)),
    # Said to be reads by some servers: the first rewrites its cache, the others their group, or when keys expire.
    **dict.fromkeys(b"PFCOUNT GAT".split(), at_places(1, -1, 1)),
    **dict.fromkeys(b"GETEX GETDEL XACK XCLAIM XAUTOCLAIM".split(), Effect.FIRST),
    b"XREADGROUP": Picked(_read_groups),
    **dict.fromkeys(b"LMPOP ZMPOP".split(), _counted(0)),
    # What a script writes is shown as well, line by line.
    **dict.fromkeys(b"BLMPOP BZMPOP EVAL EVALSHA FCALL".split(), _counted(1)),
    b"MIGRATE": Picked(_migrated),
    **dict.fromkeys(b"BLMOVE BRPOPLPUSH".split(), Effect.WAITS_TO_MOVE),
    **dict.fromkeys(b"FLUSHDB FLUSHALL SWAPDB RM FT.DROP FT.DROPINDEX".split(), Effect.EVERYTHING),
    b"ECHO": Effect.ECHO,
    # Neither reads nor writes in the server's table, or writes of something that is no key (functions, indexes).
    **dict.fromkeys(
        (
            b"ACL ASKING AUTH BGREWRITEAOF BGSAVE CLIENT CLUSTER COMMAND CONFIG DISCARD EVAL_RO EVALSHA_RO "
            b"EXEC FAILOVER FCALL_RO FUNCTION HELLO INFO LASTSAVE LATENCY MEMORY MODULE MONITOR MULTI "
            b"OBJECT PFSELFTEST PING PSUBSCRIBE PSYNC PUBLISH PUBSUB PUNSUBSCRIBE QUIT READONLY READWRITE "
            b"REPLCONF RESET ROLE SAVE SCRIPT SELECT SHUTDOWN SLOWLOG SPUBLISH SSUBSCRIBE SUBSCRIBE "
            b"SUNSUBSCRIBE SYNC TIME UNSUBSCRIBE UNWATCH WAIT WAITAOF WATCH XINFO FT.CREATE FT.ALTER "
            b"FT.SYNUPDATE FT.CONFIG FT.ALIASADD FT.ALIASDEL FT.ALIASUPDATE FT.DICTADD FT.DICTDEL"
        ).split(),
        Effect.NOTHING,
    ),
}


class KeyTable(dict[bytes, Rule]):
    """Command name, as a client spelt it → rule; asking for an unknown one is no error."""

    def __init__(self, rules: dict[bytes, Rule]) -> None:
        super().__init__()
        self._rules = rules | _BY_HAND

    def __missing__(self, name: bytes) -> Rule:
        rule = self._rules.get(name.upper(), Effect.UNKNOWN)
        if len(self) < _CACHED:
            self[name] = rule
        return rule

    @classmethod
    def ask(cls, connection: Connection) -> KeyTable:
        """Read the server's table.

        :raises ServerError: the server does not tell it.
        """
        reply = connection.command(b"COMMAND")
        rules = dict(map(_rule_of, reply)) if isinstance(reply, list) else {}
        if not rules or b"" in rules:
            raise ProtocolError(
                connection.role,
                connection.where,
                "its table of commands is not understood.",
                "Check that this is a Redis or Dragonfly server; live sync from it is not possible otherwise.",
            )
        return cls(rules)


def _rule_of(entry: Reply) -> tuple[bytes, Rule]:
    """What one entry of COMMAND says; no name where it is not understood."""
    match entry:
        case [bytes() as name, _, list() as flags, int() as first, int() as last, int() as step, *_]:
            name = name.upper()
            if b"readonly" in flags:
                return name, Effect.NOTHING
            # Where keys stand after a count, Redis says that they move, and Dragonfly that they begin later.
            if first == 1 and b"movablekeys" not in flags:
                return name, at_places(first, last, step)
            # "ACL GENPASS" is a command of its own on Dragonfly.
            return name, Effect.NOTHING if name.startswith(b"ACL ") else Effect.UNKNOWN
    return b"", Effect.UNKNOWN
