"""What a key holds, and the keys of a server: the state that commands are applied to.

Nothing is ever forgotten because of its expiry: the state says until when a value may be seen, and the reader of the
state decides.  The writers keep to that by never touching a key again that expires during a test.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Self, TypeAlias

from tests.load.hyperloglog import Registers

Place: TypeAlias = tuple[int, bytes]
"""Database, key."""
Id: TypeAlias = tuple[int, int]
SOME_ID: Final[Id] = (2**63, 0)
"""Stands for an id that a server chose and nobody learned."""


class ModelError(AssertionError):
    """A log that its own writer cannot have meant, such as a list command on a string."""


@dataclass(frozen=True, slots=True)
class Window:
    """Between which two moments (Unix milliseconds) a key expires: a relative expiry counts from an unknown one."""

    earliest: int
    latest: int


@dataclass(slots=True)
class Held:
    """One value with its expiry; None: never."""

    expiry: Window | None = field(default=None, kw_only=True)

    def clone(self) -> Self:
        """A copy that shares nothing which changes."""
        raise NotImplementedError


@dataclass(slots=True)
class Text(Held):
    """A string."""

    data: bytes

    def clone(self) -> Text:
        return Text(self.data, expiry=self.expiry)


@dataclass(slots=True)
class Sketch(Held):
    """A HyperLogLog."""

    registers: Registers

    def clone(self) -> Sketch:
        return Sketch(dict(self.registers), expiry=self.expiry)


@dataclass(slots=True)
class Items(Held):
    """A list."""

    items: list[bytes]

    def clone(self) -> Items:
        return Items(list(self.items), expiry=self.expiry)


@dataclass(slots=True)
class Members(Held):
    """A set; a dictionary without values, so that it keeps an order that can be drawn from."""

    members: dict[bytes, None]

    def clone(self) -> Members:
        return Members(dict(self.members), expiry=self.expiry)


@dataclass(slots=True)
class Fields(Held):
    """A hash."""

    fields: dict[bytes, bytes]

    def clone(self) -> Fields:
        return Fields(dict(self.fields), expiry=self.expiry)


@dataclass(slots=True)
class Scores(Held):
    """A sorted set."""

    scores: dict[bytes, float]

    def clone(self) -> Scores:
        return Scores(dict(self.scores), expiry=self.expiry)

    def ranked(self) -> list[tuple[bytes, float]]:
        """Lowest first, as the servers order them."""
        return sorted(self.scores.items(), key=lambda pair: (pair[1], pair[0]))


@dataclass(slots=True)
class Group:
    """A consumer group: the last id handed out, and who has what for how many times."""

    last: Id
    pending: dict[Id, tuple[bytes, int]]
    """Id → consumer, delivery count."""


@dataclass(slots=True)
class Stream(Held):
    """A stream; an entry :data:`SOME_ID` has an id that nobody learned."""

    entries: dict[Id, tuple[bytes, ...]]
    last: Id = (0, 0)
    groups: dict[bytes, Group] = field(default_factory=dict)

    def clone(self) -> Stream:
        groups = {name: Group(group.last, dict(group.pending)) for name, group in self.groups.items()}
        return Stream(dict(self.entries), self.last, groups, expiry=self.expiry)


class Keyspace:
    """The keys of a server; commands are applied in :attr:`database`."""

    def __init__(self) -> None:
        self.held: dict[Place, Held] = {}
        self.database = 0

    def get(self, key: bytes) -> Held | None:
        """What a key of this database holds."""
        return self.held.get((self.database, key))

    def put(self, key: bytes, held: Held) -> None:
        """Replace a key of this database."""
        self.held[self.database, key] = held

    def drop(self, key: bytes) -> bool:
        """Remove a key of this database; whether it was there."""
        return self.held.pop((self.database, key), None) is not None

    def text(self, key: bytes) -> Text | None:
        held = self.get(key)
        if held is None or isinstance(held, Text):
            return held
        raise ModelError(f"{key!r} is no string")

    def sketch(self, key: bytes) -> Sketch | None:
        held = self.get(key)
        if held is None or isinstance(held, Sketch):
            return held
        raise ModelError(f"{key!r} is no HyperLogLog")

    def items(self, key: bytes) -> Items | None:
        held = self.get(key)
        if held is None or isinstance(held, Items):
            return held
        raise ModelError(f"{key!r} is no list")

    def members(self, key: bytes) -> Members | None:
        held = self.get(key)
        if held is None or isinstance(held, Members):
            return held
        raise ModelError(f"{key!r} is no set")

    def fields(self, key: bytes) -> Fields | None:
        held = self.get(key)
        if held is None or isinstance(held, Fields):
            return held
        raise ModelError(f"{key!r} is no hash")

    def scores(self, key: bytes) -> Scores | None:
        held = self.get(key)
        if held is None or isinstance(held, Scores):
            return held
        raise ModelError(f"{key!r} is no sorted set")

    def stream(self, key: bytes) -> Stream | None:
        held = self.get(key)
        if held is None or isinstance(held, Stream):
            return held
        raise ModelError(f"{key!r} is no stream")
