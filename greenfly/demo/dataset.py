"""An application's data, made up from a seed: three databases, every common type, and the odd cases that go wrong.

The shares follow what a web shop keeps in Redis: mostly sessions, counters and profiles in database 0, work in
progress in database 1, indexes in database 2.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Final

from greenfly.demo import families
from greenfly.demo.clients import open_client
from greenfly.demo.families import Command
from integrity.errors import ConfigurationError

SMALLEST: Final = 100
"""Fewer keys cannot hold every family."""

_PIPELINE_COMMANDS: Final = 500
_PIPELINE_BYTES: Final = 1024 * 1024
_FULL_FLOORS_FROM: Final = 5_000


@dataclass(frozen=True, slots=True)
class Family:
    """Keys of one sort, and how many of them there are."""

    name: str
    database: int
    share: float
    """Part of all keys."""
    floor: int
    """At least so many, once the data has 5,000 keys."""
    cap: int | None
    """At most so many: large values would otherwise be most of the bytes."""
    build: Callable[[Random, int], list[Command]]


FILLER: Final = Family("sessions", 0, 0.0, 0, None, families.session)
"""Takes all keys that no other family takes."""

FAMILIES: Final = (
    Family("counters", 0, 0.12, 30, None, families.counter),
    Family("profiles", 0, 0.15, 30, None, families.profile),
    Family("preferences", 0, 0.002, 10, 400, families.preferences),
    Family("documents", 0, 0.0001, 4, 12, families.document),
    Family("flags", 0, 0.01, 10, None, families.flag),
    Family("queues", 1, 0.06, 60, None, families.queue),
    Family("backlogs", 1, 0.0001, 3, 20, families.backlog),
    Family("leaderboards", 1, 0.05, 60, None, families.leaderboard),
    Family("seasons", 1, 0.0005, 5, 150, families.season),
    Family("odd scores", 1, 0.0005, 5, 100, families.odd_scores),
    Family("event streams", 1, 0.015, 90, None, families.events),
    Family("drained streams", 1, 0.0003, 3, 50, families.drained),
    Family("tagged numbers", 2, 0.03, 30, None, families.tag_ids),
    Family("tags", 2, 0.08, 60, None, families.tags),
    Family("followers", 2, 0.0003, 3, 60, families.followers),
    Family("places", 2, 0.015, 20, None, families.places),
    Family("visitors", 2, 0.015, 20, None, families.visitors),
    Family("visitors of the year", 2, 0.0002, 3, 60, families.visitors_total),
    Family("activity bitmaps", 2, 0.02, 20, None, families.bitmap),
    Family("thumbnails", 2, 0.01, 10, None, families.binary_value),
    Family("binary keys", 2, 0.005, 25, None, families.binary_key),
    Family("translations", 2, 0.02, 20, None, families.utf8_key),
)


def shares(keys: int) -> dict[str, int]:
    """How many keys each family gets; they add up to *keys*.

    :raises ConfigurationError: too few keys to hold every family.
    """
    if keys < SMALLEST:
        raise ConfigurationError(
            f"The data needs at least {SMALLEST} keys, not {keys}.", "Ask for more keys."
        )
    counts = {}
    for family in FAMILIES:
        floor = family.floor if keys >= _FULL_FLOORS_FROM else 1
        count = max(floor, round(keys * family.share))
        counts[family.name] = count if family.cap is None else min(count, family.cap)
    return {FILLER.name: keys - sum(counts.values()), **counts}


def fill(
    url: str, keys: int = 100_000, seed: int = 1, progress: Callable[[int], None] | None = None
) -> dict[int, dict[str, int]]:
    """Write *keys* keys to the server at *url*, which is expected to be empty.

    The same seed gives the same keys and values; expiries are the same distance from now.

    :param progress: called now and then with the number of keys written so far.
    :return: database → family → keys.
    :raises ConfigurationError: too few keys to hold every family.
    :raises redis.exceptions.RedisError: the server cannot be reached or refuses a command.
    """
    counts = shares(keys)
    written: dict[int, dict[str, int]] = {}
    done = 0
    for database in sorted({family.database for family in FAMILIES}):
        with open_client(url, database) as client:
            for family in (FILLER, *FAMILIES):
                if family.database != database:
                    continue
                # Each family has random numbers of its own: one more session changes no leaderboard.
                rng = Random(f"{seed}:{family.name}")
                pipeline = client.pipeline(transaction=False)
                pending = size = 0
                for index in range(counts[family.name]):
                    for command in family.build(rng, index):
                        pipeline.execute_command(*command)
                        pending += 1
                        size += sum(len(part) for part in command if isinstance(part, bytes))
                    if pending >= _PIPELINE_COMMANDS or size >= _PIPELINE_BYTES:
                        pipeline.execute()
                        pending = size = 0
                        if progress is not None:
                            progress(done + index + 1)
                pipeline.execute()
                done += counts[family.name]
                written.setdefault(database, {})[family.name] = counts[family.name]
    if progress is not None:
        progress(done)
    return written
