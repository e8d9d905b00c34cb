"""How much work a move is, as one letter.

Points are given for what was found and for how much there is; ``docs/assess.md`` holds the same table.  The letter says
nothing about whether the move may begin: the verdict does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from integrity.assess.census import Census
from integrity.assess.model import Outcome, Result, Severity
from integrity.kinds.base import plural

LETTERS: Final = (("A", 4), ("B", 9), ("C", 19), ("D", 39))
"""Letter, and the most points that still give it; E beyond."""
MEANING: Final = {
    "A": "nothing in the way",
    "B": "little to look at",
    "C": "some things to prepare",
    "D": "much to prepare",
    "E": "a project of its own",
}
_BLOCKING, _MOST_BLOCKING = 10, 60
_WARNING, _MOST_WARNINGS = 2, 20
_PLAIN: Final = frozenset({"string", "hash", "list", "set", "zset"})
_KEYS: Final = ((1_000_000, 0), (10_000_000, 2), (100_000_000, 4))
_BYTES: Final = ((1 << 30, 0), (10 << 30, 2), (100 << 30, 4))
_BEYOND: Final = 6
_BIG_BYTES: Final = 64 << 20


@dataclass(frozen=True, slots=True)
class Part:
    """Where some of the points come from."""

    points: int
    why: str


@dataclass(frozen=True, slots=True)
class Grade:
    """The letter and how it came about."""

    letter: str
    points: int
    parts: tuple[Part, ...]

    @property
    def meaning(self) -> str:
        """For people."""
        return MEANING[self.letter]

    def to_dict(self) -> dict[str, object]:
        """Plain JSON values."""
        return {
            "letter": self.letter,
            "points": self.points,
            "meaning": self.meaning,
            "parts": [{"points": part.points, "why": part.why} for part in self.parts],
        }


def grade(results: Sequence[Result], census: Census | None, keys: int, used_memory: int) -> Grade:
    """The grade of a move.

    :param keys: of the source, in the databases of the run.
    :param used_memory: bytes; taken for the size of the keys where no census tells it.
    """
    noted = [each for each in results if each.outcome in {Outcome.FOUND, Outcome.UNKNOWN}]
    blocking = sum(each.severity is Severity.BLOCKING for each in noted)
    warnings = sum(each.severity is Severity.WARNING for each in noted)
    size = _size(census) or used_memory
    parts = [
        Part(min(_BLOCKING * blocking, _MOST_BLOCKING), f"{blocking} blocking, waived or not"),
        Part(min(_WARNING * warnings, _MOST_WARNINGS), f"{warnings} warnings"),
        Part(_step(_KEYS, keys), plural(keys, "key")),
        Part(_step(_BYTES, size), f"{size / (1 << 30):,.1f} GiB"),
    ]
    if census is not None:
        other = sorted(set(census.types) - _PLAIN)
        parts.append(Part(len(other), f"other types: {', '.join(other) or 'none'}"))
        big = sum(fact.bytes >= _BIG_BYTES for fact in census.big)
        parts.append(Part(min(big, 4), f"{big} listed keys of 64 MiB and more"))
    points = sum(part.points for part in parts)
    letter = next((name for name, most in LETTERS if points <= most), "E")
    return Grade(letter, points, tuple(parts))


def _size(census: Census | None) -> int:
    """Bytes of all keys, by those that were looked at."""
    if census is None or not census.keys_looked_at:
        return 0
    seen = sum(census.bytes_by_type.values())
    return seen * max(census.keys_present, census.keys_looked_at) // census.keys_looked_at


def _step(steps: tuple[tuple[int, int], ...], amount: int) -> int:
    return next((points for below, points in steps if amount < below), _BEYOND)
