"""A server against what it must hold: what is lost, resurrected, duplicated, or expires when it should not."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from time import time_ns
from typing import Final

from tests.load.author import PREFIX, owner
from tests.load.compare import Kind, Problem, compare
from tests.load.contents import contents, present
from tests.load.replay import Expected, Tokens
from tests.load.state import Fields, Held, Items, Members, Place, Scores, Stream, Text
from tests.load.units import Branch
from tests.raw import Raw

TOLERANCE_MS: Final = 1000
"""How far from its moment a key may expire."""


@dataclass(frozen=True, slots=True)
class Violation:
    """One way in which a key is not what the log says."""

    kind: Kind
    database: int
    key: bytes
    detail: str


def check(expected: Expected, url: str) -> list[Violation]:
    """Read a server to which nobody writes any more and compare; an empty list: it holds what it must.

    Keys of other loads and other keys are not looked at.
    """
    found = [
        Violation(Kind.WRONG_REPLY, surprise.database, _key_of(surprise.command), repr(surprise)[:500])
        for surprise in expected.surprises
    ]
    return found + _check_contents(expected, url)


def at_risk_missing(expected: Expected, url: str) -> set[Place]:
    """The keys (database, key) of which a server lacks the newest acknowledged writes.

    Where the application went on writing to that server, a key can also be wrong for what it was made from, by a RENAME
    for instance: :meth:`tests.load.load.Load.stay` prevents that.
    """
    found = _check_contents(expected, url, assume_not_done=True)
    return {(violation.database, violation.key) for violation in found}


def _key_of(command: tuple[bytes, ...]) -> bytes:
    return next((part for part in command if part.startswith(PREFIX)), b"")


def _check_contents(expected: Expected, url: str, *, assume_not_done: bool = False) -> list[Violation]:
    before_ms = time_ns() // 1_000_000
    actual = _read(expected, url)
    judge = _Judge(actual, before_ms, time_ns() // 1_000_000)
    undecided = {place for choices in expected.undecided for place in choices[0]}
    found: list[Violation] = []
    for place, held in expected.held.items():
        found += judge.place(place, held)
    for choices in expected.undecided:
        found += judge.choices(choices, assume_not_done=assume_not_done)
    for place, tokens in expected.shared.items():
        found += judge.tokens(place, tokens)
    known = expected.held.keys() | undecided | expected.shared.keys()
    for place in actual.keys() - known:
        found += judge.place(place, None)
    return sorted(found, key=lambda violation: (violation.database, violation.key, violation.kind))


def _read(expected: Expected, url: str) -> dict[Place, Held]:
    wanted = defaultdict(set)
    for database, key in (*expected.held, *expected.shared):
        wanted[database].add(key)
    for choices in expected.undecided:
        for database, key in choices[0]:
            wanted[database].add(key)
    actual: dict[Place, Held] = {}
    for database in expected.databases | wanted.keys():
        with Raw(url, database) as server:
            ours = {key for key in present(server, PREFIX) if owner(key) in expected.loads}
            found = contents(server, sorted(wanted[database] | ours))
            actual |= {(database, key): held for key, held in found.items()}
    return actual


@dataclass(frozen=True, slots=True)
class _Judge:
    actual: Mapping[Place, Held]
    before_ms: int
    after_ms: int
    """The server was read between these two moments."""

    def place(self, place: Place, held: Held | None) -> list[Violation]:
        """One key whose value is known."""
        found = self.actual.get(place)
        return [Violation(kind, *place, detail) for kind, detail in self._problems(held, found)]

    def choices(self, choices: list[Branch], *, assume_not_done: bool) -> list[Violation]:
        """Keys of a write that was never answered: as before it, or as after it, and all of them alike.

        :param assume_not_done: where they are neither, tell what is wrong with them as before it.
        """
        verdicts = [
            [violation for place, held in branch.items() for violation in self.place(place, held)]
            for branch in choices
        ]
        if assume_not_done and all(verdicts):
            return verdicts[0]
        # Of two that are equally wrong, what is wrong with it done tells more.
        return min(reversed(verdicts), key=len)

    def tokens(self, place: Place, tokens: Tokens) -> list[Violation]:
        """A key that all connections write."""
        if tokens.kind == "INCR":
            return [Violation(kind, *place, detail) for kind, detail in self._count(place, tokens)]
        found = _tokens_of(self.actual.get(place))
        problems = [
            *((Kind.LOST, f"{token!r} is not there") for token in tokens.sure if not found[token]),
            *((Kind.DUPLICATED, f"{token!r} {n} times") for token, n in found.items() if n > 1),
            *(
                (Kind.RESURRECTED, f"{token!r} was never acknowledged, nor left unanswered")
                for token in found
                if token not in tokens.sure and token not in tokens.maybe
            ),
        ]
        return [Violation(kind, *place, detail) for kind, detail in problems]

    def _count(self, place: Place, tokens: Tokens) -> Iterator[Problem]:
        held = self.actual.get(place)
        value = int(held.data) if isinstance(held, Text) else 0
        least = sum(tokens.sure.values())
        if value < least:
            yield Kind.LOST, f"{value}, and {least} increments were acknowledged"
        if value > least + len(tokens.maybe):
            yield (
                Kind.DUPLICATED,
                f"{value}, and {least} increments were acknowledged, {len(tokens.maybe)} unanswered",
            )
        for answer, times in tokens.sure.items():
            if times > 1:
                yield (
                    Kind.LOST,
                    f"{times} increments were answered with {answer!r}: one was done on an older value",
                )

    def _problems(self, held: Held | None, found: Held | None) -> list[Problem]:
        expiry = held.expiry if held is not None else None
        if expiry is not None:
            if self.before_ms > expiry.latest + TOLERANCE_MS:
                held = None
            elif self.after_ms > expiry.earliest - TOLERANCE_MS and found is None:
                return []
        if held is None:
            return [] if found is None else [(Kind.RESURRECTED, f"must not be there: {found!r}"[:500])]
        if found is None:
            return [(Kind.LOST, f"not there: {held!r}"[:500])]
        return [*compare(held, found), *self._expiry(held, found)]

    def _expiry(self, held: Held, found: Held) -> list[Problem]:
        ours, theirs = held.expiry, found.expiry
        right = ours == theirs
        if ours and theirs:
            right = ours.earliest - TOLERANCE_MS <= theirs.earliest <= ours.latest + TOLERANCE_MS
        return [] if right else [(Kind.WRONG_EXPIRY, f"expires {theirs}, and must expire {ours}")]


def _tokens_of(held: Held | None) -> Counter[bytes]:
    match held:
        case Items(items):
            return Counter(items)
        case Members(members):
            return Counter(members.keys())
        case Fields(fields):
            return Counter(fields.keys())
        case Scores(scores):
            return Counter(scores.keys())
        case Stream(entries):
            return Counter(parts[1] for parts in entries.values())
    return Counter()
