"""What an auditor asks beside the verdict: who decided, what was before, what proves the record, where to look."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import text, update

from integrity.audit.keys import SigningKey
from integrity.audit.seal import Seal
from integrity.ledger import Ledger, open_ledger
from integrity.ledger.assessments import read_assessment
from integrity.ledger.database import writing
from integrity.ledger.finding_waivers import waive_findings
from integrity.ledger.live_models import Approval
from integrity.ledger.models import (
    FindingClass,
    FindingState,
    PhaseName,
    PhaseState,
    RunKind,
    RunState,
    Verdict,
)
from integrity.ledger.store import CheckpointState, NewFinding
from integrity.ledger.taking_back import take_back
from integrity.ledger.vocabulary import Decision
from integrity.ledger.waived_findings import Subject
from integrity.rehearsal import REHEARSED
from integrity.settings import Settings
from reports import build_report
from reports.configuration import configuration_rows
from reports.finding_shapes import build_shapes
from reports.shape_charts import ranges_map, shape_charts
from tests.ledger import record_decision
from tests.unit import report_fixtures as runs
from tests.unit import report_live_fixtures as live
from tests.unit.report_pages import Page, written


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = open_ledger(Settings(state_dir=tmp_path))
    yield opened
    opened.close()


# -- decisions ---------------------------------------------------------------------------------------------------------


def test_a_cutover_shows_what_was_decided_in_its_sync_run(ledger: Ledger, tmp_path: Path) -> None:
    sync = live.following(ledger, tmp_path)
    record_decision(ledger.engine, sync.id, "cutover", Decision.APPROVED, "lin", "<b>go</b>")
    with writing(ledger.engine) as connection:
        connection.execute(update(Approval).values(at=datetime.now(UTC) - timedelta(hours=1)))
    run_id = live.cutover(ledger, tmp_path, sync.id)
    record_decision(ledger.engine, sync.id, "cutover", Decision.REJECTED, "too late", "after its end")
    approvals = build_report(ledger, run_id).approvals
    assert approvals.gates_of == sync.id
    assert [(row.by, row.run_id) for row in approvals.decisions] == [
        ("lin", sync.id),
        ("ada", run_id),
        ("grace", run_id),
    ]
    later = live.cutover(ledger, tmp_path, sync.id)
    assert "lin" not in {row.by for row in build_report(ledger, later).approvals.decisions}


def test_what_somebody_let_pass_has_owner_and_date(ledger: Ledger, tmp_path: Path) -> None:
    run_id = runs.failed(ledger, tmp_path)

    def waive(subject: Subject) -> None:
        waive_findings(
            ledger.engine,
            run_id,
            subject,
            by="grace",
            why="<i>known</i>",
            days=3,
            most_days=9,
            most_findings=100,
            separate=True,
        )

    waive(Subject(FindingClass.VALUE, 0, key=runs.HOSTILE_KEYS[3]))
    waive(Subject(FindingClass.MISSING, pattern="cache:*"))
    report = build_report(ledger, run_id)
    assert [(row.owner, row.state, row.given_on, row.pattern) for row in report.waivers] == [
        ("grace", "in force", run_id, None),
        ("grace", "in force", run_id, "cache:*"),
    ]
    assert all(row.until - row.at == timedelta(days=3) for row in report.waivers)
    assert report.verdict.verdict is Verdict.FAIL
    page = Page(written(ledger, run_id, tmp_path / "report")[0])
    assert "<i>known</i>" in page.text
    assert build_report(ledger, runs.ruled(ledger, tmp_path)).exceptions[0].owner


# -- the run before ----------------------------------------------------------------------------------------------------


def test_a_run_is_laid_beside_the_newest_earlier_one_of_its_kind(ledger: Ledger, tmp_path: Path) -> None:
    first = runs.passed(ledger, tmp_path)
    assert build_report(ledger, first).comparison is not None
    other = runs.failed(ledger, tmp_path)
    comparison = build_report(ledger, other).comparison
    assert comparison is not None
    assert (comparison.previous_id, comparison.previous_verdict) == (first, Verdict.PASS)
    rows = {change.what: change for change in comparison.changes}
    assert (rows["verdict"].before, rows["verdict"].after, rows["verdict"].notable) == ("PASS", "FAIL", True)
    assert rows["findings, open missing"].before == "0"
    page = Page(written(ledger, other, tmp_path / "report")[0])
    assert first in page.text
    alone = build_report(ledger, first).comparison
    assert alone is not None
    assert (alone.previous_id, alone.changes) == (None, ())


def test_a_rehearsal_says_so_and_is_compared_with_a_rehearsal(ledger: Ledger, tmp_path: Path) -> None:
    runs.passed(ledger, tmp_path)
    made = []
    for _ in range(2):
        run = ledger.start_run(RunKind.MIGRATE, runs.settings(tmp_path))
        run.event(REHEARSED, {"scratch": "redis://scratch"})
        runs.identified(run)
        run.finish(RunState.FINISHED, verdict=Verdict.PASS, reason="All agree.")
        made.append(run.id)
    report = build_report(ledger, made[1])
    assert report.run.rehearsal
    assert report.comparison is not None
    assert (report.comparison.previous_id, report.comparison.rehearsals) == (made[0], True)
    assert "yes: into a scratch server" in Page(written(ledger, made[1], tmp_path / "report")[0]).text
    assert build_report(ledger, live.watched(ledger, tmp_path, None)).comparison is None


# -- the record --------------------------------------------------------------------------------------------------------


def test_signed_checkpoints_are_shown_and_one_that_does_not_fit_contradicts(
    ledger: Ledger, tmp_path: Path
) -> None:
    run_id = runs.passed(ledger, tmp_path)
    assert build_report(ledger, run_id).integrity.covered is None
    key = SigningKey(Ed25519PrivateKey.generate())
    signed = Seal(key, None).sign_head(ledger.engine)
    report = build_report(ledger, run_id)
    proof = report.integrity
    assert (proof.checkpoints, proof.covered, proof.key_ids) == (1, True, (key.public.id,))
    assert proof.newest is not None
    assert (proof.newest.sequence, proof.newest.head) == (signed.sequence, signed.head)
    assert report.verdict.contradictions == ()
    later = runs.empty(ledger, tmp_path)
    assert build_report(ledger, later).integrity.covered is False
    # Whoever makes the chain anew makes it fit itself, but not what was signed.
    with writing(ledger.engine) as connection:
        connection.execute(
            text("UPDATE event SET payload = replace(payload, :old, :new)"),
            {"old": signed.head, "new": "0" * 64},
        )
    changed = build_report(ledger, run_id)
    assert changed.verdict.contradictions
    assert not changed.integrity.chain_intact


def test_a_missing_piece_of_the_chain_is_named(ledger: Ledger, tmp_path: Path) -> None:
    run_id = runs.passed(ledger, tmp_path)
    with writing(ledger.engine) as connection:
        connection.execute(text("DELETE FROM event WHERE sequence = 5"))
    report = build_report(ledger, run_id)
    assert (report.integrity.broken_at, report.integrity.problem) == (5, "event 5 is missing")
    page = Page(written(ledger, run_id, tmp_path / "report")[0])
    assert "BROKEN at event 5" in page.text
    assert page.text.index("broken at event 5") < page.text.index("Contents")


def test_a_ledger_of_an_older_schema_is_brought_up_and_reported(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path)
    ledger = open_ledger(settings)
    run_id = runs.failed(ledger, tmp_path)
    whole = written(ledger, run_id, tmp_path / "before")[2]
    with writing(ledger.engine) as connection:
        connection.execute(text("UPDATE run SET lease_until = started_at"))
    take_back(ledger.engine, "0002", lose_rows=True)
    ledger.close()
    again = open_ledger(settings)
    try:
        assert read_assessment(again.engine, run_id) is None
        html, facts, rows = written(again, run_id, tmp_path / "after")
    finally:
        again.close()
    assert rows == whole
    assert "FAIL" in html
    assert facts["finding_shapes"] is not None


# -- before and after --------------------------------------------------------------------------------------------------


def test_both_servers_are_shown_before_and_after(ledger: Ledger, tmp_path: Path) -> None:
    run = ledger.start_run(RunKind.VERIFY, runs.settings(tmp_path))
    runs.identified(run)
    run.phase_started(PhaseName.VERIFY)
    after = runs.identity("dragonfly", "rediss://app@green.example:6380", "1.34.2", databases={0: 7})
    looked = datetime(2026, 11, 23, 1, 2, 3, tzinfo=UTC)
    run.phase_ended(
        PhaseName.VERIFY,
        PhaseState.DONE,
        detail={
            "afterwards": {"target": after},
            "rechecked_at": looked.isoformat(),
            "compared": 1,
            "source_keys": 1,
        },
    )
    report = build_report(ledger, run.id)
    assert report.source_after is not None
    assert (report.source_after.unknown, report.source_after.keys) == ("it did not answer", None)
    assert report.target_after is not None
    assert (report.target_after.keys, report.target_after.title) == (7, "Dragonfly 1.34.2")
    assert report.coverage is not None
    assert report.coverage.last_recheck_at == looked
    page = Page(written(ledger, run.id, tmp_path / "report")[0])
    assert "Afterwards" in page.text
    assert "2026-11-23 01:02:03 UTC" in page.text


def test_chosen_settings_come_before_defaults() -> None:
    from integrity.settings import public_view

    rows = configuration_rows(public_view(Settings(workers=7, label="<b>x")))
    assert {"workers", "label"} <= {name for name, _ in rows.chosen}
    assert not {"workers", "label"} & {name for _, inner in rows.defaults for name, _ in inner}
    assert dict(rows.defaults)["verify"]
    assert configuration_rows({"gone": {"by": 3}}).chosen == (("gone.by", "3"),)


# -- where findings are ------------------------------------------------------------------------------------------------


def found(ledger: Ledger, keys: list[bytes], state: FindingState = FindingState.OPEN) -> str:
    run = ledger.start_run(RunKind.VERIFY, Settings())
    run.add_findings(
        PhaseName.VERIFY,
        [NewFinding(FindingClass.VALUE, 0, key, "string", "hash", state=state) for key in keys],
    )
    return run.id


def test_findings_are_counted_by_how_their_keys_begin(ledger: Ledger) -> None:
    keys = [b"app:user:%d:name" % number for number in range(60)]
    keys += [b"app:cart:%d" % number for number in range(30)]
    keys += [b"\xff<b>:%d" % number for number in range(6)] + [b"plain", b""]
    shapes = build_shapes(ledger, found(ledger, keys))
    assert shapes is not None
    assert {row.name: row.open for row in shapes.by_prefix} == {
        "app:user:": 60,
        "app:cart:": 30,
        "\\xff<b>:": 6,
        "": 2,
    }
    assert [(row.name, row.open) for row in shapes.by_type] == [("string and hash", 98)]
    assert (shapes.other_types, shapes.other_prefixes) == (0, 0)
    assert [chart.title for chart in shape_charts(shapes)] == [
        "Findings by type",
        "Findings by how their keys begin",
    ]


def test_very_many_beginnings_are_told_together(ledger: Ledger) -> None:
    keys = [b"%d:x" % number for number in range(300)]
    shapes = build_shapes(ledger, found(ledger, keys, FindingState.EXCEPTION))
    assert shapes is not None
    assert len(shapes.by_prefix) == 12
    assert sum(row.exceptions for row in shapes.by_prefix) + shapes.other_prefixes == 300
    assert all(row.open == 0 for row in shapes.by_prefix)
    assert build_shapes(ledger, found(ledger, [b"a"], FindingState.SETTLED)) is None


def test_the_map_of_ranges_has_a_cell_for_each(ledger: Ledger) -> None:
    run = ledger.start_run(RunKind.MIGRATE, Settings())
    for index, done in ((0, True), (1, False), (3, True)):
        run.checkpoint(PhaseName.STREAM, "r", CheckpointState(0, 9, 1, 5, 50, done, index, 4))
    run.checkpoint(PhaseName.VERIFY, "r", CheckpointState(0, 0, 1, 5, 50, True, 1_999, 2_000))
    first, second = build_report(ledger, run.id).ranges
    assert [(cell.first, cell.last, cell.state) for cell in first.cells] == [
        (0, 0, "done"),
        (1, 1, "begun"),
        (2, 2, "not begun"),
        (3, 3, "done"),
    ]
    assert len(second.cells) == 500
    assert (second.cells[-1].first, second.cells[-1].last, second.cells[-1].state) == (1_996, 1_999, "begun")
    drawn = ranges_map((first, second))
    assert drawn is not None
    assert drawn.svg.count("<rect") == 504
    assert "stream, database 0: 2 of 4 ranges done, 1 begun, 1 not begun" in drawn.description


# -- readable by everybody ---------------------------------------------------------------------------------------------


def test_every_page_can_be_read_by_keyboard_and_screen_reader(ledger: Ledger, tmp_path: Path) -> None:
    sync = live.following(ledger, tmp_path)
    made = [
        *(make(ledger, tmp_path) for make in (runs.passed, runs.failed, runs.empty, runs.ruled)),
        sync.id,
        live.cutover(ledger, tmp_path, sync.id),
        live.watched(ledger, tmp_path, sync.id),
    ]
    for run_id in made:
        page = Page(written(ledger, run_id, tmp_path / run_id)[0])
        levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
        assert levels[0] == levels.count(1) == 1
        assert all(after <= before + 1 for before, after in pairwise(levels))
        identifiers = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
        assert len(identifiers) == len(set(identifiers))
        for tag, attrs in page.elements:
            named = (attrs.get("aria-labelledby") or "").split()
            assert set(named) <= set(identifiers)
            if tag == "svg" and attrs.get("role") == "img":
                assert len(named) == 2
            if attrs.get("role") == "region":
                assert attrs.get("tabindex") == "0"
                assert attrs.get("aria-label")
            if tag == "a" and (attrs.get("href") or "").startswith("#"):
                assert (attrs["href"] or "")[1:] in identifiers
        charts = [
            attrs
            for tag, attrs in page.elements
            if tag == "svg" and (attrs.get("class") or "").startswith("chart")
        ]
        assert all(attrs.get("role") == "img" or attrs.get("aria-hidden") == "true" for attrs in charts)
        assert ".." not in re.sub(r"\.\.\.|\w\.\.\w", "", page.text)


def luminance(colour: str) -> float:
    digits = colour if len(colour) == 6 else "".join(2 * digit for digit in colour)
    parts = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    red, green, blue = (
        part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_every_text_colour_stands_out_from_its_paper() -> None:
    css = Path("reports/templates/report.css")
    sheets = re.findall(r":root \{(.*?)\}", css.read_text("utf-8"), re.DOTALL)[:2]
    for sheet in sheets:
        colours = dict(re.findall(r"--([a-z]+): #([0-9a-f]+)", sheet))
        for paper in ("paper", "wash"):
            for name in ("ink", "soft", "link", "pass", "exceptions", "fail", "inconclusive", "none"):
                lighter, darker = sorted((luminance(colours[name]), luminance(colours[paper])), reverse=True)
                assert (lighter + 0.05) / (darker + 0.05) >= 4.5, (name, paper)
