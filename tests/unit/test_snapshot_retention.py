"""Which snapshots go: by count, by age, and never the newest whole one."""

from __future__ import annotations

import fcntl
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenfly.commands.snapshot.prune import days
from integrity.errors import ConfigurationError
from integrity.snapshot.catalog import Entry, SnapshotState, look_at
from integrity.snapshot.retention import Decision, decide

NOW = datetime(2027, 1, 31, tzinfo=UTC)


def entry(folder: Path, age_days: float, state: SnapshotState = SnapshotState.WHOLE) -> Entry:
    return Entry(f"{age_days:g}", folder / f"{age_days:g}", state, NOW - timedelta(days=age_days))


def gone(decisions: list[Decision]) -> list[str]:
    return [decision.entry.id for decision in decisions if decision.removed]


@pytest.mark.parametrize(
    ("keep", "max_age", "expected"),
    [
        (2, None, ["3", "10", "40"]),
        (None, 5, ["10", "40"]),
        (4, 5, ["40"]),
        (1, 20, ["40"]),
        (10, None, []),
        (None, 100, []),
        (None, None, []),
        (None, 0.5, ["2", "3", "10", "40"]),
    ],
)
def test_a_snapshot_goes_when_every_rule_lets_it_go(
    tmp_path: Path, keep: int | None, max_age: float | None, expected: list[str]
) -> None:
    entries = [entry(tmp_path, age) for age in (1, 2, 3, 10, 40)]
    for one in entries:
        one.directory.mkdir()

    age = timedelta(days=max_age) if max_age is not None else None
    decisions = decide(entries, keep=keep, max_age=age, now=NOW)

    assert gone(decisions) == expected
    assert [decision.entry for decision in decisions] == entries


@given(
    st.lists(
        st.tuples(st.floats(0.1, 100), st.sampled_from(SnapshotState)),
        max_size=8,
        unique_by=lambda item: item[0],
    ),
    st.none() | st.integers(1, 4),
    st.none() | st.floats(0.1, 100),
)
def test_the_newest_whole_one_and_what_is_being_taken_never_go(
    tmp_path_factory: pytest.TempPathFactory,
    ages: list[tuple[float, SnapshotState]],
    keep: int | None,
    max_age: float | None,
) -> None:
    folder = tmp_path_factory.mktemp("snapshots", numbered=True)
    entries = [
        Entry(str(number), folder / str(number), state, NOW - timedelta(days=age))
        for number, (age, state) in enumerate(sorted(ages))
    ]
    for one in entries:
        one.directory.mkdir()

    age = timedelta(days=max_age) if max_age is not None else None
    decisions = decide(entries, keep=keep, max_age=age, now=NOW)

    whole = [one.id for one in entries if one.state is SnapshotState.WHOLE]
    kept = {decision.entry.id for decision in decisions if not decision.removed}
    assert {*whole[: max(1, keep or 1)]} <= kept
    never = {SnapshotState.BEING_TAKEN, SnapshotState.MISSING, SnapshotState.PRUNED}
    assert not {*gone(decisions)} & {one.id for one in entries if one.state in never}


@pytest.mark.parametrize("state", [SnapshotState.WHOLE, SnapshotState.DAMAGED, SnapshotState.PARTIAL])
def test_a_folder_with_other_files_stays(tmp_path: Path, state: SnapshotState) -> None:
    old = Entry("old", tmp_path / "old", state, NOW - timedelta(days=90))
    old.directory.mkdir()
    (old.directory / "header.json").write_text("{}")
    newest = entry(tmp_path, 1)

    assert gone(decide([newest, old], keep=1, max_age=None, now=NOW)) == ["old"]
    (old.directory / "notes.txt").write_text("mine")
    [_, kept] = decide([newest, old], keep=1, max_age=None, now=NOW)

    assert not kept.removed
    assert "notes.txt" in kept.reason


def test_damaged_ones_do_not_count_as_kept(tmp_path: Path) -> None:
    states = [SnapshotState.DAMAGED, SnapshotState.WHOLE, SnapshotState.DAMAGED, SnapshotState.WHOLE]
    entries = [entry(tmp_path, number + 1, state) for number, state in enumerate(states)]
    for one in entries:
        one.directory.mkdir()

    assert gone(decide(entries, keep=2, max_age=None, now=NOW)) == []
    assert gone(decide(entries, keep=1, max_age=None, now=NOW)) == ["3", "4"]


def test_a_partial_folder_is_alive_as_long_as_its_process_holds_the_lock(tmp_path: Path) -> None:
    folder = tmp_path / "x.partial"
    folder.mkdir()
    with (folder / "lock").open("xb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        alive = look_at(folder, None)
    left = look_at(folder, None)

    assert alive is not None
    assert left is not None
    assert (alive.state, left.state) == (SnapshotState.BEING_TAKEN, SnapshotState.PARTIAL)


def test_a_partial_folder_without_a_lock_is_left_behind_when_it_is_old(tmp_path: Path) -> None:
    folder = tmp_path / "x.partial"
    folder.mkdir()
    young = look_at(folder, None)
    an_old_time = datetime.now(UTC).timestamp() - 7_200
    os.utime(folder, (an_old_time, an_old_time))
    old = look_at(folder, None)

    assert young is not None
    assert old is not None
    assert (young.state, old.state) == (SnapshotState.BEING_TAKEN, SnapshotState.PARTIAL)


@pytest.mark.parametrize(
    ("text", "expected"), [("30d", 30), ("12h", 0.5), ("2w", 14), ("90m", 0.0625), ("1.5", 1.5), (" 7D ", 7)]
)
def test_an_age_is_read(text: str, expected: float) -> None:
    assert days(text) == expected


@pytest.mark.parametrize("text", ["", "0d", "-1d", "1y", "d", "1d2h", "nan"])
def test_an_age_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="--older-than"):
        days(text)
