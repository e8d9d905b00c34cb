"""Rules, exceptions, limits and repairs in reports: what was left out, what was expected, what was mended."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from sqlalchemy import update

from integrity.ledger import Ledger, open_ledger
from integrity.ledger.database import writing
from integrity.ledger.models import (
    FindingClass,
    FindingState,
    PhaseName,
    PhaseState,
    RepairAction,
    Run,
    RunKind,
    RunState,
    Verdict,
)
from integrity.ledger.store import NewFinding
from integrity.settings import FieldExpiryPolicy, RuleSettings, Settings, VerifySettings
from reports import build_report
from reports.display import key_from_text
from tests.cli import dig
from tests.unit import report_fixtures as runs
from tests.unit.report_pages import Page, written


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = open_ledger(Settings(state_dir=tmp_path))
    yield opened
    opened.close()


# -- rules -------------------------------------------------------------------------------------------------------------


def test_each_rule_says_what_it_left_out(ledger: Ledger, tmp_path: Path) -> None:
    rules = build_report(ledger, runs.ruled(ledger, tmp_path)).rules
    assert [(row.rule, row.stream, row.verify) for row in rules.left_out] == [
        ("include", 40, 40),
        ("exclude *:tmp", 30, 30),
        ("type json", 4, 4),
        ("include_types", 5, 5),
        ("max_bytes", 1, 1),
    ]
    assert (rules.stream_left_out, rules.verify_left_out, rules.out_of_scope) == (80, 80, 6)
    assert rules.database_map == {3: 0}
    assert [(rename.old, rename.new) for rename in rules.renames] == [("old:", "new:"), ("cut:", "")]


def test_a_count_under_an_unknown_rule_is_not_lost(ledger: Ledger, tmp_path: Path) -> None:
    run = ledger.start_run(RunKind.VERIFY, Settings(state_dir=tmp_path))
    run.phase_started(PhaseName.VERIFY)
    run.phase_ended(PhaseName.VERIFY, PhaseState.DONE, detail={"excluded": {"phase of the moon": 3}})
    rules = build_report(ledger, run.id).rules
    assert [(row.rule, row.stream, row.verify) for row in rules.left_out] == [("phase of the moon", None, 3)]


def test_rules_stand_on_the_page_as_text(ledger: Ledger, tmp_path: Path) -> None:
    html, facts, _ = written(ledger, runs.ruled(ledger, tmp_path), tmp_path / "report")
    page = Page(html)
    assert (
        "918 keys compared of 1,000 present on the source (91.80%); 80 left out by the run's rules."
        in page.text
    )
    assert "only keys that match user:* or <b>cart</b>:*" in page.text
    assert "only keys of type string or hash (left out: stream, <i>zset)" in page.text
    assert "no key that uses more than 500,000 bytes on the source" in page.text
    assert "6 keys could only come from keys that the rules leave out" in page.text
    assert "goes to database 0 of the target" in page.text
    assert {tag for tag, _ in page.elements}.isdisjoint({"b", "i"})
    assert dig(facts, "rules", "left_out", 1, "rule") == "exclude *:tmp"
    assert dig(facts, "coverage", "left_out") == 80


def test_keys_that_rules_leave_out_are_not_missing(ledger: Ledger, tmp_path: Path) -> None:
    verdict = build_report(ledger, runs.ruled(ledger, tmp_path)).verdict
    assert not any("were not met" in note for note in verdict.notes)
    assert not verdict.contradictions


def test_without_rules_the_page_says_so(ledger: Ledger, tmp_path: Path) -> None:
    html, _, _ = written(ledger, runs.passed(ledger, tmp_path), tmp_path / "report")
    text = Page(html).text
    assert "No rules were set" in text
    assert "No finding is an exception." in text
    assert "Repairs" not in text


# -- exceptions --------------------------------------------------------------------------------------------------------


def test_exceptions_are_grouped_by_rule(ledger: Ledger, tmp_path: Path) -> None:
    html, facts, rows = written(ledger, runs.ruled(ledger, tmp_path), tmp_path / "report")
    report = build_report(ledger, "latest")
    assert [(group.rule, dict(group.by_class)) for group in report.exceptions] == [
        ("expiry-limit", {FindingClass.EXPIRY: 3}),
        ("typed-rewrite", {FindingClass.NOT_CARRIED: 1}),
    ]
    text = Page(html).text
    assert "Dragonfly keeps no expiry further away than 268,435,455 seconds" in text
    findings = facts["findings"]
    assert isinstance(findings, list)
    assert {(row["class"], row["rule"]) for row in findings} == {
        ("not-carried", "typed-rewrite"),
        ("expiry", "expiry-limit"),
    }
    assert [row["rule"] for row in rows] == [row["rule"] for row in findings]
    twice = next(row for row in rows if row["times_seen"] == "2")
    assert float(twice["age_seconds"]) > 0


def test_a_finding_names_its_rule_once(ledger: Ledger, tmp_path: Path) -> None:
    html, _, _ = written(ledger, runs.ruled(ledger, tmp_path), tmp_path / "report")
    text = Page(html).text
    assert text.count("rule expiry-limit") == 3
    assert text.count("362,716,513,857 ms earlier") == 3
    assert "Seen 2 times over" in text


def test_an_exception_without_a_known_rule_is_told(ledger: Ledger, tmp_path: Path) -> None:
    run = ledger.start_run(RunKind.VERIFY, Settings(state_dir=tmp_path))
    run.add_findings(
        PhaseName.VERIFY,
        [
            NewFinding(FindingClass.VALUE, 0, b"a", state=FindingState.EXCEPTION, rule=rule)
            if index
            else NewFinding(FindingClass.VALUE, 0, b"b", state=FindingState.EXCEPTION)
            for index, rule in enumerate((None, "of-the-future"))
        ],
    )
    groups = {group.rule: group.meaning for group in build_report(ledger, run.id).exceptions}
    assert set(groups) == {"not recorded", "of-the-future"}
    assert "does not know" in groups["of-the-future"]


# -- limits ------------------------------------------------------------------------------------------------------------


def limit(report_limits: tuple[str, ...], name: str) -> str | None:
    return next((text for text in report_limits if text.startswith(f"{name}: ")), None)


@pytest.mark.parametrize(
    ("policy", "compared", "said"),
    [
        (FieldExpiryPolicy.AUTO, True, "were compared"),
        (FieldExpiryPolicy.AUTO, False, "neither server says that it holds"),
        (FieldExpiryPolicy.NEVER, False, "the run's settings say never"),
    ],
)
def test_field_expiries_are_told_as_they_were_treated(
    ledger: Ledger, tmp_path: Path, policy: FieldExpiryPolicy, compared: bool, said: str
) -> None:
    settings = Settings(state_dir=tmp_path, verify=VerifySettings(field_expiries=policy))
    run = ledger.start_run(RunKind.VERIFY, settings)
    runs.identified(run)
    run.phase_started(PhaseName.VERIFY)
    run.phase_ended(PhaseName.VERIFY, PhaseState.DONE, detail={"field_expiries": compared})
    told = limit(build_report(ledger, run.id).integrity.limits, "Hash fields")
    assert told is not None
    assert said in told
    assert ("whole seconds" in told) is compared


def test_limits_that_a_run_does_not_have_are_not_told(ledger: Ledger, tmp_path: Path) -> None:
    plain = build_report(ledger, runs.passed(ledger, tmp_path)).integrity.limits
    ruled = build_report(ledger, runs.ruled(ledger, tmp_path)).integrity.limits
    for name in ("Rules", "Sizes"):
        assert limit(plain, name) is None
        assert limit(ruled, name) is not None
    for name in ("Replica", "Repair"):
        assert limit(ruled, name) is None
    big = limit(plain, "Big values")
    assert big is not None
    assert "above 1.00 MiB" in big


def test_a_replica_is_named(ledger: Ledger, tmp_path: Path) -> None:
    run = ledger.start_run(RunKind.VERIFY, runs.settings(tmp_path))
    run.identify(
        source=runs.identity("redis", "redis://replica.example:6379", "7.0.15", databases={}),
        target=None,
        source_address="redis://app@blue.example:6379",
        target_address=None,
    )
    report = build_report(ledger, run.id)
    assert report.source is not None
    assert report.source.address == "redis://app@blue.example:6379"
    assert report.source.read_from == "redis://replica.example:6379"
    assert any("redis://replica.example:6379" in note for note in report.verdict.notes)
    assert limit(report.integrity.limits, "Replica") is not None
    html, _, _ = written(ledger, run.id, tmp_path / "report")
    assert "Read from replica" in Page(html).text
    plain = build_report(ledger, runs.passed(ledger, tmp_path)).source
    assert plain is not None
    assert plain.read_from is None


# -- repairs -----------------------------------------------------------------------------------------------------------


def test_a_repair_run_shows_each_key_before_and_after(ledger: Ledger, tmp_path: Path) -> None:
    parent, repair = runs.repaired(ledger, tmp_path)
    html, facts, _ = written(ledger, repair, tmp_path / "report")
    page = Page(html)
    assert not page.unbalanced
    assert {tag for tag, _ in page.elements}.isdisjoint({"script"})
    assert [key_from_text(key) for key in page.keys] == [b"<script>alert(1)</script>", b"gone", b"=1+1"]
    assert f"This run repairs run {parent}. It looked at 3 keys" in page.text
    assert "2 copied, 1 refused" in page.text
    assert "expiry set" not in page.text
    assert "1 finding of that run was still open" in page.text
    assert "nothing was compared" not in page.text
    log = facts["repair_log"]
    assert isinstance(log, list)
    assert [row["action"] for row in log] == ["copied", "settled", "not-repaired"]
    assert log[0]["before"] == {"source": bytes(16).hex(), "target": None}
    assert log[2]["after"] == {"source": bytes(16).hex(), "target": None}
    assert [bytes.fromhex(row["key"]["hex"]) for row in log] == [
        b"<script>alert(1)</script>",
        b"gone",
        b"=1+1",
    ]
    assert dig(facts, "run", "parent_id") == parent
    assert dig(facts, "repairs", "outcomes") == {"copied": 2, "refused": 1}


def test_the_repaired_run_keeps_its_verdict_and_names_the_repair(ledger: Ledger, tmp_path: Path) -> None:
    parent, repair = runs.repaired(ledger, tmp_path, left=0, verdict=Verdict.PASS)
    report = build_report(ledger, parent)
    assert report.verdict.verdict is Verdict.FAIL
    assert report.verdict.contradictions == ()
    assert any(repair in note and "PASS" in note for note in report.verdict.notes)
    assert report.repairs is not None
    assert [run.run_id for run in report.repairs.runs] == [repair]
    assert report.repairs.runs[0].actions == {
        RepairAction.COPIED: 1,
        RepairAction.DELETED: 1,
        RepairAction.SETTLED: 1,
    }
    html, _, rows = written(ledger, parent, tmp_path / "report")
    text = Page(html).text
    assert "1 run repaired this one" in text
    assert {row["state"] for row in rows} == {"repaired"}
    assert 'class="dotted"' in html, "the chart shows repaired findings"
    assert build_report(ledger, repair).verdict.contradictions == ()


def test_a_fail_that_nothing_explains_is_a_contradiction(ledger: Ledger, tmp_path: Path) -> None:
    run = ledger.start_run(RunKind.VERIFY, Settings(state_dir=tmp_path))
    run.finish(RunState.FINISHED, verdict=Verdict.FAIL, reason="It differs.")
    assert len(build_report(ledger, run.id).verdict.contradictions) == 1


def test_a_repair_that_passes_over_what_it_left_contradicts_itself(ledger: Ledger, tmp_path: Path) -> None:
    _, repair = runs.repaired(ledger, tmp_path, left=1, verdict=Verdict.PASS)
    assert build_report(ledger, repair).verdict.contradictions == (
        "The verdict is PASS, but 1 finding was not repaired.",
    )
    idle = ledger.start_run(RunKind.REPAIR, Settings(state_dir=tmp_path), parent_id=repair)
    idle.finish(RunState.FINISHED, verdict=Verdict.PASS, reason="All is well.")
    assert len(build_report(ledger, idle.id).verdict.contradictions) == 1


def test_many_repairs_are_cut_in_words(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reports.html.REPAIRS_SHOWN", 2)
    _, repair = runs.repaired(ledger, tmp_path)
    html, facts, _ = written(ledger, repair, tmp_path / "report")
    page = Page(html)
    assert len(page.keys) == 2
    assert "The first 2 of 3 are shown" in page.text
    log = facts["repair_log"]
    assert isinstance(log, list)
    assert len(log) == 3


def test_rules_of_another_shape_do_not_break_the_report(ledger: Ledger, tmp_path: Path) -> None:
    run = ledger.start_run(RunKind.VERIFY, Settings(state_dir=tmp_path, rules=RuleSettings()))
    shapes: tuple[Mapping[str, object], ...] = (
        {},
        {"rules": None},
        {"rules": {"include": "user:*", "rename": ["x"], "databases": {"a": 1}, "max_bytes": "1"}},
        {"rules": [1], "databases": "all", "throttle": 3},
    )
    for settings in shapes:
        with writing(ledger.engine) as connection:
            connection.execute(update(Run).where(Run.id == run.id).values(settings=dict(settings)))
        html, _, _ = written(ledger, run.id, tmp_path / "report")
        assert "No rules were set" in Page(html).text
