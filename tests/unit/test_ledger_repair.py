"""What the ledger keeps about repairs, expected differences, and wishes to a live run."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import text

from integrity.errors import Refused
from integrity.ledger import Ledger, RunHandle, open_ledger
from integrity.ledger.database import writing
from integrity.ledger.models import FindingClass, FindingState, PhaseName, RepairAction, RunKind, RunState
from integrity.ledger.store import NewFinding, NewRepair
from integrity.settings import Settings, load_settings
from tests.ledger import place


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ledger_url: str | None) -> Settings:
    monkeypatch.chdir(tmp_path)
    return load_settings(place(tmp_path / "state", ledger_url), environ={}).settings


@pytest.fixture
def ledger(settings: Settings) -> Iterator[Ledger]:
    opened = open_ledger(settings)
    yield opened
    opened.close()


@pytest.fixture
def run(ledger: Ledger, settings: Settings) -> RunHandle:
    return ledger.start_run(RunKind.MIGRATE, settings)


# -- findings and repairs ----------------------------------------------------------------------------------------------


def test_a_finding_keeps_the_rule_of_its_newest_sighting(ledger: Ledger, run: RunHandle) -> None:
    finding = NewFinding(FindingClass.FIELD_EXPIRY, 0, b"a")
    expected = NewFinding(
        FindingClass.FIELD_EXPIRY, 0, b"a", state=FindingState.EXCEPTION, rule="dragonfly-field-expiry"
    )
    run.add_findings(PhaseName.VERIFY, [finding])
    assert ledger.findings(run.id)[0].rule is None

    run.add_findings(PhaseName.VERIFY, [expected])

    assert [(f.state, f.rule) for f in ledger.findings(run.id)] == [
        (FindingState.EXCEPTION, "dragonfly-field-expiry")
    ]


def test_findings_are_put_into_another_state_by_the_thousand(ledger: Ledger, run: RunHandle) -> None:
    run.add_findings(PhaseName.VERIFY, [NewFinding(FindingClass.MISSING, 0, b"%d" % n) for n in range(2501)])
    ids = [finding.id for finding in ledger.iterate_findings(run.id)]

    run.set_finding_state(ids[:-1], FindingState.REPAIRED)

    assert ledger.finding_counts(run.id) == {
        (FindingClass.MISSING, FindingState.REPAIRED): 2500,
        (FindingClass.MISSING, FindingState.OPEN): 1,
    }


def test_a_repair_run_names_its_parent_and_what_it_did(
    ledger: Ledger, run: RunHandle, settings: Settings
) -> None:
    run.add_findings(PhaseName.VERIFY, [NewFinding(FindingClass.VALUE, 2, b"\x00\xff", detail="differs")])
    finding = ledger.findings(run.id)[0]

    repair = ledger.start_run(RunKind.REPAIR, settings, parent_id=run.id)
    repair.phase_started(PhaseName.REPAIR, 1)
    repair.add_repairs(
        [
            NewRepair(
                finding.id,
                2,
                finding.key,
                RepairAction.COPIED,
                before_source_digest=b"s" * 16,
                before_target_digest=None,
                after_source_digest=b"s" * 16,
                after_target_digest=b"s" * 16,
                before_detail=finding.detail,
                detail="written anew",
            ),
            NewRepair(None, 0, b"gone", RepairAction.NOT_REPAIRED),
        ]
    )

    assert ledger.find_run(repair.id).parent_id == run.id
    first, second = ledger.repairs(repair.id)
    assert (first.finding_id, first.database, first.key) == (finding.id, 2, b"\x00\xff")
    assert (first.action, first.before_detail, first.detail) == (
        RepairAction.COPIED,
        "differs",
        "written anew",
    )
    assert (first.before_source_digest, first.before_target_digest) == (b"s" * 16, None)
    assert (first.after_source_digest, first.after_target_digest) == (b"s" * 16, b"s" * 16)
    assert first.key_digest == finding.key_digest
    assert (second.finding_id, second.action) == (None, RepairAction.NOT_REPAIRED)
    assert ledger.repairs(run.id) == []


def test_an_event_can_belong_to_no_run(ledger: Ledger, run: RunHandle) -> None:
    ledger.record_event("rules.changed", {"rules": 2})
    ledger.record_event("rules.read", {}, run.id)

    assert [event.kind for event in ledger.events(run.id)] == ["run.started", "rules.read"]
    assert (ledger.chain_state().intact, ledger.chain_state().events) == (True, 3)


# -- control -----------------------------------------------------------------------------------------------------------


def test_a_run_sees_what_was_asked_of_it(ledger: Ledger, run: RunHandle) -> None:
    assert (run.control().paused, run.control().keys_per_second, run.control().updated_at) == (
        False,
        None,
        None,
    )

    ledger.set_control(run.id, "control.paused", paused=True)
    ledger.set_control(run.id, "control.limited", keys_per_second=500)
    ledger.set_control(run.id, "control.limited", bytes_per_second=0)

    seen = run.control()
    assert (seen.paused, seen.keys_per_second, seen.bytes_per_second) == (True, 500, 0)
    assert seen == ledger.control(run.id)
    assert seen.updated_at is not None
    assert seen.updated_by
    assert [(e.kind, e.payload) for e in ledger.events(run.id)][1:] == [
        ("control.paused", '{"paused":true}'),
        ("control.limited", '{"keys_per_second":500}'),
        ("control.limited", '{"bytes_per_second":0}'),
    ]


def test_only_a_running_run_can_be_controlled(ledger: Ledger, run: RunHandle, settings: Settings) -> None:
    ended = ledger.start_run(RunKind.VERIFY, settings)
    ended.finish(RunState.FINISHED, verdict=None, reason=None)
    with writing(ledger.engine) as connection:
        past = (datetime.now(UTC) - timedelta(seconds=1)).strftime("%Y-%m-%d %H:%M:%S.%f")
        connection.execute(text("UPDATE run SET lease_until = :past"), {"past": past})

    for handle in (ended, run):
        with pytest.raises(Refused, match="not running"):
            ledger.set_control(handle.id, "control.paused", paused=True)
        assert not handle.control().paused
        assert all(event.kind != "control.paused" for event in ledger.events(handle.id))


def test_a_run_that_is_taken_over_is_no_longer_paused_and_keeps_its_caps(
    ledger: Ledger, run: RunHandle
) -> None:
    ledger.set_control(run.id, "control.paused", paused=True, keys_per_second=9)
    run.finish(RunState.INTERRUPTED, verdict=None, reason=None)

    ledger.take_over(run.id, 30)

    assert (ledger.control(run.id).paused, ledger.control(run.id).keys_per_second) == (False, 9)
