"""The ledger: its schema, its audit chain, its findings, and how a run is found."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import insert, inspect, text
from sqlalchemy.exc import StatementError

from integrity.errors import ConfigurationError, LedgerError
from integrity.ledger import Ledger, RunHandle, open_ledger, store
from integrity.ledger.audit import GENESIS
from integrity.ledger.database import SCHEMA_HEAD, reading, writing
from integrity.ledger.migrate import alembic_config, downgrade, upgrade
from integrity.ledger.models import (
    Base,
    Finding,
    FindingClass,
    FindingState,
    Measurement,
    PhaseName,
    PhaseState,
    RunKind,
    RunState,
    Verdict,
)
from integrity.ledger.store import CheckpointState, NewFinding
from integrity.settings import Settings, load_settings
from reports.finding_shapes import build_shapes
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


def missing(key: bytes, **more: object) -> NewFinding:
    return NewFinding(FindingClass.MISSING, 0, key, **more)  # type: ignore[arg-type]


# -- schema ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def fresh(tmp_path: Path, fresh_ledger_url: str | None) -> Iterator[Ledger]:
    """A ledger whose schema was made when it was opened."""
    opened = open_ledger(load_settings(place(tmp_path / "fresh", fresh_ledger_url), environ={}).settings)
    yield opened
    opened.close()


def test_migrations_from_nothing_make_what_the_models_say(fresh: Ledger) -> None:
    with fresh.engine.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "compare_server_default": True}
        )
        assert compare_metadata(context, Base.metadata) == []


def test_the_head_that_the_code_knows_is_the_migration_folders() -> None:
    assert ScriptDirectory.from_config(alembic_config()).get_heads() == [SCHEMA_HEAD]


def test_a_schema_can_be_taken_back_and_brought_up_again(ledger: Ledger) -> None:
    downgrade(ledger.engine, "base")
    assert set(inspect(ledger.engine).get_table_names()) <= {"alembic_version"}

    upgrade(ledger.engine)

    assert set(Base.metadata.tables) <= set(inspect(ledger.engine).get_table_names())


def test_opening_a_ledger_again_keeps_its_runs(settings: Settings) -> None:
    first = open_ledger(settings)
    run_id = first.start_run(RunKind.VERIFY, settings).id
    first.close()

    second = open_ledger(settings)

    assert [run.id for run in second.runs()] == [run_id]
    second.close()


def test_a_newer_schema_is_refused(ledger: Ledger, settings: Settings) -> None:
    with writing(ledger.engine) as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    ledger.close()

    with pytest.raises(LedgerError, match="9999"):
        open_ledger(settings)


# -- what cannot be used -----------------------------------------------------------------------------------------------


def test_a_state_folder_that_cannot_be_made_is_a_ledger_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    for state_dir in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(LedgerError) as caught:
            open_ledger(load_settings({"state_dir": state_dir}, environ={}).settings)
        assert str(state_dir) in caught.value.problem
        assert "--state-dir" in caught.value.remedy


@pytest.fixture
def in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The default: SQLite in the state folder."""
    monkeypatch.chdir(tmp_path)
    return load_settings({"state_dir": tmp_path / "state"}, environ={}).settings


def test_a_ledger_file_that_is_no_database_is_a_ledger_error(in_a_file: Settings) -> None:
    settings = in_a_file
    settings.state_dir.mkdir()
    (settings.state_dir / "ledger.sqlite3").write_bytes(b"this is no database" * 100)

    with pytest.raises(LedgerError):
        open_ledger(settings)


def test_a_folder_in_place_of_the_ledger_file_is_a_ledger_error(in_a_file: Settings) -> None:
    settings = in_a_file
    (settings.state_dir / "ledger.sqlite3").mkdir(parents=True)

    with pytest.raises(LedgerError):
        open_ledger(settings)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql+psycopg://app:n1netyN1ne@127.0.0.1:1/ledger?connect_timeout=1",
        "mysql://app:n1netyN1ne@127.0.0.1:1/ledger",
        "nothing://app:n1netyN1ne@127.0.0.1:1/ledger",
        "app:n1netyN1ne at the database",
    ],
)
def test_a_ledger_that_cannot_be_opened_is_told_without_its_password(tmp_path: Path, url: str) -> None:
    chosen = load_settings({"state_dir": tmp_path, "ledger_url": url}, environ={}).settings

    with pytest.raises(LedgerError) as caught:
        open_ledger(chosen)

    assert "n1netyN1ne" not in str(caught.value)
    assert caught.value.remedy


def test_the_state_folder_is_for_its_owner_only(in_a_file: Settings) -> None:
    open_ledger(in_a_file).close()

    assert in_a_file.state_dir.stat().st_mode & 0o077 == 0


def test_naive_times_are_refused_and_aware_ones_come_back_in_utc(ledger: Ledger, run: RunHandle) -> None:
    def measure(at: datetime) -> None:
        with ledger.engine.begin() as connection:
            connection.execute(
                insert(Measurement).values(run_id=run.id, phase=PhaseName.STREAM, at=at, keys=1, bytes=1)
            )

    with pytest.raises(StatementError, match="aware"):
        measure(datetime(2026, 1, 1, 12))  # noqa: DTZ001  (naive on purpose)
    elsewhere = datetime.fromisoformat("2026-01-01T12:00:00+05:00")
    measure(elsewhere)

    found = ledger.measurements(run.id)[0].at
    assert (found, found.utcoffset()) == (elsewhere, timedelta(0))


# -- runs --------------------------------------------------------------------------------------------------------------


def test_a_run_is_recorded_from_beginning_to_end(ledger: Ledger, run: RunHandle) -> None:
    run.phase_started(PhaseName.STREAM, 10)
    run.phase_ended(PhaseName.STREAM, PhaseState.DONE, keys=10, size=99, detail={"written": 10})
    run.finish(RunState.FINISHED, verdict=Verdict.PASS, reason="All agree.")

    found, phases = ledger.find_run(run.id), ledger.phases(run.id)

    assert (found.state, found.verdict, found.reason) == (RunState.FINISHED, Verdict.PASS, "All agree.")
    assert found.ended_at is not None
    assert [(p.name, p.state, p.keys, p.bytes, p.detail) for p in phases] == [
        (PhaseName.STREAM, PhaseState.DONE, 10, 99, {"written": 10})
    ]
    assert [event.kind for event in ledger.events(run.id)] == [
        *("run.started", "phase.started", "phase.done", "run.finished"),
    ]


def test_an_operator_with_a_long_or_odd_name_breaks_no_run(
    ledger: Ledger, run: RunHandle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GREENFLY_OPERATOR", "n\udcff" + "n" * 300)

    run.event("test.event", {})

    actor = ledger.events(run.id)[-1].actor
    assert (actor[:8], actor[-2:], len(actor)) == ("n\\udcffn", "n…", 200)
    assert ledger.chain_state().intact


def test_the_end_of_a_run_closes_the_phase_that_was_open(ledger: Ledger, run: RunHandle) -> None:
    run.phase_started(PhaseName.STREAM)

    run.finish(RunState.INTERRUPTED, verdict=Verdict.INCONCLUSIVE, reason="stopped")

    phase = ledger.phases(run.id)[0]
    assert (phase.state, phase.ended_at is not None) == (PhaseState.FAILED, True)


def test_a_checkpoint_moves_and_stays_one_row(ledger: Ledger, run: RunHandle) -> None:
    run.checkpoint(PhaseName.STREAM, "server", CheckpointState(0, 7, 1, 100, 1000, done=False))
    run.checkpoint(PhaseName.STREAM, "server", CheckpointState(1, 3, 1, 1, 1, done=False))
    run.checkpoint(PhaseName.STREAM, "server", CheckpointState(0, 2**64 - 1, 2, 200, 2000, done=True))

    found = ledger.checkpoints(run.id, PhaseName.STREAM)

    assert [(c.database, c.cursor, c.keys, c.done) for c in found] == [
        (0, str(2**64 - 1), 200, True),
        (1, "3", 1, False),
    ]
    assert ledger.checkpoints(run.id, PhaseName.VERIFY) == []


def test_a_run_that_another_process_took_over_is_not_written_to(
    ledger: Ledger, run: RunHandle, settings: Settings
) -> None:
    with writing(ledger.engine) as connection:
        connection.execute(text("UPDATE run SET lease_owner = 'elsewhere:1'"))

    with pytest.raises(LedgerError, match=run.id):
        run.phase_ended(PhaseName.CHECK, PhaseState.DONE, detail={})


@pytest.fixture
def three_runs(ledger: Ledger, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    for run_id in ("20261101-000000-aaaaaa", "20261101-000001-bbbbbb", "20261102-000000-caaaaa"):
        monkeypatch.setattr(store, "new_run_id", lambda run_id=run_id: run_id)
        ledger.start_run(RunKind.MIGRATE, settings)
    return ledger


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("latest", "20261102-000000-caaaaa"),
        ("20261101-000001-bbbbbb", "20261101-000001-bbbbbb"),
        ("20261102", "20261102-000000-caaaaa"),
        ("bbbbbb", "20261101-000001-bbbbbb"),
        ("caaaaa", "20261102-000000-caaaaa"),
        ("bb", "20261101-000001-bbbbbb"),
    ],
)
def test_a_run_is_found_by_its_id_its_beginning_or_its_ending(
    three_runs: Ledger, wanted: str, found: str
) -> None:
    assert three_runs.find_run(wanted).id == found


@pytest.mark.parametrize("wanted", ["20261101", "aaaaa", "2"])
def test_a_name_that_fits_several_runs_is_refused_and_names_them(three_runs: Ledger, wanted: str) -> None:
    with pytest.raises(ConfigurationError, match="Several runs"):
        three_runs.find_run(wanted)


@pytest.mark.parametrize("wanted", ["", "zzz", "000001", "'; DROP TABLE run; --"])
def test_a_name_that_fits_no_run_is_refused(three_runs: Ledger, wanted: str) -> None:
    with pytest.raises(ConfigurationError, match="no run"):
        three_runs.find_run(wanted)


@pytest.mark.parametrize("wanted", ["%", "_", "%bb", "2026_102", "\\"])
def test_wildcards_of_the_database_are_no_names(ledger: Ledger, run: RunHandle, wanted: str) -> None:
    with pytest.raises(ConfigurationError):
        ledger.find_run(wanted)


def test_an_empty_ledger_has_no_latest_run(ledger: Ledger) -> None:
    with pytest.raises(ConfigurationError):
        ledger.find_run("latest")


def test_an_unfinished_copy_between_two_addresses_is_remembered_until_one_finishes(
    ledger: Ledger, settings: Settings
) -> None:
    def a_run(state: RunState, *phases: PhaseName, target: str = "green") -> str:
        handle = ledger.start_run(RunKind.MIGRATE, settings)
        handle.identify(source={}, target={}, source_address="blue", target_address=target)
        for phase in phases:
            handle.phase_started(phase)
        handle.finish(state, verdict=None, reason=None)
        return handle.id

    def unfinished() -> str | None:
        found = ledger.unfinished_copy("blue", "green")
        return found.id if found else None

    a_run(RunState.FAILED, PhaseName.CHECK)
    assert unfinished() is None
    broken = a_run(RunState.INTERRUPTED, PhaseName.CHECK, PhaseName.STREAM)
    assert unfinished() == broken
    a_run(RunState.FAILED, PhaseName.CHECK)
    a_run(RunState.FINISHED, PhaseName.CHECK, PhaseName.STREAM, target="elsewhere")
    assert unfinished() == broken
    a_run(RunState.FINISHED, PhaseName.CHECK, PhaseName.STREAM)
    assert unfinished() is None


# -- findings ----------------------------------------------------------------------------------------------------------


def test_a_finding_seen_again_is_one_row_with_its_newest_facts(ledger: Ledger, run: RunHandle) -> None:
    run.add_findings(PhaseName.VERIFY, [missing(b"a", detail="first"), missing(b"b")])
    run.add_findings(PhaseName.VERIFY, [missing(b"a", detail="second", source_size=7)])
    run.add_findings(PhaseName.VERIFY, [missing(b"a", detail="third", source_size=8)])

    first, second = ledger.findings(run.id)

    assert (first.key, first.times_seen, first.detail, first.source_size) == (b"a", 3, "third", 8)
    assert first.first_seen_at < first.last_seen_at
    assert (second.key, second.times_seen) == (b"b", 1)


def test_what_makes_a_finding_another_one(ledger: Ledger, run: RunHandle, settings: Settings) -> None:
    run.add_findings(
        PhaseName.VERIFY,
        [missing(b"a"), NewFinding(FindingClass.VALUE, 0, b"a"), NewFinding(FindingClass.MISSING, 1, b"a")],
    )
    ledger.start_run(RunKind.VERIFY, settings).add_findings(PhaseName.VERIFY, [missing(b"a")])

    assert [(f.finding_class, f.database, f.times_seen) for f in ledger.findings(run.id)] == [
        (FindingClass.MISSING, 0, 1),
        (FindingClass.VALUE, 0, 1),
        (FindingClass.MISSING, 1, 1),
    ]


def test_a_key_longer_than_an_index_allows_keeps_its_name(ledger: Ledger, run: RunHandle) -> None:
    keys = [b"\xff" * 100_000, b"\xff" * 100_001, b""]

    run.add_findings(PhaseName.VERIFY, [missing(key) for key in keys])

    assert [finding.key for finding in ledger.findings(run.id)] == keys


def test_a_settled_finding_that_is_seen_again_counts_again(ledger: Ledger, run: RunHandle) -> None:
    run.add_findings(PhaseName.VERIFY, [missing(b"a")])
    run.settle_findings([ledger.findings(run.id)[0].id])
    assert ledger.finding_counts(run.id) == {(FindingClass.MISSING, FindingState.SETTLED): 1}

    run.add_findings(PhaseName.VERIFY, [missing(b"a")])

    assert ledger.finding_counts(run.id) == {(FindingClass.MISSING, FindingState.OPEN): 1}


def test_findings_are_read_in_pages(ledger: Ledger, run: RunHandle) -> None:
    run.add_findings(PhaseName.VERIFY, [missing(b"%d" % number) for number in range(25)])

    assert [f.key for f in ledger.iterate_findings(run.id, page=7)] == [b"%d" % n for n in range(25)]
    assert len(ledger.findings(run.id, limit=10)) == 10
    assert ledger.findings(run.id, classes=[FindingClass.EXTRA]) == []


def test_findings_are_counted_by_how_their_keys_begin_on_either_database(
    ledger: Ledger, run: RunHandle
) -> None:
    keys = [b"app:user:%d:name" % number for number in range(20)]
    keys += [b"app:cart:%d" % number for number in range(10)]
    keys += [b"\xff\0:%d" % number for number in range(3)] + [b"plain", b"", b":", b"a" * 80 + b":b"]
    run.add_findings(
        PhaseName.VERIFY, [NewFinding(FindingClass.VALUE, 0, key, "string", "hash") for key in keys]
    )

    shapes = build_shapes(ledger, run.id)

    assert shapes is not None
    assert {row.name: row.open for row in shapes.by_prefix} == {
        "app:user:": 20,
        "app:cart:": 10,
        "\\xff\\x00:": 3,
        ":": 1,
        "": 3,
    }
    assert [(row.name, row.open) for row in shapes.by_type] == [("string and hash", 37)]


def test_skipped_keys_are_told_by_database(ledger: Ledger, run: RunHandle) -> None:
    run.add_findings(
        PhaseName.STREAM,
        [NewFinding(FindingClass.SKIPPED, 1, b"a", state=FindingState.EXCEPTION), missing(b"b")],
    )

    assert ledger.skipped_keys(run.id, [(0, b"a"), (1, b"a"), (0, b"b")]) == {(1, b"a")}


def test_a_finding_of_the_models_default_state_is_open(ledger: Ledger, run: RunHandle) -> None:
    run.add_findings(PhaseName.VERIFY, [missing(b"a")])

    finding = ledger.findings(run.id, state=FindingState.OPEN)[0]
    assert isinstance(finding, Finding)
    assert finding.first_seen_at <= datetime.now(UTC)


# -- the audit chain ---------------------------------------------------------------------------------------------------


@pytest.fixture
def six_events(run: RunHandle) -> RunHandle:
    """Events 1 to 6: the run's start, then five of ours."""
    for number in range(2, 7):
        run.event("test.event", {"number": number, "text": 'ü \\ "'})
    return run


def test_an_untouched_chain_is_intact(ledger: Ledger, six_events: RunHandle) -> None:
    state = ledger.chain_state()

    assert (state.intact, state.events, state.broken_at) == (True, 6, None)
    assert state.head == ledger.events(six_events.id)[-1].hash


def test_an_empty_chain_is_intact(ledger: Ledger) -> None:
    state = ledger.chain_state()

    assert (state.intact, state.events, state.head) == (True, 0, GENESIS)


TAMPERING: dict[str, tuple[str, int]] = {
    "a payload changed": ("UPDATE event SET payload = '{\"number\":3}' WHERE sequence = 4", 4),
    "an actor changed": ("UPDATE event SET actor = 'nobody' WHERE sequence = 3", 3),
    "a kind changed": ("UPDATE event SET kind = 'run.finished' WHERE sequence = 5", 5),
    "a time changed": ("UPDATE event SET at = '2020-01-01T00:00:00+00:00' WHERE sequence = 2", 2),
    "a run taken out": ("UPDATE event SET run_id = NULL WHERE sequence = 6", 6),
    "an event deleted": ("DELETE FROM event WHERE sequence = 4", 4),
    "the first event deleted": ("DELETE FROM event WHERE sequence = 1", 1),
    "an event deleted and the rest renumbered": (
        "DELETE FROM event WHERE sequence = 3;UPDATE event SET sequence = sequence - 1 WHERE sequence > 3",
        3,
    ),
    "two events exchanged": (
        "UPDATE event SET sequence = -1 WHERE sequence = 3;"
        "UPDATE event SET sequence = 3 WHERE sequence = 4;"
        "UPDATE event SET sequence = 4 WHERE sequence = -1",
        3,
    ),
    "a hash changed": ("UPDATE event SET hash = 'f00' WHERE sequence = 2", 2),
    "a link changed": ("UPDATE event SET previous_hash = 'f00' WHERE sequence = 5", 5),
    "an event slipped in at the end": (
        "INSERT INTO event SELECT 7, run_id, at, actor, kind, payload, previous_hash, hash FROM event "
        "WHERE sequence = 6",
        7,
    ),
}


@pytest.mark.parametrize("name", TAMPERING)
def test_tampering_is_found_where_it_was_done(ledger: Ledger, six_events: RunHandle, name: str) -> None:
    statements, where = TAMPERING[name]
    with writing(ledger.engine) as connection:
        for statement in statements.split(";"):
            connection.exec_driver_sql(statement)

    state = ledger.chain_state()

    assert (state.intact, state.broken_at) == (False, where)
    assert state.problem


def test_events_of_several_runs_form_one_chain(ledger: Ledger, settings: Settings) -> None:
    handles = [ledger.start_run(RunKind.MIGRATE, settings) for _ in range(3)]
    for handle in handles * 2:
        handle.event("test.event", {})

    assert (ledger.chain_state().intact, ledger.chain_state().events) == (True, 9)


def test_a_write_that_fails_leaves_no_event(
    ledger: Ledger, run: RunHandle, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "new_run_id", lambda: run.id)

    with pytest.raises(LedgerError):
        ledger.start_run(RunKind.MIGRATE, settings)

    assert (ledger.chain_state().intact, ledger.chain_state().events) == (True, 1)


def test_reading_writes_nothing(ledger: Ledger, run: RunHandle) -> None:
    with suppress(LedgerError), reading(ledger.engine) as connection:  # PostgreSQL refuses it.
        connection.execute(text("UPDATE run SET label = 'changed'"))

    assert ledger.find_run(run.id).label is None
