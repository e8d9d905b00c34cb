"""Which keys a census looks at: all, or a random sample.

SCAN walks a hash table.  Redis and Valkey hash names with SipHash and a seed that is drawn at every start, and walk in
the order of the reversed bits of the hash: whatever stretch of that order is read, its keys are as good as drawn by
lot, independent of their names, ages and sizes.  A sample is therefore a number of stretches that begin at random
places: with the bits of a 64-bit number reversed, the cursor that lies at any given share of the way, whatever the size
of the table.  Each database gives keys in proportion to how many it has.

RANDOMKEY is not used: it favours keys whose neighbours in the table are few, and costs a command for every key.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from random import Random
from typing import Final

from integrity.cluster.slots import SLOTS

_FEWEST: Final = 100
"""So many keys of each database are looked at, however small its part is, where there is room."""
_FOR_THE_FEWEST: Final = 10
"""No more than this part of the sample goes to them."""
_MOST_PLACES: Final = 16
_KEYS_PER_PLACE: Final = 1000
_PER_MASTER: Final = 4
"""Of a cluster's sample: keys with the same hash tag stand together, so it begins at more places."""
_BITS: Final = 64


@dataclass(slots=True)
class Stretch:
    """A part of one database's SCAN order, read page by page."""

    database: int
    cursor: int = 0
    quota: int | None = None
    """Keys after which it is done; None: it is read to the end."""
    wraps: bool = False
    """Whether it goes on at the beginning when it comes to the end."""
    taken: int = 0
    done: bool = False
    ended: bool = False
    """It came to the end of the database."""
    refused: bool = False
    """The server did not take the cursor that it began with."""

    def wanted(self, page: int) -> int:
        """How many keys the next SCAN asks for."""
        return page if self.quota is None else max(1, min(page, self.quota - self.taken))

    @property
    def inside_a_slot(self) -> bool:
        """Whether the next page goes on where this one ended, which only the walk that handed it out can do.

        Of a cluster, whose cursors are a slot and how many of its keys were handed out.
        """
        return self.cursor >= SLOTS

    def advance(self, cursor: int, keys: int) -> None:
        """A page has been read."""
        self.cursor = cursor
        self.taken += keys
        if self.quota is not None and self.taken >= self.quota:
            self.done = True
        if not cursor:
            self.ended = not self.wraps
            self.done = self.done or self.ended
            self.wraps = False


def quotas(present: Mapping[int, int], sample: int) -> dict[int, int | None]:
    """How many keys of each database belong in a sample; None where that is all of them.

    :param present: keys by database.
    :param sample: at most this many over all databases, but one of each at least.
    """
    total = sum(present.values())
    if total <= sample:
        return dict.fromkeys(present)
    fewest = max(1, min(_FEWEST, sample // (_FOR_THE_FEWEST * len(present))))
    rest = max(0, sample - fewest * len(present))
    wanted = {database: fewest + rest * keys // total for database, keys in present.items()}
    return {database: None if count >= present[database] else count for database, count in wanted.items()}


def stretches(
    database: int, quota: int | None, chance: Random, *, anywhere: bool, masters: int = 0
) -> list[Stretch]:
    """The stretches of one database: all of it, or *quota* keys from random places.

    :param anywhere: the server takes any number for a cursor; else there is one stretch, from the beginning.
    :param masters: of a cluster, whose cursors are slots.
    """
    if quota is None:
        return [Stretch(database)]
    if not anywhere:
        return [Stretch(database, quota=quota)]
    at = slot_at if masters else cursor_at
    places = max(1, min(_MOST_PLACES, quota // _KEYS_PER_PLACE), min(_PER_MASTER * masters, quota))
    first = chance.random() / places
    per_place, more = divmod(quota, places)
    return [
        Stretch(database, at(first + place / places), per_place + (place < more), wraps=True)
        for place in range(places)
    ]


def in_turn(parts: Iterable[Stretch]) -> list[Stretch]:
    """The first stretch of each database, then the second ones …, so that each has had its turn if time runs out."""
    by_database: dict[int, list[Stretch]] = {}
    for part in parts:
        by_database.setdefault(part.database, []).append(part)
    rounds = zip_longest(*by_database.values())
    return [part for each in rounds for part in each if part is not None]


def slot_at(share: float) -> int:
    """The cursor at this share of the way through a cluster: a slot, from which on keys are listed."""
    return min(int(share * SLOTS), SLOTS - 1)


def cursor_at(share: float) -> int:
    """The cursor at this share of the way through any table: the reversed bits of a number."""
    number = min(int(share * (1 << _BITS)), (1 << _BITS) - 1)
    return int(format(number, f"0{_BITS}b")[::-1], 2)
