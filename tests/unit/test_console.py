"""The terminal: what the rules left out, how keys were copied, what was expected to differ; what live runs show."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from flows.sequence import Outcome, PhaseOutcome, read_outcome
from greenfly.commands.run_live import LiveRun, read_live
from greenfly.console import LineProgress, print_outcome
from greenfly.exit_codes import ExitCode
from integrity.ledger import Ledger, open_ledger
from integrity.ledger.models import RunKind
from integrity.ledger.sync_board import SyncStatus, read_status
from integrity.ledger.vocabulary import Direction, SyncState
from integrity.settings import Settings
from tests.unit import report_fixtures as runs
from tests.unit import report_live_fixtures as live


@dataclass(frozen=True, slots=True)
class OutcomeWithRules(Outcome):
    """An outcome that tells its exceptions by rule."""

    exceptions: Mapping[str, int] = field(default_factory=dict)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = open_ledger(Settings(state_dir=tmp_path))
    yield opened
    opened.close()


def printed(outcome: Outcome, capsys: pytest.CaptureFixture[str]) -> str:
    print_outcome(outcome, ExitCode.OK, as_json=False)
    return capsys.readouterr().out


def test_summary_names_rules_and_unusual_ways(
    ledger: Ledger, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = printed(read_outcome(ledger, runs.ruled(ledger, tmp_path)), capsys).splitlines()
    stream = next(number for number, line in enumerate(lines) if line.startswith("  stream"))
    assert lines[stream + 1].strip() == (
        "12 written with typed commands, 5 too big to be read whole, 7 taken under an older RDB version"
    )
    (left_out,) = [line for line in lines if line.startswith("  left out")]
    assert left_out.startswith("  left out  80 keys: 40 by include, 30 by exclude *:tmp, 4 by type ReJSON-RL")


def test_summary_groups_exceptions_by_rule(
    ledger: Ledger, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = read_outcome(ledger, runs.ruled(ledger, tmp_path))
    values = {f.name: getattr(plain, f.name) for f in fields(Outcome)}
    outcome = OutcomeWithRules(**values | {"exceptions": {"typed-rewrite": 1, "expiry-limit": 3}})
    assert "  expected  3 by rule expiry-limit, 1 by rule typed-rewrite\n" in printed(outcome, capsys)


def test_summary_of_a_plain_run_stays_short(
    ledger: Ledger, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = printed(read_outcome(ledger, runs.passed(ledger, tmp_path)), capsys)
    for word in ("left out", "expected", "typed commands", "too big"):
        assert word not in text


# -- live runs ---------------------------------------------------------------------------------------------------------


def test_summary_names_the_sync_that_an_operation_rests_on(
    ledger: Ledger, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sync = live.following(ledger, tmp_path)
    cutover = live.cutover(ledger, tmp_path, sync.id)

    lines = printed(read_outcome(ledger, cutover), capsys).splitlines()

    assert f"  sync      run {sync.id}" in lines
    assert not [line for line in lines if "repairs" in line]


def test_summary_of_a_repair_names_what_it_repairs(
    ledger: Ledger, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = read_outcome(ledger, runs.passed(ledger, tmp_path))
    outcome = replace(plain, kind=RunKind.REPAIR, repairs="20260101-000000-abcdef")
    assert "  repairs   run 20260101-000000-abcdef\n" in printed(outcome, capsys)


def test_following_has_no_rate(ledger: Ledger, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = read_outcome(ledger, runs.passed(ledger, tmp_path))
    followed = PhaseOutcome("sync", "done", 259, 0, 84.7, {"removed": 3})
    text = printed(replace(plain, kind=RunKind.SYNC, phases=(followed,)), capsys)
    assert "  sync      259 keys carried over, 3 removed, in 1 min 25 s\n" in text

    progress = LineProgress()
    for name in ("sync", "stream"):
        progress.phase(name, 0)
        progress.advance(1000, 1000)
        progress.phase_ended()
    first, second = capsys.readouterr().err.splitlines()
    assert ("keys/s" in first, "keys/s" in second) == (False, True)


def test_a_sync_run_shows_its_board(ledger: Ledger, tmp_path: Path) -> None:
    sync = live.following(ledger, tmp_path)
    board = read_status(ledger.engine, sync.id)
    assert board is not None

    shown = read_live(ledger, ledger.find_run(sync.id))

    assert shown.to_dict() == {"board": board.to_dict(), "steps": []}
    text = "\n".join(shown.lines(datetime.now(UTC)))
    for part in (
        board.direction.value,
        board.feed,
        f"{board.dirty:,} keys",
        f"{board.unproven:,} to compare",
    ):
        assert part in text
    assert "  gap       none" in text.splitlines()


def test_the_gap_of_a_board_is_shown_without_a_password() -> None:
    gap = f"redis://app:{runs.PASSWORD}@blue restarted"
    status = SyncStatus(Direction.FORWARD, SyncState.COMPARING, "tracking", gap=gap)

    text = "\n".join(LiveRun(status, ()).lines(datetime.now(UTC)))

    assert "@blue restarted" in text
    assert runs.PASSWORD not in text
    assert "  clean     never" in text.splitlines()


def test_an_operation_shows_its_steps(ledger: Ledger, tmp_path: Path) -> None:
    sync = live.following(ledger, tmp_path)
    cutover = live.cutover(ledger, tmp_path, sync.id)

    shown = read_live(ledger, ledger.find_run(cutover))
    lines = shown.lines(datetime.now(UTC))[1:]

    assert shown.board is None
    assert [line.split()[0] for line in lines] == [name for name, _, _ in live.CUTOVER]
    assert all(line.split()[1] == "done" for line in lines)
    steps = shown.to_dict()["steps"]
    assert isinstance(steps, list)
    assert [(step["name"], step["budget_seconds"]) for step in steps] == [
        (name, budget) for name, budget, _ in live.CUTOVER
    ]


def test_a_migration_shows_neither_board_nor_steps(ledger: Ledger, tmp_path: Path) -> None:
    shown = read_live(ledger, ledger.find_run(runs.passed(ledger, tmp_path)))
    assert (shown.board, shown.steps, shown.lines(datetime.now(UTC))) == (None, (), [])
