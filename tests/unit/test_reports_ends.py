"""Reports: both ends before and after, masters and fences node by node, and where a page sends its readers."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

import reports.html
from integrity.ledger import Ledger, RunHandle, open_ledger
from integrity.ledger.models import FindingClass, PhaseName, PhaseState, RunKind, RunState, Verdict
from integrity.ledger.steps import StepBook
from integrity.ledger.store import NewFinding
from integrity.ledger.vocabulary import StepState
from integrity.settings import Settings
from reports import build_report, write_report
from reports.beside import Beside
from reports.model import ShardView
from reports.write import ReportFormat
from tests.cli import Greenfly
from tests.inprocess import run_here
from tests.unit import report_fixtures as runs
from tests.unit.report_pages import Page, written


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = open_ledger(Settings(state_dir=tmp_path))
    yield opened
    opened.close()


def shard(number: int, keys: int) -> dict[str, object]:
    return {
        "node_id": f"{number:040x}",
        "address": f"redis://blue-{number}:6379",
        "run_id": f"{number + 7:040x}",
        "version": "7.0.15",
        "keys": keys,
        "slots": f"{number * 100}-{number * 100 + 99}",
        "slots_moving": number,
    }


def cluster(*keys: int) -> dict[str, object]:
    facts = runs.identity("redis", "redis+cluster://blue:6379", "7.0.15", databases={0: sum(keys)})
    return facts | {"shards": [shard(number, held) for number, held in enumerate(keys)]}


def operation(ledger: Ledger, state_dir: Path, afterwards: dict[str, object], **seen: object) -> RunHandle:
    """A cutover that looked at both servers before it began, and again at its end."""
    run = ledger.start_run(RunKind.CUTOVER, Settings(state_dir=state_dir))
    now = datetime.now(UTC).isoformat()
    green = runs.identity("dragonfly", "redis://green:6379", "1.40.1", databases={0: 30})
    run.identify(
        source=cluster(10, 20) | {"observed_at": now} | seen,
        target=green,
        source_address="redis+cluster://blue:6379",
        target_address="redis://green:6379",
    )
    run.phase_started(PhaseName.CUTOVER)
    run.phase_ended(PhaseName.CUTOVER, PhaseState.DONE, detail={"afterwards": afterwards})
    run.finish(RunState.FINISHED, verdict=Verdict.PASS, reason="Applications are on green.")
    return run


def test_a_cutover_tells_both_sides_before_and_after_and_why_one_is_not_known(
    ledger: Ledger, tmp_path: Path
) -> None:
    gone = "Target redis://green:6379: cannot connect (Connection refused)."
    run = operation(ledger, tmp_path, {"source": cluster(11, 22, 33), "target": {"unknown": gone}})
    report = build_report(ledger, run.id)
    assert report.source is not None
    assert report.target is not None
    assert report.source_after is not None
    assert report.target_after is not None
    assert [report.source.seen_earlier, report.target.seen_earlier] == [False, True]
    assert [s.keys for s in report.source.shards] == [10, 20]
    assert report.source_after.shards[2] == ShardView(
        node_id=f"{2:040x}",
        address="redis://blue-2:6379",
        server_run_id=f"{9:040x}",
        version="7.0.15",
        slots="200-299",
        slots_moving=2,
        keys=33,
    )
    assert report.target_after.unknown == gone
    assert report.target_after.keys is None
    page = Page(written(ledger, run.id, tmp_path / "report")[0])
    assert gone in page.text
    assert page.text.index("Blue, before: 2 masters") < page.text.index("Blue, afterwards: 3 masters")
    assert "2 slots on the move" in page.text
    assert "1 slot on the move" in page.text
    assert not page.unbalanced


def test_what_a_run_did_not_look_at_again_is_said(ledger: Ledger, tmp_path: Path) -> None:
    run = ledger.start_run(RunKind.MIGRATE, runs.settings(tmp_path))
    run.finish(RunState.FAILED, verdict=Verdict.INCONCLUSIVE, reason="nobody is there")
    report = build_report(ledger, run.id)
    assert report.source is not None
    assert (report.source.address, report.source.engine) == ("redis://app:***@blue.example:6379/0", None)
    assert (report.source_after, report.target_after) == (None, None)
    page = Page(written(ledger, run.id, tmp_path / "report")[0])
    assert "Afterwards: not known" in page.text


def test_a_file_is_not_asked_again(ledger: Ledger, tmp_path: Path) -> None:
    run = ledger.start_run(RunKind.MIGRATE, Settings(state_dir=tmp_path))
    after = runs.identity("dragonfly", "redis://green:6379", "1.40.1", databases={0: 3})
    run.identify(
        source={"role": "file", "engine": "redis", "version": "7.0.15", "run_id": "e8"},
        target=after | {"databases": {}},
        source_address="file:dump.rdb",
        target_address="redis://green:6379",
    )
    run.phase_started(PhaseName.VERIFY)
    run.phase_ended(PhaseName.VERIFY, PhaseState.DONE, detail={"afterwards": {"target": after}})
    report = build_report(ledger, run.id)
    assert report.source_after is not None
    assert report.source_after.unknown == "a file, which is only read"
    assert report.target_after is not None
    assert report.target_after.keys == 3


def test_the_fence_of_every_node_is_listed(ledger: Ledger, tmp_path: Path) -> None:
    run = ledger.start_run(RunKind.CUTOVER, Settings(state_dir=tmp_path))
    book = StepBook(ledger.engine, run.id, run.owner)
    book.plan([("pause", 5.0), ("switch", 5.0)])
    acl = {"method": "acl", "users": [{"name": "default"}, {"name": "<b>app"}], "kept": ["greenfly"]}
    nodes = [
        {"name": "master 0-99", "place": "blue-0:6379", "plan": acl},
        {"name": "replica of 0-99", "place": "blue-1:6379", "plan": {"method": "min-replicas", "users": []}},
    ]
    book.begin("pause", {"plan": {"method": "acl", "users": [], "nodes": nodes}})
    book.end("pause", StepState.DONE, {})
    report = build_report(ledger, run.id)
    assert report.live is not None
    assert report.live.operation is not None
    (fence,) = report.live.operation.fences
    assert fence.step == "pause"
    assert [(node.place, node.method, node.users, node.kept) for node in fence.nodes] == [
        ("blue-0:6379", "acl", ("default", "<b>app"), ("greenfly",)),
        ("blue-1:6379", "min-replicas", (), ()),
    ]
    page = Page(written(ledger, run.id, tmp_path / "report")[0])
    assert "Put up by step pause: 2 nodes" in page.text
    assert "default, <b>app" in page.text
    assert "every client" in page.text


def test_a_phase_in_which_the_run_broke_off_tells_no_rate(ledger: Ledger, tmp_path: Path) -> None:
    run = ledger.start_run(RunKind.MIGRATE, Settings(state_dir=tmp_path))
    run.phase_started(PhaseName.STREAM, 20_000)
    run.finish(RunState.INTERRUPTED, verdict=Verdict.INCONCLUSIVE, reason="stopped")
    again = ledger.take_over(run.id, 30.0)
    again.phase_started(PhaseName.STREAM, 20_000)
    again.phase_ended(PhaseName.STREAM, PhaseState.DONE, keys=20_000, size=1, detail={"seconds": 0.001})
    again.phase_started(PhaseName.VERIFY, 20_000)
    again.phase_ended(PhaseName.VERIFY, PhaseState.DONE, keys=20_000, size=1, detail={"seconds": 1.0})
    stream, verify = build_report(ledger, run.id).phases
    assert (stream.resumed, stream.keys_per_second) == (True, None)
    assert stream.seconds is not None
    assert stream.seconds > 0.001
    assert (verify.resumed, verify.keys_per_second) == (False, 20_000)
    page = Page(written(ledger, run.id, tmp_path / "report")[0])
    assert "The run broke off in stream and went on later" in page.text


def test_a_snapshots_report_leaves_out_what_it_cannot_say(ledger: Ledger, tmp_path: Path) -> None:
    run = ledger.start_run(RunKind.SNAPSHOT, runs.settings(tmp_path))
    run.identify(
        source=runs.identity("redis", "redis://blue:6379", "7.0.15", databases={0: 5}),
        target=None,
        source_address="redis://blue:6379",
        target_address=None,
    )
    run.finish(RunState.FINISHED, verdict=None, reason=None)
    page = Page(written(ledger, run.id, tmp_path / "report")[0])
    sections = {attrs["id"] for tag, attrs in page.elements if tag == "section"}
    assert not sections & {"coverage", "rules", "findings", "exceptions", "expiry", "approvals"}
    assert "Target" not in page.text
    links = {attrs.get("href") for tag, attrs in page.elements if tag == "a"}
    assert links >= {f"#{name}" for name in sections - {"verdict"}}
    assert "#findings" not in links


def test_classes_share_the_page_and_what_one_does_not_need_is_left_to_the_others(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reports.html, "FINDINGS_SHOWN", 23)
    run = ledger.start_run(RunKind.VERIFY, Settings(state_dir=tmp_path))
    for kind, number in ((FindingClass.MISSING, 3), (FindingClass.VALUE, 50), (FindingClass.EXTRA, 40)):
        run.add_findings(
            PhaseName.VERIFY, [NewFinding(kind, 0, b"%s:%d" % (kind.encode(), n)) for n in range(number)]
        )
    files = write_report(ledger, run.id, tmp_path / "report", [ReportFormat.HTML, ReportFormat.PARQUET])
    page = Page(files.html.read_text("utf-8"))
    shown = [key.partition(":")[0] for key in page.keys]
    assert [shown.count(kind) for kind in ("missing", "value", "extra")] == [3, 10, 10]
    assert "This page shows 23 of 93 findings" in page.text
    assert "40 more are in findings.parquet." in page.text
    hrefs = {attrs.get("href") for tag, attrs in page.elements if tag == "a"}
    assert "findings.parquet" in hrefs
    assert not hrefs & {"report.json", "findings.csv"}


def test_a_page_alone_names_the_commands_that_write_the_rest(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reports.html, "FINDINGS_SHOWN", 1)
    run = ledger.start_run(RunKind.VERIFY, Settings(state_dir=tmp_path))
    run.add_findings(PhaseName.VERIFY, [NewFinding(FindingClass.MISSING, 0, b"k%d" % n) for n in range(3)])
    files = write_report(ledger, run.id, tmp_path / "report", [ReportFormat.HTML])
    page = Page(files.html.read_text("utf-8"))
    assert f"2 more are in what greenfly report {run.id} --format csv writes." in page.text
    hrefs = [str(attrs.get("href")) for tag, attrs in page.elements if tag == "a"]
    assert all(href.startswith("#") for href in hrefs)


def test_many_audit_events_are_cut_in_words(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reports.html, "EVENTS_SHOWN", 6)
    run = ledger.start_run(RunKind.SYNC, Settings(state_dir=tmp_path))
    for number in range(20):
        run.event("sync.pass", {"number": number})
    page = Page(written(ledger, run.id, tmp_path / "report")[0])
    total = len(build_report(ledger, run.id).timeline)
    assert "15 events between these are left out here." in page.text
    assert "number: 19" in page.text
    assert "number: 9" not in page.text.replace("number: 19", "")
    assert total > 20


def test_names_of_files_beside_a_page_cannot_become_markup() -> None:
    beside = Beside("run", json='"><script>.json', csv="b.csv", parquet="c.parquet")
    assert "<script>" not in beside.findings
    assert beside.findings.endswith('<a href="b.csv">b.csv</a> and <a href="c.parquet">c.parquet</a>')


def test_formats_come_between_commas_and_an_unknown_one_is_refused_by_name(
    greenfly: Greenfly,
) -> None:
    with_run = open_ledger(Settings(state_dir=greenfly.state_dir))
    try:
        run_id = runs.empty(with_run, greenfly.state_dir)
    finally:
        with_run.close()
    done = run_here(greenfly, "report", run_id, "--format", "parquet,html", "--format", "csv", "--json")
    assert done.exit_code == 0, done.stderr
    assert sorted(done.json()["report"]) == ["csv", "html", "parquet"]  # type: ignore[call-overload]
    refused = run_here(greenfly, "report", run_id, "--format", "html,docx")
    assert refused.exit_code == 2
    assert "'docx'" in refused.stderr
