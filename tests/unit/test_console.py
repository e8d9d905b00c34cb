"""The summary on the terminal: what the rules left out, how keys were copied, what was expected to differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path

import pytest

from flows.sequence import Outcome, read_outcome
from greenfly.console import print_outcome
from greenfly.exit_codes import ExitCode
from integrity.ledger import Ledger, open_ledger
from integrity.settings import Settings
from tests.unit import report_fixtures as runs


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
