"""Counting pages of keys, and keeping those that stand out."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Sequence
from typing import Final

from integrity.census.classes import BEYOND, SIZES, TIMES_LEFT
from integrity.census.model import KeyFact
from integrity.census.questions import NO_TYPE, Columns, beyond, only

_GONE: Final = -2
_FIELD_EXPIRY_ENCODING: Final = b"listpackex"
"""Redis' form of a small hash that has, or once had, a field with an expiry.  It stays that until it outgrows it or is
deleted, over a restart too, and is RDB type 25 all the time."""


class Top:
    """The keys with the greatest numbers."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._heap: list[tuple[int, int, bytes, str]] = []
        self._entered: set[tuple[int, bytes]] = set()
        """SCAN may bring a key twice."""

    def offer(
        self, database: int, numbers: Sequence[int], keys: Sequence[bytes], types: Sequence[str]
    ) -> None:
        """Take in those of a page that are greater than the least that is kept; 0 never is."""
        least = self._heap[0][0] if len(self._heap) == self._most else 0
        if not numbers or max(numbers) <= least:
            return
        for number, key, kind in zip(numbers, keys, types, strict=True):
            if number <= least or (database, key) in self._entered:
                continue
            self._entered.add((database, key))
            heapq.heappush(self._heap, (number, database, key, kind))
            if len(self._heap) > self._most:
                _, gone_from, gone, _ = heapq.heappop(self._heap)
                self._entered.discard((gone_from, gone))
                least = self._heap[0][0]

    def first(self) -> list[tuple[int, int, bytes, str]]:
        """(number, database, key, type), the greatest first."""
        return sorted(self._heap, key=lambda entry: (-entry[0], entry[1], entry[2]))


class Tally:
    """What a census has counted so far.

    :param listed: how many keys each list holds.
    """

    def __init__(self, listed: int) -> None:
        self._listed = listed
        self._kinds: Counter[tuple[bytes, bytes]] = Counter()
        self._sizes: Counter[int] = Counter()
        self._left: Counter[int] = Counter()
        self._bytes: Counter[bytes] = Counter()
        self._names: dict[bytes, str] = {}
        self.looked_at: Counter[int] = Counter()
        """By database; keys that rules leave out are among them, those that were gone are not."""
        self.excluded: Counter[str] = Counter()
        self.size = 0
        self.longest_name = 0
        self.big = Top(listed)
        self.strings = Top(listed)
        self.hot = Top(listed)
        self.beyond_examples: list[KeyFact] = []

    def exclude(self, database: int, excluded: dict[str, int]) -> None:
        """Count keys that the rules of the run leave out."""
        self.excluded.update(excluded)
        self.looked_at[database] += sum(excluded.values())

    def add(self, database: int, keys: list[bytes], columns: Columns) -> tuple[list[bytes], list[bytes]]:
        """Count keys; returns those that have to be looked at more closely: streams, and hashes made for expiries."""
        if NO_TYPE in columns.types or _GONE in columns.left:
            there = [
                i for i, name in enumerate(columns.types) if name != NO_TYPE and columns.left[i] != _GONE
            ]
            keys, columns = [keys[i] for i in there], only(columns, there)
        if not keys:
            return [], []
        types = columns.types
        kinds = Counter(zip(types, columns.encodings or [b""] * len(types), strict=True))
        self._kinds.update(kinds)
        self.looked_at[database] += len(keys)
        self.longest_name = max(self.longest_name, *map(len, keys))
        self._count_sizes(database, keys, columns)
        left = TIMES_LEFT.count(columns.left)
        self._left.update(left)
        if left[BEYOND] and len(self.beyond_examples) < self._listed:
            self._keep_beyond(database, keys, columns)
        if columns.heat:
            self.hot.offer(database, columns.heat, keys, self._texts(types))
        streams = (
            [k for k, name in zip(keys, types, strict=True) if name == b"stream"]
            if any(name == b"stream" for name, _ in kinds)
            else []
        )
        made_for_expiries = (
            [k for k, e in zip(keys, columns.encodings, strict=True) if e == _FIELD_EXPIRY_ENCODING]
            if any(encoding == _FIELD_EXPIRY_ENCODING for _, encoding in kinds)
            else []
        )
        return streams, made_for_expiries

    def _count_sizes(self, database: int, keys: Sequence[bytes], columns: Columns) -> None:
        sizes, types = columns.sizes, columns.types
        if not sizes:
            return
        self._sizes.update(SIZES.count(sizes))
        totals = self._bytes
        for name, size in zip(types, sizes, strict=True):
            totals[name] += size
        self.size += sum(sizes)
        names = self._texts(types)
        self.big.offer(database, sizes, keys, names)
        strings = [size if name == b"string" else 0 for name, size in zip(types, sizes, strict=True)]
        self.strings.offer(database, strings, keys, names)

    def _keep_beyond(self, database: int, keys: Sequence[bytes], columns: Columns) -> None:
        for i in beyond(columns.left)[: self._listed - len(self.beyond_examples)]:
            size = columns.sizes[i] if columns.sizes else 0
            days = columns.left[i] // 86_400_000
            self.beyond_examples.append(
                KeyFact(database, keys[i], self._text(columns.types[i]), size, 0, f"expires in {days:,} days")
            )

    def _text(self, name: bytes) -> str:
        text = self._names.get(name)
        if text is None:
            text = self._names[name] = name.decode("utf-8", "backslashreplace")
        return text

    def _texts(self, names: Sequence[bytes]) -> list[str]:
        return list(map(self._text, names))

    # -- results ------------------------------------------------------------------------------------------------

    @property
    def types(self) -> dict[str, int]:
        """Type → keys, the most first."""
        counts: Counter[str] = Counter()
        for (name, _), keys in self._kinds.items():
            counts[self._text(name)] += keys
        return dict(counts.most_common())

    @property
    def encodings(self) -> dict[str, int]:
        """``type/encoding`` → keys, the most first."""
        counts: Counter[str] = Counter()
        for (name, encoding), keys in self._kinds.items():
            if encoding:
                counts[f"{self._text(name)}/{encoding.decode('utf-8', 'backslashreplace')}"] += keys
        return dict(counts.most_common())

    @property
    def sizes(self) -> dict[str, int]:
        """Class of size → keys."""
        return SIZES.named(self._sizes)

    @property
    def expiries(self) -> dict[str, int]:
        """Class of time left → keys."""
        return TIMES_LEFT.named(self._left)

    @property
    def beyond(self) -> int:
        """Keys that expire later than Dragonfly keeps."""
        return self._left[BEYOND]

    @property
    def bytes_by_type(self) -> dict[str, int]:
        """Type → bytes of memory, the most first."""
        return {self._text(name): size for name, size in self._bytes.most_common()}
