"""Reports over a real ledger: the same facts in HTML, JSON and CSV, whatever the keys are."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import text, update

import reports.html
from integrity.errors import ConfigurationError, LedgerError
from integrity.ledger import Ledger, open_ledger
from integrity.ledger.database import writing
from integrity.ledger.models import FindingClass, FindingState, PhaseName, Run, RunKind, RunState, Verdict
from integrity.ledger.store import NewFinding
from integrity.settings import Settings
from reports import ReportFiles, build_report, write_report
from reports.charts import throughput
from reports.display import key_from_text
from reports.model import Sample
from tests.unit import report_fixtures as runs
from tests.unit.report_pages import Page, written


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = open_ledger(Settings(state_dir=tmp_path))
    yield opened
    opened.close()


def test_pass_says_so_first(ledger: Ledger, tmp_path: Path) -> None:
    html, facts, rows = written(ledger, runs.passed(ledger, tmp_path), tmp_path / "report")
    page = Page(html)
    assert page.text.index("PASS") < page.text.index("Contents") < page.text.index("Coverage")
    assert "102,498 keys compared of 102,500 present on the source (99.99%)" in page.text
    assert "Dragonfly 1.34.2" in page.text
    assert "stand-in" not in page.text
    assert "contradicts itself" not in page.text
    assert next(iter(facts)) == "schema_version"
    assert facts["verdict"]["verdict"] == "PASS"  # type: ignore[index]
    assert facts["findings"] == []
    assert rows == []


def test_sections_stand_in_order(ledger: Ledger, tmp_path: Path) -> None:
    html, _, _ = written(ledger, runs.passed(ledger, tmp_path), tmp_path / "report")
    identifiers = [attrs["id"] for tag, attrs in Page(html).elements if tag == "section"]
    assert identifiers == [
        "verdict",
        "coverage",
        "rules",
        "run",
        "configuration",
        "endpoints",
        "approvals",
        "phases",
        "course",
        "timeline",
        "counts",
        "fingerprints",
        "expiry",
        "findings",
        "exceptions",
        "comparison",
        "artifacts",
        "integrity",
    ]


def test_each_verdict_has_its_own_look(ledger: Ledger, tmp_path: Path) -> None:
    made = (runs.passed, runs.failed, runs.inconclusive, runs.empty)
    views = [build_report(ledger, make(ledger, tmp_path)).verdict for make in made]
    assert [view.word for view in views] == ["PASS", "FAIL", "INCONCLUSIVE", "NO VERDICT"]
    assert len({view.tone for view in views}) == 4
    assert len({view.meaning for view in views}) == 4


def test_stand_in_is_named(ledger: Ledger, tmp_path: Path) -> None:
    html, _, _ = written(ledger, runs.failed(ledger, tmp_path), tmp_path / "report")
    note = "The target is Redis 7.0.15, not a Dragonfly: this run rehearses the pipeline with a stand-in."
    text = Page(html).text
    assert text.index(note) < text.index("Contents")


def test_hostile_keys_stay_text(ledger: Ledger, tmp_path: Path) -> None:
    html, _, _ = written(ledger, runs.failed(ledger, tmp_path), tmp_path / "report")
    page = Page(html)
    assert not page.unbalanced
    assert not page.open
    assert {tag for tag, _ in page.elements}.isdisjoint(
        {"script", "img", "b", "iframe", "object", "embed", "form"}
    )
    assert sum(tag == "h1" for tag, _ in page.elements) == 1
    assert not any(name.startswith("on") for _, attrs in page.elements for name in attrs)
    assert all(char.isprintable() or char == "\n" for char in html)
    whole = [key for key in runs.HOSTILE_KEYS if 0 < len(key) <= reports.html.KEY_BYTES_SHOWN]
    assert {key_from_text(shown) for shown in page.keys} >= set(whole)


def test_long_keys_are_cut_in_words(ledger: Ledger, tmp_path: Path) -> None:
    html, facts, _ = written(ledger, runs.failed(ledger, tmp_path), tmp_path / "report")
    assert "end-of-the-long-key" not in html
    assert "… and 4,019 more bytes; the whole key is in report.json and findings.csv" in Page(html).text
    assert "end-of-the-long-key" in json.dumps(facts)


def test_json_and_csv_hold_every_key_exactly(ledger: Ledger, tmp_path: Path) -> None:
    _, facts, rows = written(ledger, runs.failed(ledger, tmp_path), tmp_path / "report")
    findings = facts["findings"]
    assert isinstance(findings, list)
    assert [bytes.fromhex(row["key"]["hex"]) for row in findings] == list(runs.HOSTILE_KEYS)
    assert [key_from_text(row["key"]["text"]) for row in findings] == list(runs.HOSTILE_KEYS)
    assert [bytes.fromhex(row["key_hex"]) for row in rows] == list(runs.HOSTILE_KEYS)
    assert [key_from_text(row["key_text"]) for row in rows] == list(runs.HOSTILE_KEYS)
    assert {row["class"] for row in findings} == {found.value for found in FindingClass}


def test_json_finding_has_both_sides(ledger: Ledger, tmp_path: Path) -> None:
    _, facts, _ = written(ledger, runs.failed(ledger, tmp_path), tmp_path / "report")
    findings = facts["findings"]
    assert isinstance(findings, list)
    changed = next(row for row in findings if row["class"] == "value")
    assert list(changed) == [
        "class",
        "state",
        "rule",
        "database",
        "key",
        "source",
        "target",
        "detail",
        "first_seen_at",
        "last_seen_at",
        "age_seconds",
        "times_seen",
    ]
    assert changed["times_seen"] == 2
    assert 0 < changed["age_seconds"] < 60
    assert changed["source"] == {
        "kind": "string",
        "digest": bytes(range(16)).hex(),
        "expiry_ms": 1_795_394_909_123,
        "size": 28,
    }
    missing = next(row for row in findings if row["class"] == "missing")
    assert missing["target"] == {"kind": None, "digest": None, "expiry_ms": None, "size": None}


def test_csv_has_no_cell_that_a_spreadsheet_would_run(ledger: Ledger, tmp_path: Path) -> None:
    run_id = runs.failed(ledger, tmp_path)
    _, _, rows = written(ledger, run_id, tmp_path / "report")
    assert len(rows) == len(runs.HOSTILE_KEYS)
    for row in rows:
        for cell in row.values():
            assert not cell.startswith(tuple("=+-@\t\r＝＋－＠"))
    split_otherwise = [part for row in rows for part in row["key_text"].split(";")]
    assert not any(part.startswith("=") for part in split_otherwise)


def test_csv_tells_no_expiry_from_nothing_known(ledger: Ledger, tmp_path: Path) -> None:
    run = ledger.start_run(RunKind.VERIFY, Settings(state_dir=tmp_path))
    run.add_findings(
        PhaseName.VERIFY,
        [NewFinding(FindingClass.MISSING, 0, b"k", "string", source_expiry_ms=-1, source_size=0)],
    )
    _, _, rows = written(ledger, run.id, tmp_path / "report")
    assert (rows[0]["source_expiry_ms"], rows[0]["source_size"]) == ("none", "0")
    assert (rows[0]["target_expiry_ms"], rows[0]["target_size"]) == ("", "")


def test_many_findings_are_cut_in_words(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reports.html, "FINDINGS_SHOWN", 20)
    run = ledger.start_run(RunKind.VERIFY, Settings(state_dir=tmp_path))
    settled = [
        NewFinding(FindingClass.VALUE, 0, b"settled:%d" % number, state=FindingState.SETTLED)
        for number in range(40)
    ]
    opened = [NewFinding(FindingClass.VALUE, 0, b"open:%d" % number) for number in range(15)]
    run.add_findings(PhaseName.VERIFY, settled + opened)
    html, facts, rows = written(ledger, run.id, tmp_path / "report")
    page = Page(html)
    assert len(page.keys) == 20
    assert page.keys[:15] == [f"open:{number}" for number in range(15)]
    assert "The first 20 findings of 55 are shown, open ones first. 35 more are in report.json" in page.text
    assert len(facts["findings"]) == len(rows) == 55  # type: ignore[arg-type]


def test_failed_run_tells_its_error_without_the_password(ledger: Ledger, tmp_path: Path) -> None:
    files = write_report(ledger, runs.inconclusive(ledger, tmp_path), tmp_path / "report")
    text = Page(files.html.read_text("utf-8")).text
    assert "ServerUnreachable" in text
    assert "the connection was lost" in text
    assert "not a pass" in text


def test_run_with_nothing(ledger: Ledger, tmp_path: Path) -> None:
    html, facts, rows = written(ledger, runs.empty(ledger, tmp_path), tmp_path / "report")
    text = Page(html).text
    assert "NO VERDICT" in text
    assert "nothing was compared" in text
    assert "Neither server was identified" in text
    assert (facts["coverage"], facts["phases"], facts["findings"], rows) == (None, [], [], [])


def test_run_of_a_dead_process_is_said_to_have_stopped(ledger: Ledger, tmp_path: Path) -> None:
    run_id = runs.empty(ledger, tmp_path)
    with writing(ledger.engine) as connection:
        connection.execute(update(Run).where(Run.id == run_id).values(lease_until=Run.started_at))
    assert "did not end" in build_report(ledger, run_id).verdict.meaning


def test_pass_that_the_record_does_not_bear_out(ledger: Ledger, tmp_path: Path) -> None:
    run = ledger.start_run(RunKind.MIGRATE, Settings(state_dir=tmp_path))
    run.add_findings(PhaseName.VERIFY, [NewFinding(FindingClass.MISSING, 0, b"lost")])
    run.finish(RunState.FINISHED, verdict=Verdict.PASS, reason="All is well.")
    verdict = build_report(ledger, run.id).verdict
    assert len(verdict.contradictions) == 2
    html, _, _ = written(ledger, run.id, tmp_path / "report")
    text = Page(html).text
    assert text.index("The record contradicts itself") < text.index("Contents")
    assert "The verdict is PASS, but no key was compared." in text


def test_broken_chain_is_the_first_contradiction(ledger: Ledger, tmp_path: Path) -> None:
    run_id = runs.passed(ledger, tmp_path)
    with writing(ledger.engine) as connection:
        connection.execute(text("UPDATE event SET payload = '{}' WHERE sequence = 3"))
    report = build_report(ledger, run_id)
    assert not report.integrity.chain_intact
    assert report.integrity.broken_at == 3
    assert "broken at event 3" in report.verdict.contradictions[0]
    html, _, _ = written(ledger, run_id, tmp_path / "report")
    assert "BROKEN at event 3" in Page(html).text


def test_snapshot_run_needs_no_verdict(ledger: Ledger, tmp_path: Path) -> None:
    run = ledger.start_run(RunKind.SNAPSHOT, Settings(state_dir=tmp_path))
    run.finish(RunState.FINISHED, verdict=None, reason=None)
    assert "compares nothing" in build_report(ledger, run.id).verdict.meaning


def test_model_holds_what_the_ledger_tells(ledger: Ledger, tmp_path: Path) -> None:
    report = build_report(ledger, runs.failed(ledger, tmp_path))
    assert report.coverage is not None
    assert (report.coverage.compared, report.coverage.source_keys) == (102_498, 102_500)
    assert [row.agree for row in report.fingerprints] == [False, True]
    assert report.expiry is not None
    assert report.expiry.largest_drift_ms == 4
    assert report.findings == len(runs.HOSTILE_KEYS)
    assert report.source is not None
    assert report.source.databases == {0: 100_000, 3: 2_500}
    stream = next(phase for phase in report.phases if phase.name is PhaseName.STREAM)
    assert stream.keys_per_second == pytest.approx(102_500 / 6.8)
    assert len(stream.samples) == 24


def test_files_are_artifacts_of_the_run(ledger: Ledger, tmp_path: Path) -> None:
    run_id = runs.passed(ledger, tmp_path)
    files = write_report(ledger, run_id, tmp_path / "report")
    found = {row.kind: row for row in ledger.artifacts(run_id)}
    assert set(found) == {"rdb", "report-html", "report-json", "findings-csv"}
    for kind, path in (("report-html", files.html), ("report-json", files.json), ("findings-csv", files.csv)):
        assert found[kind].path == str(path)
        assert found[kind].sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_report_can_be_written_again(ledger: Ledger, tmp_path: Path) -> None:
    run_id = runs.failed(ledger, tmp_path)
    first = write_report(ledger, run_id, tmp_path / "report")
    assert write_report(ledger, run_id, tmp_path / "report") == first
    assert sorted(path.name for path in (tmp_path / "report").iterdir()) == [
        "findings.csv",
        "report.html",
        "report.json",
    ]


def test_folder_that_cannot_be_written(ledger: Ledger, tmp_path: Path) -> None:
    run_id = runs.empty(ledger, tmp_path)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(LedgerError) as caught:
        write_report(ledger, run_id, tmp_path / "file" / "report")
    assert caught.value.remedy
    with pytest.raises(LedgerError):
        write_report(ledger, run_id, tmp_path / "no\udcffutf8")


def test_failed_writing_leaves_the_earlier_report(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = runs.passed(ledger, tmp_path)
    files = write_report(ledger, run_id, tmp_path / "report")
    before = {path: path.read_bytes() for path in (files.html, files.json, files.csv)}

    def disk_full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("reports.findings_table.CsvTable", disk_full)
    with pytest.raises(LedgerError, match="No space left"):
        write_report(ledger, run_id, tmp_path / "report")
    assert {path: path.read_bytes() for path in (tmp_path / "report").iterdir()} == before


def test_unknown_run(ledger: Ledger, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError):
        write_report(ledger, "20200101-000000-ffffff", tmp_path / "report")
    assert not (tmp_path / "report").exists()


def test_importing_reports_is_cheap() -> None:
    code = "import sys, reports; print([name for name in ('pandas', 'jinja2', 'prefect') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_files_have_no_password_and_no_request(ledger: Ledger, tmp_path: Path) -> None:
    made = (runs.passed, runs.failed, runs.inconclusive, runs.empty, runs.ruled)
    for make in made:
        files = write_report(ledger, make(ledger, tmp_path), tmp_path / make.__name__)
        _assert_self_contained(files)
    for run_id in runs.repaired(ledger, tmp_path):
        _assert_self_contained(write_report(ledger, run_id, tmp_path / run_id))


def _assert_self_contained(files: ReportFiles) -> None:
    for path in (files.html, files.json, files.csv):
        assert runs.PASSWORD not in path.read_text("utf-8")
    html = files.html.read_text("utf-8")
    assert "http://" not in html
    assert "https://" not in html
    assert "@import" not in html
    targets = [
        attrs[name]
        for _, attrs in Page(html).elements
        for name in ("src", "href", "action", "data", "srcset", "xlink:href")
        if name in attrs
    ]
    allowed = {"data:,", files.json.name, files.csv.name}
    assert all(target in allowed or (target or "").startswith("#") for target in targets)
    assert "default-src 'none'" in html


def test_throughput_passes_over_moments_that_tell_nothing(ledger: Ledger, tmp_path: Path) -> None:
    report = build_report(ledger, runs.passed(ledger, tmp_path))
    phase = next(phase for phase in report.phases if phase.name is PhaseName.STREAM)
    samples = (Sample(0.01, 0, 0), Sample(1.01, 1_000, 0), Sample(2.01, 3_000, 0), Sample(2.02, 3_001, 0))
    shown = throughput(replace(phase, samples=samples))
    assert shown.chart is not None
    assert shown.slowest == pytest.approx(1_000)
    assert shown.fastest == pytest.approx(2_001 / 1.01)
    assert throughput(replace(phase, samples=samples[:1])).chart is None
    assert throughput(replace(phase, samples=())).chart is None


def test_names_from_a_server_cannot_become_markup(ledger: Ledger, tmp_path: Path) -> None:
    run = ledger.start_run(RunKind.VERIFY, Settings(state_dir=tmp_path, label="<i>label</i>"))
    run.tally(PhaseName.VERIFY, {(0, "<script>x"): (5, 0)})
    html, _, _ = written(ledger, run.id, tmp_path / "report")
    page = Page(html)
    assert {tag for tag, _ in page.elements}.isdisjoint({"script", "i"})
    assert "<script>x" in page.text
