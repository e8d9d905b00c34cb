"""Thousands of random values of every kind: a copy of each is equal, and the smallest damage to any of them is found.

Each round makes values, moves them with ``greenfly migrate`` (which must pass), compares both servers (nothing must be
found), damages most keys of the target by one bit, byte, element, id, count or second, changes others in ways that are
no difference, and compares again: exactly the damaged keys must be found, each in its class.  The oracle confirms that
the damage is real.  Every other round all values over 1 KiB are compared in pieces.

The suite tries a few thousand.  All of it, as the documentation quotes it::

    GREENFLY_TEST_MUTATIONS=10000 pytest tests/scenarios/test_mutations.py -s

A round that fails names its seed; ``GREENFLY_TEST_SEED`` begins with that one.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from random import Random
from time import monotonic
from typing import Final

import pytest

from integrity.settings import BigValueSettings
from tests.cli import Greenfly
from tests.conftest import StartDragonfly
from tests.engine import compare_database
from tests.inprocess import between, run_here
from tests.mutations import Entry, Finding, Mutation, harmless, mutate
from tests.oracle import compare
from tests.raw import Raw
from tests.servers import Store
from tests.values import DRAGONFLY_MAKERS, LATER_S, MAKERS, Command, Value, send

MUTATIONS: Final = int(os.environ.get("GREENFLY_TEST_MUTATIONS", "1500"))
"""At least so many, for each pair of servers."""
FIRST_SEED: Final = int(os.environ.get("GREENFLY_TEST_SEED", "1"))
ROUND: Final = 1000
DAMAGED: Final = 0.75
TOLERANCE_MS: Final = 1000
IN_PIECES: Final = BigValueSettings(threshold_bytes=1024, piece_bytes=1024, piece_elements=7)


def make_entries(rng: Random, makers: dict[str, Callable[[Random], Value]], count: int) -> list[Entry]:
    """Keys with odd names, one in four with an expiry in an hour to thirty days."""
    entries = []
    for number in range(count):
        kind = rng.choice([*makers])
        key = b"%b:%d:%b" % (kind.encode(), number, rng.randbytes(rng.randrange(6)))
        expiry = LATER_S * 1000 + rng.randrange(30 * 86_400_000) if rng.randrange(4) == 0 else None
        entries.append(Entry(key, kind, makers[kind](rng), expiry))
    return entries


def tried(
    source: Store, target: Store, greenfly: Greenfly, makers: dict[str, Callable[[Random], Value]]
) -> str:
    """Rounds until there were enough mutations; what they came to, for people."""
    began = monotonic()
    round_trips = 0
    untouched = 0
    done: Counter[str] = Counter()
    seed = FIRST_SEED
    while done.total() < MUTATIONS:
        count = min(ROUND, round((MUTATIONS - done.total()) / DAMAGED) + 50)
        mutations, left = one_round(source, target, greenfly, makers, seed, count)
        done.update(mutation.name for mutation in mutations)
        round_trips += count
        untouched += left
        seed += 1
    return (
        f"{done.total():,} mutations of {len(done)} sorts, all found; {round_trips:,} unmutated round trips and "
        f"{untouched:,} keys beside mutated ones, no false finding; {monotonic() - began:.0f} s"
    )


def one_round(
    source: Store,
    target: Store,
    greenfly: Greenfly,
    makers: dict[str, Callable[[Random], Value]],
    seed: int,
    count: int,
) -> tuple[list[Mutation], int]:
    """The mutations of one round, and how many keys were left as they are or changed harmlessly."""
    rng = Random(seed)
    for store in (source, target):
        store.client.flushall()
    entries = make_entries(rng, makers, count)
    with Raw(source.url) as raw:
        send(raw, [command for entry in entries for command in entry.write()])
    moved = run_here(
        greenfly, "migrate", *between(source.url, target.url), "--no-snapshot", "--json", "--quiet"
    )
    assert (moved.exit_code, moved.at("verdict")) == (0, "PASS"), (seed, moved.stderr)
    big = IN_PIECES if seed % 2 == 0 else None
    expiring = makers is DRAGONFLY_MAKERS
    before = compare_database(source.url, target.url, big_values=big, field_expiries=expiring)
    assert before.findings == [], seed
    assert before.totals.equal_keys == count

    mutations, commands = damage(entries, rng)
    with Raw(target.url) as raw:
        send(raw, commands)
    after = compare_database(source.url, target.url, big_values=big, field_expiries=expiring)

    expected = {finding for mutation in mutations for finding in mutation.expected}
    named = {finding: mutation.name for mutation in mutations for finding in mutation.expected}
    assert {named[finding]: finding for finding in expected - after.found} == {}, f"not found, seed {seed}"
    assert after.found - expected == set(), f"found without cause, seed {seed}"
    assert len(after.findings) == len(expected)
    if makers is MAKERS:
        confirm(source, target, expected, seed)
    harmed = {key for mutation in mutations for _, key in mutation.expected}
    return mutations, sum(entry.key not in harmed for entry in entries)


def damage(entries: list[Entry], rng: Random) -> tuple[list[Mutation], list[Command]]:
    """Damage most keys; change some others in ways that are no difference."""
    mutations: list[Mutation] = []
    commands: list[Command] = []
    for entry in entries:
        if rng.random() < DAMAGED:
            mutations.append(mutate(entry, rng, tolerance_ms=TOLERANCE_MS))
            commands += mutations[-1].commands
        elif rng.randrange(2):
            change = harmless(entry, rng)
            commands += change[1] if change else []
    return mutations, commands


def confirm(source: Store, target: Store, expected: set[Finding], seed: int) -> None:
    """By the oracle: the damage is real, and the harmless changes are harmless."""
    told = {(difference.what, difference.key) for difference in compare(source.url, target.url, TOLERANCE_MS)}
    assert told == expected, seed


def test_every_mutation_is_found_and_nothing_else(
    blue: Store, green: Store, greenfly: Greenfly, request: pytest.FixtureRequest
) -> None:
    told = tried(blue, green, greenfly, MAKERS)

    print(f"\n{blue.engine} to {green.engine}: {told}")


@pytest.mark.dragonfly
def test_every_mutation_is_found_between_two_dragonflies(
    start_dragonfly: StartDragonfly, green_dragonfly: Store, greenfly: Greenfly
) -> None:
    """With what only Dragonfly has: JSON documents and hash fields that expire."""
    told = tried(start_dragonfly(), green_dragonfly, greenfly, DRAGONFLY_MAKERS)

    print(f"\nDragonfly to Dragonfly: {told}")
