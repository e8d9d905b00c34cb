"""Checkpoints of a ledger: made when a run ends, and what they notice that the chain alone does not."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from integrity.audit.checkpoint import EVENT_KIND, Checkpoint
from integrity.audit.keeping import append_kept, read_kept
from integrity.audit.keys import SigningKey, Trust, generate_key, load_signing_key
from integrity.audit.ledger_check import LedgerExamination, examine_ledger
from integrity.audit.seal import NOT_KEPT_KIND, NOT_SIGNED_KIND, Seal
from integrity.audit.settings import AuditSettings
from integrity.errors import ConfigurationError
from integrity.ledger import open_ledger
from integrity.ledger.audit import GENESIS, event_hash, events_of
from integrity.ledger.database import reading
from integrity.ledger.models import RunKind, RunState, Verdict
from integrity.settings import Settings
from tests.unit.audit_bundles import Office, open_office


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    opened = open_office(tmp_path)
    yield opened
    opened.ledger.close()


def check(office: Office, run: str | None = None, trust: Trust | None = None) -> LedgerExamination:
    return examine_ledger(office.ledger, office.trust if trust is None else trust, office.kept, run)


def kinds(office: Office) -> list[str]:
    with reading(office.ledger.engine) as connection:
        return [event.kind for event in events_of(connection)]


def change(office: Office, statements: str) -> None:
    """What somebody does who has the database."""
    with closing(sqlite3.connect(office.settings.state_dir / "ledger.sqlite3")) as database:
        database.executescript(statements)


def made_anew(office: Office, *, ends_with: int, changed: int, payload: str) -> None:
    """The whole chain again with another payload of one event, all hashes right, up to an event."""
    with closing(sqlite3.connect(office.settings.state_dir / "ledger.sqlite3")) as database:
        rows = database.execute(
            "SELECT sequence, run_id, at, actor, kind, payload FROM event ORDER BY sequence"
        ).fetchall()
        database.execute("DELETE FROM event")
        previous = GENESIS
        for sequence, run_id, at, actor, kind, text in rows[:ends_with]:
            told = payload if sequence == changed else text
            own = event_hash(previous, sequence, run_id, at, actor, kind, told)
            row = (sequence, run_id, at, actor, kind, told, previous, own)
            database.execute("INSERT INTO event VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
            previous = own
        database.commit()


# -- making them -------------------------------------------------------------------------------------------------------


def test_the_head_is_signed_when_a_run_ends_in_the_ledger_and_elsewhere(office: Office) -> None:
    found = check(office, office.passed)

    assert found.intact
    assert kinds(office).count(EVENT_KIND) == 2
    kept = [line.checkpoint for line in read_kept(office.kept)]
    assert len(kept) == found.testimony.trusted == 2
    assert found.testimony.covered_to == found.chain.events - 1
    ended = next(
        event.sequence for event in office.ledger.events(office.failed) if event.kind == "run.finished"
    )
    assert kept[-1] is not None
    assert kept[-1].sequence == ended


def test_without_a_key_nothing_is_signed(tmp_path: Path) -> None:
    office = open_office(tmp_path, signs=False)
    found = examine_ledger(office.ledger, Trust(), None, None)

    assert found.intact
    assert found.signed == "unsigned"
    assert EVENT_KIND not in kinds(office)
    office.ledger.close()


@pytest.mark.parametrize("broken", ["key", "file", "file without key"])
def test_what_cannot_sign_is_told_before_a_run_begins(tmp_path: Path, broken: str) -> None:
    generate_key(tmp_path / "key")
    audit = {
        "key": AuditSettings(key_file=tmp_path / "missing"),
        "file": AuditSettings(key_file=tmp_path / "key", checkpoint_file=tmp_path / "no" / "kept"),
        "file without key": AuditSettings(checkpoint_file=tmp_path / "kept"),
    }[broken]
    settings = Settings(state_dir=tmp_path, audit=audit)
    ledger = open_ledger(settings)

    with pytest.raises(ConfigurationError):
        ledger.start_run(RunKind.VERIFY, settings)

    assert ledger.runs() == []
    ledger.close()


@pytest.mark.parametrize("way", ["a rollback begins", "a run is taken over"])
def test_a_key_out_of_reach_keeps_nobody_from_getting_back(office: Office, way: str) -> None:
    broken = office.ledger.start_run(RunKind.CUTOVER, office.settings)
    broken.finish(RunState.FAILED, verdict=None, reason=None)
    (office.folder / "key").unlink()
    run = (
        office.ledger.start_run(RunKind.ROLLBACK, office.settings)
        if way == "a rollback begins"
        else office.ledger.take_over(broken.id, 30)
    )

    run.finish(RunState.FINISHED, verdict=None, reason=None)

    assert office.ledger.find_run(run.id).state is RunState.FINISHED
    assert kinds(office)[-1] == NOT_SIGNED_KIND
    assert check(office).not_kept == 1


def test_a_full_disk_elsewhere_changes_no_outcome_and_is_recorded(office: Office) -> None:
    run = office.ledger.start_run(RunKind.VERIFY, office.settings)
    office.kept.unlink()
    office.kept.mkdir()

    run.finish(RunState.FINISHED, verdict=Verdict.PASS, reason="All agree.")

    assert office.ledger.find_run(run.id).verdict is Verdict.PASS
    assert kinds(office)[-2:] == [EVENT_KIND, NOT_KEPT_KIND]
    assert examine_ledger(office.ledger, office.trust, None, run.id).not_kept == 1


def test_a_run_that_is_taken_over_is_signed_by_whoever_ends_it(office: Office) -> None:
    run = office.ledger.start_run(RunKind.VERIFY, office.settings)
    run.finish(RunState.FAILED, verdict=None, reason=None)
    again = office.ledger.take_over(run.id, 30)
    again.finish(RunState.FINISHED, verdict=Verdict.PASS, reason="All agree.")

    assert kinds(office).count(EVENT_KIND) == 4
    assert check(office, run.id).intact


# -- what they notice --------------------------------------------------------------------------------------------------


def test_a_cut_off_tail_is_noticed_from_elsewhere(office: Office) -> None:
    events = check(office).chain.events
    change(office, f"DELETE FROM event WHERE sequence > {events - 3}")  # noqa: S608

    alone = examine_ledger(office.ledger, office.trust, None, None)
    found = check(office)

    assert alone.intact
    assert not found.intact
    assert found.chain.intact
    assert found.broken_at == events - 2


def test_a_chain_made_anew_is_noticed_and_the_place_narrowed_down(office: Office) -> None:
    first, second = (line.checkpoint for line in read_kept(office.kept))
    assert first is not None
    assert second is not None
    events = check(office).chain.events
    made_anew(office, ends_with=events, changed=second.sequence, payload='{"verdict":"PASS"}')

    found = check(office)

    assert found.chain.intact
    assert not found.intact
    assert found.broken_at == first.sequence + 1
    assert [one.place for one in found.testimony.contradictions] == ["kept.jsonl, line 2", f"event {events}"]


def test_a_chain_made_anew_from_the_first_event_is_noticed(office: Office) -> None:
    made_anew(office, ends_with=check(office).chain.events, changed=1, payload="{}")

    found = check(office)

    assert not found.intact
    assert found.broken_at == 1
    assert len(found.testimony.contradictions) == 4


def test_a_checkpoint_of_an_unknown_key_is_told_as_such(office: Office) -> None:
    other = SigningKey(Ed25519PrivateKey.generate())
    Seal(other, office.kept).sign_head(office.ledger.engine)

    found = check(office)

    assert found.intact
    assert not found.checked
    assert found.testimony.unknown_keys == (other.public.id,)
    assert found.testimony.trusted == 2
    assert check(office, trust=Trust([office.key, other.public])).checked
    assert check(office, trust=Trust()).signed == "unknown-key"


def test_a_forged_or_foreign_checkpoint_is_a_problem(office: Office) -> None:
    key = load_signing_key(office.settings.audit)
    assert key is not None
    line = read_kept(office.kept)[0].checkpoint
    assert line is not None
    append_kept(office.kept, replace(line, sequence=line.sequence + 1))
    append_kept(office.kept, Checkpoint.make(key, "c" * 64, 1, "c" * 64))

    found = check(office)

    assert [one.place for one in found.testimony.contradictions] == [
        "kept.jsonl, line 3",
        "kept.jsonl, line 4",
    ]


def test_a_checkpoint_file_that_is_missing_is_no_silence(office: Office) -> None:
    office.kept.unlink()

    with pytest.raises(ConfigurationError):
        check(office)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE run SET verdict = 'PASS' WHERE id = '{failed}'",
        "UPDATE run SET state = 'interrupted' WHERE id = '{failed}'",
        "UPDATE run SET verdict = NULL WHERE id = '{failed}'",
    ],
)
def test_a_run_whose_row_is_not_what_its_events_say_is_noticed(office: Office, statement: str) -> None:
    change(office, statement.format(failed=office.failed))

    assert check(office, office.passed).intact
    found = check(office, office.failed)
    assert not found.intact
    assert office.failed in json.dumps(found.problems)


def test_an_artifact_with_another_hash_than_its_event_is_noticed(office: Office) -> None:
    change(office, "UPDATE artifact SET sha256 = 'f00'")

    assert not check(office, office.passed).intact
