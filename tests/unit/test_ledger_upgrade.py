"""Ledgers of earlier versions are upgraded, and taken back, with what they hold; on SQLite and on PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import pytest
from sqlalchemy import Engine, MetaData, inspect, select, text, update

from integrity.assess.model import Outcome
from integrity.errors import ConfigurationError, LedgerError, Refused
from integrity.ledger import Ledger, open_ledger
from integrity.ledger.assessments import read_assessment, read_results
from integrity.ledger.database import SCHEMA_HEAD, connect, reading, writing
from integrity.ledger.migrate import known_revisions, upgrade
from integrity.ledger.models import FindingClass, FindingState, PhaseName, Run, RunKind, RunState
from integrity.ledger.samples import add_sample, read_samples
from integrity.ledger.schema import bring_up, version_of
from integrity.ledger.schema_check import check_ledger
from integrity.ledger.steps import read_steps
from integrity.ledger.sync_board import SyncBoard, SyncStatus, read_status
from integrity.ledger.taking_back import take_back
from integrity.ledger.vocabulary import Direction, SyncState
from integrity.ledger.waivers import add_waiver, read_waivers
from integrity.settings import Settings, load_settings
from tests.ledger import place

Row = Mapping[str, object]

RUN: Final = "20260101-000000-abcdef"
AT: Final = datetime(2026, 1, 1, 0, 0, 10, 123456, tzinfo=UTC)
OLDER: Final = known_revisions()[:-1]

ROWS: Final[Mapping[str, list[tuple[str, Row]]]] = {
    "0001": [
        (
            "run",
            {"id": RUN, "kind": "migrate", "state": "finished", "version": "0.1.0", "operator": "ops"}
            | {"host": "box", "checksum_definition": "xxh3", "settings": {"label": None}, "started_at": AT}
            | {"lease_owner": "box:1", "lease_until": AT},
        ),
        (
            "phase",
            {"run_id": RUN, "name": "stream", "state": "done", "attempts": 1, "started_at": AT, "keys": 5}
            | {"keys_expected": 5, "bytes": 99, "detail": {"written": 5}},
        ),
        (
            "finding",
            {"id": 7, "run_id": RUN, "phase": "verify", "finding_class": "value", "state": "open"}
            | {"database": 3, "key": b"\xff\x00", "key_digest": b"0123456789abcdef", "detail": "differs"}
            | {"first_seen_at": AT, "last_seen_at": AT, "times_seen": 2, "source_expiry_ms": -1},
        ),
    ],
    "0002": [
        (
            "control",
            {"run_id": RUN, "paused": True, "keys_per_second": 500, "updated_at": AT, "updated_by": "ops"},
        ),
        (
            "repair",
            {"run_id": RUN, "finding_id": 7, "database": 3, "key": b"\xff\x00", "action": "copied", "at": AT}
            | {"key_digest": b"0123456789abcdef", "before_detail": "before", "detail": "after"},
        ),
    ],
    "0003": [
        (
            "sync",
            {"run_id": RUN, "direction": "forward", "state": "following", "feed": "tracking", "dirty": 1}
            | {"unproven": 2, "stuck": 3, "lag_ms": 4, "backlog_bytes": 5, "carried": 6, "removed": 7}
            | {"updated_at": AT, "asked_id": 0, "answered_id": 0},
        ),
        (
            "step",
            {"run_id": RUN, "position": 0, "name": "gates", "state": "done", "budget_ms": 30_000}
            | {"attempts": 1, "detail": {}},
        ),
        (
            "approval",
            {
                "run_id": RUN,
                "gate": "cutover",
                "decision": "approved",
                "by": "ops",
                "at": AT,
                "comment": "ja",
            },
        ),
        ("sample", {"run_id": RUN, "side": "sync", "at": AT, "numbers": {"dirty": 1}}),
    ],
    "0004": [
        (
            "assessment",
            {"run_id": RUN, "source": "redis://blue", "target": "redis://green", "strategy": "stream"}
            | {"mode": "full", "at": AT, "facts": {"why": "asked for"}},
        ),
        (
            "waiver",
            {"source": "redis://blue", "target": "redis://green", "check_id": "commands.unknown", "at": AT}
            | {
                "outcome": "found",
                "items": ["lcs"],
                "why": "retired",
                "by": "ops",
                "until": AT,
                "run_id": RUN,
            },
        ),
    ],
    "0005": [
        (
            "finding_waiver",
            {"source": "redis://blue", "target": "redis://green", "finding_class": "value", "key": b"\xff"}
            | {"why": "known", "by": "ops", "at": AT, "until": AT, "run_id": RUN},
        ),
    ],
}
"""By the revision that brought the table."""


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fresh_ledger_url: str | None) -> Settings:
    monkeypatch.chdir(tmp_path)
    return load_settings(place(tmp_path / "old", fresh_ledger_url), environ={}).settings


@pytest.fixture
def engine(settings: Settings) -> Iterator[Engine]:
    """A database without a schema."""
    opened = connect(settings)
    yield opened
    opened.dispose()


def make_old(engine: Engine, revision: str) -> None:
    """A ledger as *revision* made it, with a row in each table."""
    upgrade(engine, revision)
    tables = MetaData()
    tables.reflect(engine)
    with writing(engine) as connection:
        for made in (each for each in known_revisions() if each <= revision):
            for name, row in ROWS.get(made, []):
                connection.execute(tables.tables[name].insert().values(dict(row)))


def contents(engine: Engine, columns: Mapping[str, set[str]]) -> dict[str, list[tuple[object, ...]]]:
    """Every row of these tables, by these columns."""
    tables = MetaData()
    tables.reflect(engine)
    with reading(engine) as connection:
        return {
            name: [
                tuple(row)
                for row in connection.execute(
                    select(*(tables.tables[name].c[column] for column in sorted(columns[name])))
                )
            ]
            for name in sorted(columns)
        }


def columns_of(engine: Engine) -> dict[str, set[str]]:
    """The tables as they are, without those of the migrations and of the audit."""
    seen = inspect(engine)
    return {
        name: {column["name"] for column in seen.get_columns(name)}
        for name in seen.get_table_names()
        if name not in {"alembic_version", "event"}
    }


def revision_of(engine: Engine) -> str | None:
    with reading(engine) as connection:
        return version_of(connection)


# -- up ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("revision", OLDER)
def test_a_ledger_of_an_earlier_version_keeps_every_row(engine: Engine, revision: str) -> None:
    make_old(engine, revision)
    then = columns_of(engine)
    before = contents(engine, then)
    assert sum(map(len, before.values())) == sum(len(ROWS.get(r, [])) for r in OLDER if r <= revision)

    assert bring_up(engine) == revision

    assert revision_of(engine) == SCHEMA_HEAD
    assert contents(engine, then) == before
    found = check_ledger(engine)
    assert (found.sound, found.pending, found.deviations) == (True, (), ())


def test_what_the_first_version_wrote_can_be_read(engine: Engine, settings: Settings) -> None:
    make_old(engine, "0001")
    bring_up(engine)

    with closing(open_ledger(settings)) as ledger:
        run = ledger.find_run(RUN)
        assert (run.kind, run.state, run.parent_id) == (RunKind.MIGRATE, RunState.FINISHED, None)
        assert (run.started_at, run.started_at.tzinfo) == (AT, UTC)
        assert [(p.name, p.keys, p.detail) for p in ledger.phases(RUN)] == [
            (PhaseName.STREAM, 5, {"written": 5})
        ]
        finding = ledger.findings(RUN)[0]
        assert (finding.id, finding.finding_class, finding.state) == (
            7,
            FindingClass.VALUE,
            FindingState.OPEN,
        )
        assert (finding.key, finding.times_seen, finding.rule) == (b"\xff\x00", 2, None)
        assert (ledger.repairs(RUN), ledger.control(RUN).updated_at) == ([], None)
        assert (read_status(ledger.engine, RUN), read_steps(ledger.engine, RUN)) == (None, [])
        assert read_assessment(ledger.engine, RUN) is None
        assert (read_results(ledger.engine, RUN), read_waivers(ledger.engine)) == ([], [])


def test_opening_upgrades_a_file_and_asks_for_an_upgrade_of_what_many_share(
    engine: Engine, settings: Settings
) -> None:
    make_old(engine, "0002")

    if engine.dialect.name == "sqlite":
        open_ledger(settings).close()
        assert revision_of(engine) == SCHEMA_HEAD
        return
    with pytest.raises(LedgerError, match="0002") as caught:
        open_ledger(settings)
    assert "greenfly db upgrade" in caught.value.remedy
    assert revision_of(engine) == "0002"


def test_nothing_is_migrated_while_a_run_is_under_way(engine: Engine) -> None:
    make_old(engine, "0003")
    soon = datetime.now(UTC) + timedelta(seconds=30)
    with writing(engine) as connection:
        connection.execute(update(Run).values(state=RunState.RUNNING, lease_until=soon))

    for change in (bring_up, lambda engine: take_back(engine, "0002", lose_rows=True)):
        with pytest.raises(Refused, match=RUN):
            change(engine)

    assert revision_of(engine) == "0003"
    assert check_ledger(engine).live_runs == (RUN,)


def test_a_run_whose_process_is_gone_keeps_nobody_from_upgrading(engine: Engine) -> None:
    make_old(engine, "0003")
    with writing(engine) as connection:
        connection.execute(update(Run).values(state=RunState.RUNNING, lease_until=AT))

    assert bring_up(engine) == "0003"


def test_no_run_begins_on_a_schema_that_was_changed_since_the_ledger_was_opened(settings: Settings) -> None:
    with closing(open_ledger(settings)) as ledger:
        take_back(ledger.engine, "0004")

        with pytest.raises(LedgerError, match="0004"):
            ledger.start_run(RunKind.MIGRATE, settings)


# -- back --------------------------------------------------------------------------------------------------------------


def live_rows(ledger: Ledger) -> None:
    """What only newer versions know."""
    with SyncBoard(ledger.engine, RUN) as board:
        board.publish(SyncStatus(Direction.FORWARD, SyncState.FOLLOWING))
    add_sample(ledger.engine, RUN, "sync", {"dirty": 1})
    add_waiver(
        ledger.engine,
        source="redis://blue:6379",
        target="redis://green:6379",
        check_id="commands.unknown",
        outcome=Outcome.FOUND,
        items=["lcs"],
        why="retired on Friday",
        by="ops",
        until=datetime.now(UTC) + timedelta(days=1),
        run_id=RUN,
    )


def test_taking_a_ledger_back_is_refused_where_rows_would_be_lost(engine: Engine, settings: Settings) -> None:
    make_old(engine, "0002")
    then, before = columns_of(engine), contents(engine, columns_of(engine))
    bring_up(engine)
    with closing(open_ledger(settings)) as ledger:
        live_rows(ledger)

        with pytest.raises(Refused) as caught:
            take_back(engine, "0002")

        for lost in ("sync (1 rows)", "sample (1 rows)", "waiver (1 rows)"):
            assert lost in caught.value.problem
        assert "step" not in caught.value.problem
        assert len(read_samples(ledger.engine, RUN)) == 1

    assert take_back(engine, "0002", lose_rows=True) == SCHEMA_HEAD
    assert columns_of(engine) == then
    assert contents(engine, then) == before
    assert bring_up(engine) == "0002"
    with closing(open_ledger(settings)) as again:
        assert (read_samples(again.engine, RUN), read_waivers(again.engine)) == ([], [])
        # The waiver's audit event is older than all that, and stays.
        assert (again.chain_state().intact, again.chain_state().events) == (True, 1)


def test_a_column_that_holds_nothing_may_go(engine: Engine) -> None:
    make_old(engine, "0001")
    bring_up(engine)
    assert take_back(engine, "0001") == SCHEMA_HEAD

    bring_up(engine)
    with writing(engine) as connection:
        connection.execute(text("UPDATE finding SET rule = 'typed-rewrite'"))
    with pytest.raises(Refused, match=r"finding\.rule"):
        take_back(engine, "0001")


@pytest.mark.parametrize("revision", ["0099", SCHEMA_HEAD, ""])
def test_there_is_no_way_back_to_what_is_not_older(engine: Engine, revision: str) -> None:
    make_old(engine, "0003")

    with pytest.raises(ConfigurationError):
        take_back(engine, revision)

    assert revision_of(engine) == "0003"


# -- checking ----------------------------------------------------------------------------------------------------------


def test_what_is_wrong_with_a_ledger_is_named(engine: Engine) -> None:
    make_old(engine, "0004")
    bring_up(engine)
    with writing(engine) as connection:
        connection.execute(text("UPDATE run SET parent_id = '20200101-000000-000000'"))
        connection.execute(text("DROP INDEX ix_finding_page"))
        connection.execute(
            text("INSERT INTO event VALUES (1, NULL, 'then', 'me', 'made.up', '{}', 'no', 'hash')")
        )

    found = check_ledger(engine)

    assert not found.sound
    assert found.orphans == ("run.parent_id: 1",)
    assert [each for each in found.deviations if "ix_finding_page" in each]
    assert found.chain is not None
    assert found.chain.broken_at == 1


def test_a_check_of_an_older_or_newer_ledger_says_so_and_writes_nothing(engine: Engine) -> None:
    assert (check_ledger(engine).version, check_ledger(engine).sound) == (None, True)
    make_old(engine, "0003")

    found = check_ledger(engine)
    assert (found.version, found.pending, found.sound) == ("0003", tuple(known_revisions()[3:]), True)
    assert revision_of(engine) == "0003"

    with writing(engine) as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    newer = check_ledger(engine)
    assert (newer.unknown, newer.sound) == (True, False)
    for change in (bring_up, lambda engine: take_back(engine, "0002")):
        with pytest.raises(LedgerError, match="9999"):
            change(engine)
