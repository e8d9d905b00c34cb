"""Decisions about runs, and waivers of findings: who may, what is recorded, what they cover."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from integrity.errors import ConfigurationError, Refused
from integrity.ledger import Ledger, open_ledger
from integrity.ledger.finding_waivers import (
    FindingWaiverRecord,
    WaiverCover,
    read_finding_waivers,
    waive_findings,
    withdraw_finding_waiver,
)
from integrity.ledger.models import FindingClass, FindingState, PhaseName, RunKind
from integrity.ledger.naming import operator_name
from integrity.ledger.reviews import GateView, Separate, decide, read_gates
from integrity.ledger.store import NewFinding
from integrity.ledger.vocabulary import Decision
from integrity.ledger.waived_findings import Subject
from integrity.settings import Settings, load_settings
from integrity.verify.waiving import ReliedOn, Waiving, let_pass, rely_on_waivers
from tests.ledger import place

APART = Separate()
MINE = operator_name()


@pytest.fixture
def settings(tmp_path: Path, ledger_url: str | None) -> Settings:
    return load_settings(place(tmp_path, ledger_url), environ={}).settings


@pytest.fixture
def ledger(settings: Settings) -> Iterator[Ledger]:
    with closing(open_ledger(settings)) as opened:
        yield opened


def started(ledger: Ledger, settings: Settings, kind: RunKind = RunKind.VERIFY) -> str:
    run = ledger.start_run(kind, settings)
    run.identify(source={}, target={}, source_address="redis://blue", target_address="redis://green")
    run.close()
    return run.id


def said(
    ledger: Ledger, run: str, decision: Decision, by: str, comment: str = "why", gate: str = "review"
) -> GateView:
    return decide(ledger.engine, run, gate, decision, by, comment, APART)


# -- gates -------------------------------------------------------------------------------------------------------------


def test_who_started_a_run_cannot_sign_it_off_and_others_can(ledger: Ledger, settings: Settings) -> None:
    run = started(ledger, settings)
    with pytest.raises(Refused):
        said(ledger, run, Decision.APPROVED, MINE)
    assert said(ledger, run, Decision.APPROVED, "grace").word == "approved"
    assert [event.kind for event in ledger.events(run)][-1] == "approval.approved"


def test_who_asks_others_to_approve_cannot_approve(ledger: Ledger, settings: Settings) -> None:
    run = started(ledger, settings, RunKind.SYNC)
    assert said(ledger, run, Decision.REQUESTED, "grace", gate="cutover").word == "requested"
    with pytest.raises(Refused):
        said(ledger, run, Decision.APPROVED, "grace", gate="cutover")
    assert said(ledger, run, Decision.APPROVED, "edsger", gate="cutover").standing.approvers == ("edsger",)


def test_asking_after_approving_takes_the_own_approval_back(ledger: Ledger, settings: Settings) -> None:
    run = started(ledger, settings)
    said(ledger, run, Decision.APPROVED, "grace")
    assert said(ledger, run, Decision.REQUESTED, "grace").standing.approvers == ()


def test_separation_can_be_switched_off(ledger: Ledger, settings: Settings) -> None:
    run = started(ledger, settings)
    alone = Separate(review=False)
    assert decide(ledger.engine, run, "review", Decision.APPROVED, MINE, "", alone).word == "approved"
    assert read_gates(ledger.engine, run, APART)[0].standing.approvers == ()


@pytest.mark.parametrize(
    ("decision", "word"), [(Decision.REJECTED, "rejected"), (Decision.REPEAT, "repeat asked for")]
)
def test_a_no_needs_a_reason_and_voids_what_was_approved(
    ledger: Ledger, settings: Settings, decision: Decision, word: str
) -> None:
    run = started(ledger, settings)
    said(ledger, run, Decision.APPROVED, "grace")
    with pytest.raises(ConfigurationError):
        said(ledger, run, decision, "edsger", "  ")
    gate = said(ledger, run, decision, "edsger")
    assert (gate.word, gate.standing.approvers) == (word, ())
    assert said(ledger, run, Decision.APPROVED, "grace").word == "approved"


def test_only_gates_that_a_run_has_can_be_decided(ledger: Ledger, settings: Settings) -> None:
    verify, sync = started(ledger, settings), started(ledger, settings, RunKind.SYNC)
    assert [gate.gate for gate in read_gates(ledger.engine, verify, APART)] == ["review"]
    assert [gate.gate for gate in read_gates(ledger.engine, sync, APART)] == ["cutover", "review"]
    for run, gate in ((verify, "cutover"), (sync, "nothing"), ("nothing", "review")):
        with pytest.raises(ConfigurationError):
            said(ledger, run, Decision.APPROVED, "grace", gate=gate)


def test_a_refused_decision_leaves_no_trace(ledger: Ledger, settings: Settings) -> None:
    run = started(ledger, settings)
    before = len(ledger.events(run))
    with pytest.raises(Refused):
        said(ledger, run, Decision.APPROVED, MINE)
    with pytest.raises(ConfigurationError):
        said(ledger, run, Decision.APPROVED, "grace", "x" * 4_001)
    assert (len(ledger.events(run)), read_gates(ledger.engine, run, APART)[0].decisions) == (before, ())


# -- waivers -----------------------------------------------------------------------------------------------------------


def waive(
    ledger: Ledger,
    run: str,
    subject: Subject,
    by: str = "grace",
    days: float = 7,
    why: str = "why",
    most: int = 1000,
) -> FindingWaiverRecord:
    return waive_findings(
        ledger.engine,
        run,
        subject,
        by=by,
        why=why,
        days=days,
        most_days=30,
        most_findings=most,
        separate=True,
    ).waiver


def test_a_waiver_covers_its_class_key_and_database_alone(ledger: Ledger, settings: Settings) -> None:
    run = started(ledger, settings)
    waive(ledger, run, Subject(FindingClass.VALUE, 3, key=b"a\xff"))
    waive(ledger, run, Subject(FindingClass.EXTRA, pattern=r"tmp:\x00*"))
    cover = WaiverCover(read_finding_waivers(ledger.engine, "redis://blue", "redis://green"))

    assert cover.of(FindingClass.VALUE, 3, b"a\xff") is not None
    assert cover.of(FindingClass.EXTRA, 9, b"tmp:\x00x") is not None
    for finding_class, database, key in (
        (FindingClass.VALUE, 0, b"a\xff"),
        (FindingClass.TYPE, 3, b"a\xff"),
        (FindingClass.VALUE, 3, b"a"),
        (FindingClass.EXTRA, 9, b"tmp:0x"),
        (FindingClass.MISSING, 9, b"tmp:\x00x"),
    ):
        assert cover.of(finding_class, database, key) is None


def test_a_waiver_ends_by_itself_or_when_it_is_withdrawn(ledger: Ledger, settings: Settings) -> None:
    run, now = started(ledger, settings), datetime.now(UTC)
    waiver = waive(ledger, run, Subject(FindingClass.VALUE, pattern="*"), days=1)
    assert [waiver.state(now + timedelta(days=d)) for d in (0.5, 1.5)] == ["in force", "expired"]

    withdraw_finding_waiver(ledger.engine, waiver.id, "ada")

    assert [w.state(now) for w in read_finding_waivers(ledger.engine)] == ["withdrawn"]
    with pytest.raises(Refused):
        withdraw_finding_waiver(ledger.engine, waiver.id, "ada")
    with pytest.raises(ConfigurationError):
        withdraw_finding_waiver(ledger.engine, 99, "ada")
    kinds = [event.kind for event in ledger.events(run)][-2:]
    assert kinds == ["finding-waiver.granted", "finding-waiver.withdrawn"]


def test_who_started_the_run_cannot_let_its_findings_pass(ledger: Ledger, settings: Settings) -> None:
    with pytest.raises(Refused):
        waive(ledger, started(ledger, settings), Subject(FindingClass.VALUE, pattern="*"), by=MINE)


@pytest.mark.parametrize(
    ("subject", "days", "why"),
    [
        (Subject(FindingClass.VALUE), 7, "why"),
        (Subject(FindingClass.VALUE, key=b"a", pattern="a"), 7, "why"),
        (Subject(FindingClass.VALUE, pattern=""), 7, "why"),
        (Subject(FindingClass.VALUE, pattern=r"\x1"), 7, "why"),
        (Subject(FindingClass.VALUE, key=b"a"), 0, "why"),
        (Subject(FindingClass.VALUE, key=b"a"), 31, "why"),
        (Subject(FindingClass.VALUE, key=b"a"), float("nan"), "why"),
        (Subject(FindingClass.VALUE, key=b"a"), 7, " "),
    ],
)
def test_a_waiver_that_says_too_little_is_refused(
    ledger: Ledger, settings: Settings, subject: Subject, days: float, why: str
) -> None:
    run = started(ledger, settings)
    with pytest.raises(ConfigurationError):
        waive(ledger, run, subject, days=days, why=why)
    assert read_finding_waivers(ledger.engine) == []


def test_the_record_of_a_waiver_names_a_key_of_any_bytes(ledger: Ledger, settings: Settings) -> None:
    run = started(ledger, settings)
    waive(ledger, run, Subject(FindingClass.VALUE, 0, key=b"\xff\x00<b>"))
    payload = json.loads(ledger.events(run)[-1].payload)
    assert bytes.fromhex(payload["key_hex"]) == b"\xff\x00<b>"


def test_the_record_of_a_waiver_of_a_huge_key_stays_small(ledger: Ledger, settings: Settings) -> None:
    run = started(ledger, settings)
    waiver = waive(ledger, run, Subject(FindingClass.VALUE, 0, key=b"k" * 10_000_000))
    event = ledger.events(run)[-1]
    assert len(event.payload) < 20_000
    assert json.loads(event.payload)["key_bytes"] == 10_000_000
    assert read_finding_waivers(ledger.engine)[0].key == waiver.key


def test_what_is_covered_is_put_aside_once_with_its_facts(ledger: Ledger, settings: Settings) -> None:
    earlier = started(ledger, settings)
    waiver = waive(ledger, earlier, Subject(FindingClass.VALUE, pattern="cache:*"), most=2)
    run = ledger.start_run(RunKind.VERIFY, settings)
    run.identify(source={}, target={}, source_address="redis://blue", target_address="redis://green")
    keys = (b"cache:1", b"cache:2", b"order:1")
    run.add_findings(
        PhaseName.VERIFY, [NewFinding(FindingClass.VALUE, 0, key, detail="differs") for key in keys]
    )
    began = datetime.now(UTC) - timedelta(minutes=1)

    assert [let_pass(ledger, run, settings).findings for _ in range(2)] == [2, 0]

    found = [(each.state, each.rule, each.detail) for each in ledger.findings(run.id)]
    aside = (FindingState.EXCEPTION, waiver.rule, f"differs (rule {waiver.rule})")
    assert found == [aside, aside, (FindingState.OPEN, None, "differs")]
    assert rely_on_waivers(ledger, run.id, settings, began) == ReliedOn(passing=2, lapsed=0)
    assert rely_on_waivers(ledger, run.id, settings, datetime.now(UTC)) == ReliedOn(0, 0)

    # Others that come while the run goes on pass within the bound, which counts those of before.
    waiving = Waiving(ledger, run.id, settings)
    for key, state in ((b"cache:2", FindingState.EXCEPTION), (b"cache:3", FindingState.OPEN)):
        (judged,) = waiving.apply([NewFinding(FindingClass.VALUE, 0, key)], "redis://green")
        assert judged.state is state
    (judged,) = waiving.apply([NewFinding(FindingClass.VALUE, 0, b"cache:2")], "redis://blue")
    assert judged.state is FindingState.OPEN, "the other way round"

    withdraw_finding_waiver(ledger.engine, waiver.id, "ada")
    assert rely_on_waivers(ledger, run.id, settings, began) == ReliedOn(passing=0, lapsed=2)
