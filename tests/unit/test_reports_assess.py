"""An assessment in report and terminal, and in the documentation."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from integrity.assess.assessment import census_to_dict
from integrity.assess.grade import grade
from integrity.assess.model import Outcome, Result, Severity
from integrity.assess.registry import all_checks
from integrity.census.model import Census, KeyFact, Seen
from integrity.ledger import Ledger, RunHandle, open_ledger
from integrity.ledger.assessments import AssessmentRecord, RecordedResult, record_assessment
from integrity.ledger.models import PhaseName, PhaseState, RunKind, RunState, Verdict
from integrity.ledger.waivers import add_waiver
from integrity.settings import Settings
from integrity.strategy import Strategy
from reports import write_report
from reports.assess_text import assessment_lines
from reports.assessing import build_assessment
from reports.build import build_report
from tests.cli import dig
from tests.unit.report_pages import Page

HOSTILE = "<script>alert('x')</script>\x1b[31m\u202e"
AT = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with closing(open_ledger(Settings(state_dir=tmp_path / "state"))) as opened:
        yield opened


def result(check: str, outcome: Outcome, severity: Severity, *items: str) -> Result:
    return Result(
        check, f"Title {HOSTILE}", outcome, severity, f"Summary {HOSTILE}", {"note": HOSTILE}, "Do it.", items
    )


CENSUS = Census(
    full=False,
    keys_present=1_000_000,
    keys_looked_at=50_000,
    seconds=2.5,
    method="In 16 stretches.",
    databases={0: Seen(1_000_000, 50_000, whole=False)},
    excluded={"exclude tmp:*": 12},
    types={"string": 40_000, "hash": 10_000},
    sizes={"<=64 B": 30_000, "<=256 B": 20_000},
    expiries={"none": 50_000},
    bytes_by_type={"string": 4_000_000, "hash": 2_000_000},
    big=(KeyFact(0, b"user:\xff<b>", "hash", 1 << 27, 99),),
    hot_method="The server does not count.",
)


def assessed(ledger: Ledger, tmp_path: Path, verdict: Verdict | None = Verdict.FAIL) -> RunHandle:
    """A run that assessed: one blocking, one waived, one warning, one unknown, one passed, one left out."""
    run = ledger.start_run(RunKind.ASSESS, Settings(state_dir=tmp_path / "state"))
    run.identify(
        source=None, target=None, source_address="redis://blue:6379", target_address="redis://green:6379"
    )
    waiver = add_waiver(
        ledger.engine,
        source="redis://blue:6379",
        target="redis://green:6379",
        check_id="b.waived",
        outcome=Outcome.FOUND,
        items=["lcs"],
        why=f"because {HOSTILE}",
        by="ann",
        until=datetime.now(UTC) + timedelta(days=1),
        run_id=run.id,
    )
    results = [
        RecordedResult(result("e.passed", Outcome.PASSED, Severity.INFO)),
        RecordedResult(result("d.unknown", Outcome.UNKNOWN, Severity.WARNING)),
        RecordedResult(result("c.warning", Outcome.FOUND, Severity.WARNING)),
        RecordedResult(result("b.waived", Outcome.FOUND, Severity.BLOCKING, "lcs"), (waiver.id,)),
        RecordedResult(result("a.blocking", Outcome.FOUND, Severity.BLOCKING, HOSTILE)),
        RecordedResult(result("f.other", Outcome.NOT_APPLICABLE, Severity.INFO)),
    ]
    record_assessment(
        ledger.engine,
        AssessmentRecord(
            run.id,
            "redis://blue:6379",
            "redis://green:6379",
            Strategy.COPY,
            "sampled",
            AT,
            {
                "asked": "auto",
                "why": [f"Because {HOSTILE}"],
                "left_out": ["g.left"],
                "grade": grade([each.result for each in results], CENSUS, 1_000_000, 0).to_dict(),
                "verdict": "FAIL",
                "reason": "1 check blocking: a.blocking.",
                "census": census_to_dict(CENSUS),
            },
        ),
        results,
    )
    run.phase_started(PhaseName.ASSESS)
    run.phase_ended(PhaseName.ASSESS, PhaseState.DONE, detail={})
    run.finish(RunState.FINISHED, verdict=verdict, reason="1 check blocking: a.blocking.")
    return run


def test_groups_come_worst_first_and_hold_what_belongs_there(ledger: Ledger, tmp_path: Path) -> None:
    made = build_assessment(ledger, assessed(ledger, tmp_path).id)
    assert made is not None
    shown = {group: [each.check for each in results] for group, _, results in made.groups}
    assert list(shown) == ["blocking", "waived", "warning", "passed", "not-applicable"]
    assert shown["blocking"] == ["a.blocking"]
    assert shown["warning"] == ["d.unknown", "c.warning"]
    assert made.census is not None
    assert [histogram.name for histogram in made.census.histograms] == [
        "types",
        "sizes",
        "expiries",
        "bytes_by_type",
    ]
    assert made.census.histograms[1].rows == (("<=64 B", 30_000), ("<=256 B", 20_000))
    assert made.census.big[0].key == "user:\\xff<b>"
    assert made.census.unseen_at_most == CENSUS.unseen_at_most > 0


def test_the_terminal_shows_everything_and_nothing_that_a_terminal_obeys(
    ledger: Ledger, tmp_path: Path
) -> None:
    made = build_assessment(ledger, assessed(ledger, tmp_path).id)
    assert made is not None
    text = "\n".join(assessment_lines(made))
    for part in (
        "a.blocking",
        "waived for lcs by ann",
        "g.left",
        "Complexity",
        "50,000 of 1,000,000",
        "In 16 stretches",
    ):
        assert part in text
    assert (
        text.index("a.blocking") < text.index("b.waived") < text.index("c.warning") < text.index("e.passed")
    )
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f\u202e]", text)


def test_the_page_and_the_json_file_hold_it_with_hostile_text_escaped(ledger: Ledger, tmp_path: Path) -> None:
    run = assessed(ledger, tmp_path)
    files = write_report(ledger, run.id, tmp_path / "report")
    page = files.html.read_text("utf-8")
    assert Page(page).unbalanced == []
    assert "<script" not in page
    assert "\u202e" not in page
    for part in (
        'id="assessment"',
        "Complexity",
        "a.blocking",
        "Waived by ann",
        "g.left",
        'class="chart bars"',
    ):
        assert part in page
    for absent in ('id="coverage"', 'id="fingerprints"', 'id="rules"'):
        assert absent not in page
    document = json.loads(files.json.read_text("utf-8"))
    assert dig(document, "assessment", "strategy") == "copy"
    assert dig(document, "assessment", "grade", "letter") == "D"
    assert dig(document, "assessment", "census", "excluded") == {"exclude tmp:*": 12}
    assert [dig(each, "group") for each in document["assessment"]["results"]].count("blocking") == 1
    assert document["findings"] == []


def test_a_verdict_that_the_results_do_not_bear_out_is_said_to_contradict_them(
    ledger: Ledger, tmp_path: Path
) -> None:
    lied = build_report(ledger, assessed(ledger, tmp_path, Verdict.PASS).id)
    assert any("a.blocking" in text for text in lied.verdict.contradictions)
    honest = build_report(ledger, assessed(ledger, tmp_path).id)
    assert honest.verdict.contradictions == ()
    assert any("waived by ann" in note for note in honest.verdict.notes)
    assert any("g.left" in note for note in honest.verdict.notes)
    assert any("sample" in note for note in honest.verdict.notes)


def test_a_run_whose_assessment_was_switched_off_says_so(ledger: Ledger, tmp_path: Path) -> None:
    run = ledger.start_run(RunKind.MIGRATE, Settings(state_dir=tmp_path / "state"))
    run.phase_started(PhaseName.ASSESS)
    run.phase_ended(PhaseName.ASSESS, PhaseState.SKIPPED, detail={})
    report = build_report(ledger, run.id)
    assert report.assessment is None
    assert any("switched off" in note for note in report.verdict.notes)
    page = write_report(ledger, run.id, tmp_path / "report").html.read_text("utf-8")
    assert 'id="assessment"' not in page


def test_the_page_of_the_documentation_lists_every_check_as_it_is() -> None:
    text = (Path(__file__).parents[2] / "docs" / "assess.md").read_text("utf-8")
    rows = re.findall(
        r"^\| `([a-z]+\.[a-z-]+)` \| (.+?) \| (\w+) \| (yes)? ?\| ?(\w*) ?\| (yes)? ?\|$", text, re.MULTILINE
    )
    listed = [
        (name, title, worst, bool(census), road, bool(gate))
        for name, title, worst, census, road, gate in rows
    ]
    expected = []
    for check in all_checks():
        road = next(iter(check.strategies)).value if len(check.strategies) == 1 else ""
        gate = check.at_cutover and road != Strategy.NATIVE.value
        expected.append((check.id, check.title, check.worst.value, check.needs_census, road, gate))
    assert listed == expected
