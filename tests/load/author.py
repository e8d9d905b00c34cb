"""What one connection writes next: every kind of command, on keys that nobody else writes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from random import Random
from typing import Final, Protocol

from tests.load.choose import CHOOSERS, Draw
from tests.load.journal import Command, Outcome, big
from tests.load.state import Keyspace
from tests.load.streams import ADD_AND_NOTE, FIELD_AND_EXPIRY, TOKEN
from tests.load.units import Unit, touched, transaction

PREFIX: Final = b"load:"
_HOUR_MS: Final = 3_600_000
_SHARED_MS: Final = 10_000
"""After which the shared keys are new ones, so that they do not grow for as long as the load runs."""
_KINDS: Final = tuple(CHOOSERS)
_ORDINARY: Final = (*_KINDS, "string", "list", "hash", "set", "zset", "stream", "stream", "stream", "stream")
"""What moves most, and what has most ways to go wrong."""


def owner(key: bytes) -> str:
    """The load that wrote a key, by its name."""
    return key.split(b":", 2)[1].decode().partition(".")[0].rpartition("-")[0]


def is_shared(key: bytes) -> bool:
    """Whether all connections of a load write it."""
    return b"-shared:" in key


class Author(Protocol):
    """Decides what one connection writes; :attr:`space` is what its keys hold."""

    space: Keyspace

    def next_unit(self, now_ms: int) -> Unit | None:
        """The next unit; nothing is done yet.  None: nothing is written any more."""

    def settled(self, unit: Unit, outcome: Outcome) -> None:
        """What became of it; what it did is in :attr:`space` already."""


@dataclass(frozen=True, slots=True)
class Habits:
    """What a connection writes beside the ordinary."""

    databases: tuple[int, ...] = (0, 1, 5)
    keys_per_kind: int = 6
    big: float = 0.002
    """Which part of the units writes 10 to 200 KB."""
    shared: float = 0.02
    """Which part writes keys that all connections write."""
    stem: bytes = PREFIX + b"app-shared:"
    """How the names of those begin."""


class Writer:
    """An application's connection; see :class:`Author`."""

    def __init__(self, name: str, rng: Random, home: int, habits: Habits) -> None:
        self.space = Keyspace()
        self._draw = Draw(rng, self.space)
        self._home = home
        self._habits = habits
        self._name = name.encode()
        self._made = 0
        self._live = {kind: [self._new(kind) for _ in range(habits.keys_per_kind)] for kind in _KINDS}
        self._away: list[tuple[int, bytes]] = []
        """Keys that were moved to another database."""
        self._acts: list[Callable[[], Unit]] = []
        for act, weight in (
            *((self._ordinary, 66), (self._whole_key, 9), (self._once, 6), (self._doomed, 5)),
            *((self._transaction, 6), (self._script, 5), (self._elsewhere, 3)),
        ):
            self._acts += [act] * weight

    def next_unit(self, now_ms: int) -> Unit:
        draw = self._draw
        draw.now_ms = now_ms
        self.space.database = self._home
        chance = draw.rng.random()
        if chance < self._habits.big:
            return self._big()
        if chance < self._habits.big + self._habits.shared:
            return self._shared()
        return draw.one(self._acts)()

    def settled(self, unit: Unit, outcome: Outcome) -> None:
        if outcome is Outcome.UNKNOWN:
            places = touched(self.space, unit.database, unit.commands)
            self._away = [place for place in self._away if place not in places]
            self._retire(key for _, key in places)
        elif outcome is Outcome.ACKNOWLEDGED:
            self._retire(unit.retire)
            command = unit.commands[0]
            if command[0] in {b"MOVE", b"DEL"} and unit.database != self._home:
                self._away.remove((unit.database, command[1]))
            elif command[0] == b"MOVE" and (place := (int(command[2]), command[1])) in self.space.held:
                self._away.append(place)

    # -- units ---------------------------------------------------------------------------------------------------------

    def _ordinary(self) -> Unit:
        return Unit(self._home, (self._on_some_key(self._draw.one(_ORDINARY)),))

    def _whole_key(self) -> Unit:
        draw = self._draw
        kind = draw.one(_KINDS)
        key, other = self._two(kind)
        there = self.space.get(key) is not None
        match draw.below(12):
            case 0 | 1:
                return Unit(self._home, ((b"DEL", key),), (key,) if draw.below(2) else ())
            case 2:
                return Unit(self._home, ((b"UNLINK", key, other),), (key,) if draw.below(2) else ())
            case 3:
                return Unit(self._home, ((b"EXPIRE", key, b"%d" % (3600 + draw.below(3600))),))
            case 4:
                return Unit(self._home, ((b"PERSIST", key),))
            case 5 | 6 if there:
                return Unit(self._home, ((b"RENAME", key, other),))
            case 7:
                return Unit(self._home, ((b"COPY", key, other, b"REPLACE"),))
            case 8:
                return Unit(self._home, ((b"COPY", key, other),))
            case 9:
                return Unit(self._home, ((b"PEXPIRE", key, self._soon()),), (key,))
            case 10 if len(self._habits.databases) > 1:
                elsewhere = draw.one([d for d in self._habits.databases if d != self._home])
                return Unit(self._home, ((b"MOVE", key, b"%d" % elsewhere),), (key,))
        return Unit(self._home, ((b"PEXPIREAT", key, draw.later()),))

    def _once(self) -> Unit:
        """A key that is written once."""
        return Unit(self._home, ((b"SET", self._new("once"), self._draw.value(100)),))

    def _doomed(self) -> Unit:
        """A key that expires soon, and is never touched again."""
        draw = self._draw
        key = self._new("doomed")
        match draw.below(4):
            case 0:
                return Unit(
                    self._home, transaction([(b"RPUSH", key, draw.value()), (b"PEXPIRE", key, self._soon())])
                )
            case 1:
                at = b"%d" % (draw.now_ms + 500 + draw.below(3000))
                script = (b"EVAL", FIELD_AND_EXPIRY, b"1", key, b"field", draw.value(), at)
                return Unit(self._home, (script,))
            case 2:
                at = b"%d" % (draw.now_ms + 500 + draw.below(3000))
                return Unit(self._home, ((b"SET", key, draw.value(), b"PXAT", at),))
        return Unit(self._home, ((b"SET", key, draw.value(), b"PX", self._soon()),))

    def _transaction(self) -> Unit:
        kinds = self._draw.rng.sample(_KINDS, 2 + self._draw.below(3))
        return Unit(self._home, transaction([self._on_some_key(kind) for kind in kinds]))

    def _script(self) -> Unit:
        draw = self._draw
        if draw.below(2):
            arguments = b"field%d" % draw.below(60), draw.value(), draw.later()
            return Unit(
                self._home, ((b"EVAL", FIELD_AND_EXPIRY, b"1", draw.one(self._live["hash"]), *arguments),)
            )
        amount = b"%d" % (1 + draw.below(50))
        keys = draw.one(self._live["counter"]), draw.one(self._live["list"])
        return Unit(self._home, ((b"EVAL", ADD_AND_NOTE, b"2", *keys, amount),))

    def _elsewhere(self) -> Unit:
        """A key that was moved to another database is written there, moved back, or removed."""
        draw = self._draw
        if not self._away:
            return self._ordinary()
        database, key = draw.one(self._away)
        self.space.database = database
        match draw.below(8):
            case 0:
                return Unit(database, ((b"MOVE", key, b"%d" % self._home),))
            case 1:
                return Unit(database, ((b"DEL", key),))
        kind = self._kind(key)
        return Unit(database, (CHOOSERS[kind](draw, key, draw.one(self._live[kind])),))

    def _big(self) -> Unit:
        draw = self._draw
        value = big(draw.below(10**9), 10_000 + draw.below(190_000))
        match draw.below(8):
            case 0 | 1:
                return Unit(self._home, ((b"HSET", draw.one(self._live["hash"]), b"big", value),))
            case 2 | 3:
                return Unit(self._home, ((b"RPUSH", draw.one(self._live["list"]), value),))
            case 4:
                return Unit(self._home, ((b"SET", self._new("once"), value),))
        return Unit(self._home, ((b"SET", draw.one(self._live["string"]), value),))

    def _shared(self) -> Unit:
        """A key that all connections write; every token is written once."""
        draw = self._draw
        self._made += 1
        token = b"%s:%d" % (self._name, self._made)
        stem = b"%s%d:" % (self._habits.stem, draw.now_ms // _SHARED_MS)
        match draw.below(6):
            case 0:
                return Unit(0, ((b"INCR", stem + b"counter"),), shared=True)
            case 1:
                return Unit(0, ((b"SADD", stem + b"set", token),), shared=True)
            case 2:
                return Unit(0, ((b"HSET", stem + b"hash", token, b"1"),), shared=True)
            case 3:
                return Unit(0, ((b"RPUSH", stem + b"list", token),), shared=True)
            case 4:
                return Unit(0, ((b"ZADD", stem + b"zset", b"1", token),), shared=True)
        return Unit(0, ((b"EVAL", TOKEN, b"1", stem + b"stream", token),), shared=True)

    # -- keys ----------------------------------------------------------------------------------------------------------

    def _on_some_key(self, kind: str) -> Command:
        return CHOOSERS[kind](self._draw, *self._two(kind))

    def _two(self, kind: str) -> tuple[bytes, bytes]:
        names = self._live[kind]
        at = self._draw.below(len(names))
        return names[at], names[at - 1]

    def _new(self, kind: str) -> bytes:
        self._made += 1
        return PREFIX + b"%s:%s:%d" % (self._name, kind.encode(), self._made)

    def _kind(self, key: bytes) -> str:
        return key.split(b":")[-2].decode()

    def _retire(self, keys: Iterable[bytes]) -> None:
        for key in keys:
            names = self._live.get(self._kind(key), [])
            if key in names:
                names[names.index(key)] = self._new(self._kind(key))

    def _soon(self) -> bytes:
        return b"%d" % (300 + self._draw.below(3000))


class Probe:
    """Writes one key, as often as it may; see :class:`Author`."""

    def __init__(self, name: str) -> None:
        self.space = Keyspace()
        self._name = name.encode()
        self._key_number = 0

    def next_unit(self, now_ms: int) -> Unit:
        return Unit(0, ((b"INCR", PREFIX + b"%s:probe:%d" % (self._name, self._key_number)),))

    def settled(self, unit: Unit, outcome: Outcome) -> None:
        self._key_number += outcome is Outcome.UNKNOWN


class Emptier:
    """Writes a database of its own and empties it now and then; see :class:`Author`."""

    def __init__(self, name: str, rng: Random, database: int) -> None:
        self.space = Keyspace()
        self._draw = Draw(rng, self.space)
        self._name = name.encode()
        self._database = database
        self._made = 0
        self._stopped = False

    def next_unit(self, now_ms: int) -> Unit | None:
        if self._stopped:
            return None
        self._made += 1
        if self._draw.below(60) == 0:
            return Unit(self._database, ((b"FLUSHDB",),))
        key = PREFIX + b"%s:once:%d" % (self._name, self._made)
        return Unit(self._database, ((b"SET", key, self._draw.value()),))

    def settled(self, unit: Unit, outcome: Outcome) -> None:
        # Nobody knows whether the database was emptied: no key of it may be written any more.
        self._stopped |= outcome is Outcome.UNKNOWN and unit.commands[0][0] == b"FLUSHDB"
