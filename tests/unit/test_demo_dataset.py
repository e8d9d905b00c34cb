"""The demonstration's data: exact counts, the same for the same seed, expiries that outlive a test."""

from __future__ import annotations

from random import Random

import pytest

from greenfly.demo.dataset import FAMILIES, FILLER, SMALLEST, Family, shares
from greenfly.demo.families import Command
from integrity.errors import ConfigurationError

ALL = (FILLER, *FAMILIES)
TEN_MINUTES, THIRTY_DAYS = 600_000, 30 * 24 * 3_600_000


def build(family: Family, count: int, seed: int = 1) -> list[list[Command]]:
    rng = Random(f"{seed}:{family.name}")
    return [family.build(rng, index) for index in range(count)]


def key_of(commands: list[Command]) -> bytes:
    key = commands[0][1]
    assert isinstance(key, bytes)
    return key


@pytest.mark.parametrize("keys", [SMALLEST, 1_000, 4_999, 5_000, 20_000, 100_000, 1_000_000])
def test_shares_add_up_and_leave_no_family_out(keys: int) -> None:
    counts = shares(keys)
    assert sum(counts.values()) == keys
    assert set(counts) == {family.name for family in ALL}
    assert min(counts.values()) > 0


def test_too_few_keys_are_refused() -> None:
    with pytest.raises(ConfigurationError):
        shares(SMALLEST - 1)


def test_there_is_enough_to_damage() -> None:
    counts = shares(5_000)
    assert counts["event streams"] >= 80
    assert min(counts[name] for name in ("queues", "tags", "leaderboards", "profiles")) >= 60


@pytest.mark.parametrize("family", ALL, ids=lambda family: family.name)
def test_a_seed_decides_everything(family: Family) -> None:
    assert build(family, 12) == build(family, 12)
    # More keys of a family do not change the first ones.
    assert build(family, 12)[:5] == build(family, 5)


@pytest.mark.parametrize("family", ALL, ids=lambda family: family.name)
def test_every_key_is_made_by_its_own_commands(family: Family) -> None:
    made = build(family, 60)
    assert len({key_of(commands) for commands in made}) == 60
    for commands in made:
        assert all(key_of(commands) in command for command in commands)


def test_no_key_belongs_to_two_families() -> None:
    places = [(family.database, key_of(commands)) for family in ALL for commands in build(family, 60)]
    assert len(places) == len(set(places))


def test_expiries_lie_between_ten_minutes_and_thirty_days() -> None:
    expiries = []
    for family in ALL:
        for command in (command for commands in build(family, 200) for command in commands):
            if command[0] == b"PEXPIRE":
                expiries.append(command[2])
            elif b"PX" in command[3:4]:
                expiries.append(command[4])
    assert len(expiries) > 250
    numbers = [expiry for expiry in expiries if isinstance(expiry, int)]
    assert numbers == expiries
    assert min(numbers) >= TEN_MINUTES
    assert max(numbers) <= THIRTY_DAYS


def test_sessions_are_short_texts() -> None:
    bodies = [commands[0][2] for commands in build(FILLER, 500)]
    lengths = [len(body) for body in bodies if isinstance(body, bytes)]
    assert len(lengths) == 500
    assert min(lengths) >= 60
    assert max(lengths) <= 400
