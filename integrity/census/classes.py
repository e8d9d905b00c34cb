"""Classes of size and of time left, for histograms."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

FARTHEST_MS: Final = ((1 << 28) - 1) * 1000
"""How far ahead Dragonfly lets an expiry lie, in milliseconds."""


@dataclass(frozen=True, slots=True)
class Classes:
    """Numbers up to and including an edge belong to its class; those above the last one to one more."""

    edges: tuple[int, ...]
    labels: tuple[str, ...]
    """One more than edges."""

    def count(self, numbers: Iterable[int]) -> Counter[int]:
        """Class → how many of *numbers* belong to it."""
        return Counter(map(partial(bisect_left, self.edges), numbers))

    def named(self, counts: Mapping[int, int]) -> dict[str, int]:
        """The counts by label, in rising order, from the first class that has any to the last."""
        if not counts:
            return {}
        return {self.labels[i]: counts.get(i, 0) for i in range(min(counts), max(counts) + 1)}


_UNITS: Final = ("B", "KiB", "MiB", "GiB")


def _bytes(number: int) -> str:
    unit = 0
    while number >= 1024 and unit < len(_UNITS) - 1:
        number //= 1024
        unit += 1
    return f"{number} {_UNITS[unit]}"


def _by_size(edges: Sequence[int]) -> Classes:
    return Classes(tuple(edges), (*(f"<={_bytes(edge)}" for edge in edges), f">{_bytes(edges[-1])}"))


SIZES: Final = _by_size([1 << n for n in range(6, 31, 2)])
"""64 B, 256 B, 1 KiB … 1 GiB."""

_MINUTE: Final = 60_000
_DAY: Final = 24 * 60 * _MINUTE
_TIMES: Final = (
    (-1, "none"),
    (_MINUTE, "<=1 min"),
    (60 * _MINUTE, "<=1 h"),
    (_DAY, "<=1 day"),
    (7 * _DAY, "<=7 days"),
    (30 * _DAY, "<=30 days"),
    (365 * _DAY, "<=1 year"),
    (FARTHEST_MS, "<=8.5 years"),
)
TIMES_LEFT: Final = Classes(
    tuple(edge for edge, _ in _TIMES), (*(label for _, label in _TIMES), ">8.5 years")
)
"""Of what PTTL answers: milliseconds left, −1 for no expiry."""
BEYOND: Final = len(_TIMES)
"""The class of what expires later than Dragonfly keeps."""
