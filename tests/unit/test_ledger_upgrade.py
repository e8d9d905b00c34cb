"""Ledgers of earlier versions open, and keep what they hold."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import create_engine, inspect

from integrity.assess.model import Outcome
from integrity.ledger import Ledger, open_ledger
from integrity.ledger.assessments import read_assessment, read_results
from integrity.ledger.migrate import downgrade, upgrade
from integrity.ledger.models import FindingClass, FindingState, PhaseName, RunKind, RunState
from integrity.ledger.samples import add_sample, read_samples
from integrity.ledger.steps import read_steps
from integrity.ledger.sync_board import SyncBoard, SyncStatus, read_status
from integrity.ledger.vocabulary import Direction, SyncState
from integrity.ledger.waivers import add_waiver, read_waivers
from integrity.settings import Settings, load_settings

RUN = "20260101-000000-abcdef"
OLD_ROWS = """
INSERT INTO run (id, kind, state, version, operator, host, checksum_definition, settings, started_at, lease_owner,
  lease_until) VALUES ('20260101-000000-abcdef', 'migrate', 'finished', '0.1.0', 'ops', 'box', 'xxh3', '{}',
  '2026-01-01 00:00:00.000000', 'box:1', '2026-01-01 00:00:30.000000');
INSERT INTO phase VALUES (1, '20260101-000000-abcdef', 'stream', 'done', 1, '2026-01-01 00:00:00.000000', NULL,
  5, 5, 99, '{}');
INSERT INTO finding (id, run_id, phase, finding_class, state, database, key, key_digest, detail, first_seen_at,
  last_seen_at, times_seen) VALUES (7, '20260101-000000-abcdef', 'verify', 'value', 'open', 3, x'ff00',
  x'00112233445566778899aabbccddeeff', 'differs', '2026-01-01 00:00:00.000000', '2026-01-01 00:00:00.000000', 2);
"""


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.chdir(tmp_path)
    return load_settings({"state_dir": tmp_path / "state"}, environ={}).settings


@pytest.fixture
def old_ledger(settings: Settings) -> Path:
    """A ledger as revision 0001 made it, with a run in it."""
    settings.state_dir.mkdir()
    path = settings.state_dir / "ledger.sqlite3"
    engine = create_engine(f"sqlite:///{path}")
    upgrade(engine, "0001")
    engine.dispose()
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(OLD_ROWS)
    return path


@pytest.fixture
def ledger(old_ledger: Path, settings: Settings) -> Iterator[Ledger]:
    opened = open_ledger(settings)
    yield opened
    opened.close()


def test_a_ledger_of_the_first_version_keeps_its_rows(ledger: Ledger) -> None:
    run = ledger.find_run(RUN)
    assert (run.kind, run.state, run.parent_id) == (RunKind.MIGRATE, RunState.FINISHED, None)
    assert [(p.name, p.keys, p.bytes) for p in ledger.phases(RUN)] == [(PhaseName.STREAM, 5, 99)]
    finding = ledger.findings(RUN)[0]
    assert (finding.id, finding.finding_class, finding.state) == (7, FindingClass.VALUE, FindingState.OPEN)
    assert (finding.key, finding.times_seen, finding.rule) == (b"\xff\x00", 2, None)
    assert ledger.repairs(RUN) == []
    assert ledger.control(RUN).updated_at is None


def test_taking_the_schema_back_keeps_what_the_first_version_knows(ledger: Ledger, old_ledger: Path) -> None:
    downgrade(ledger.engine, "0001")

    tables = inspect(ledger.engine).get_table_names()
    assert {"control", "repair"}.isdisjoint(tables)
    with closing(sqlite3.connect(old_ledger)) as connection:
        assert connection.execute("SELECT count(*) FROM phase").fetchone() == (1,)
        assert connection.execute("SELECT key, times_seen FROM finding").fetchone() == (b"\xff\x00", 2)
        columns = {row[1] for row in connection.execute("PRAGMA table_info(finding)")}
    assert "rule" not in columns


# -- 0002, the version before live moves -------------------------------------------------------------------------------

LIVE_TABLES = {"sync", "step", "approval", "sample"}
ASSESS_TABLES = {"assessment", "assessment_result", "waiver"}
REVIEW_TABLES = {"review_token", "finding_waiver"}
ROWS_OF_0002 = """
UPDATE finding SET rule = 'typed-rewrite';
UPDATE run SET parent_id = '20251231-000000-fedcba';
INSERT INTO control VALUES ('20260101-000000-abcdef', 1, 500, NULL, '2026-01-01 00:00:10.000000', 'ops');
INSERT INTO repair (id, run_id, finding_id, database, key, key_digest, action, at, before_detail, detail) VALUES
  (3, '20260101-000000-abcdef', 7, 3, x'ff00', x'00112233445566778899aabbccddeeff', 'copied',
  '2026-01-01 00:00:20.000000', 'before', 'after');
"""


@pytest.fixture
def ledger_of_0002(old_ledger: Path, settings: Settings) -> Path:
    """A ledger as revision 0002 made it, with a row in each of its tables."""
    engine = create_engine(f"sqlite:///{old_ledger}")
    upgrade(engine, "0002")
    engine.dispose()
    with closing(sqlite3.connect(old_ledger)) as connection:
        connection.executescript(ROWS_OF_0002)
    return old_ledger


def contents(
    path: Path, without: set[str] = LIVE_TABLES | ASSESS_TABLES
) -> dict[str, list[tuple[object, ...]]]:
    """Every row of every table that revision 0002, or another one, knows."""
    with closing(sqlite3.connect(path)) as connection:
        names = [
            name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        ]
        return {
            name: connection.execute(f"SELECT {_columns(connection, name)} FROM {name}").fetchall()  # noqa: S608
            for name in names
            if name not in without | REVIEW_TABLES | {"alembic_version"}
        }


def _columns(connection: sqlite3.Connection, table: str) -> str:
    """All but those that are worked out from the others."""
    told = connection.execute(f"PRAGMA table_info({table})").fetchall()
    return ", ".join(f'"{column[1]}"' for column in told if column[1] != "key_head")


def test_a_ledger_from_before_live_moves_keeps_its_rows(ledger_of_0002: Path, settings: Settings) -> None:
    before = contents(ledger_of_0002)
    assert all(before[name] for name in ("run", "phase", "finding", "repair", "control"))

    with closing(open_ledger(settings)) as opened:
        assert set(inspect(opened.engine).get_table_names()) >= LIVE_TABLES
        run = opened.find_run(RUN)
        assert (run.kind, run.parent_id) == (RunKind.MIGRATE, "20251231-000000-fedcba")
        assert (opened.control(RUN).paused, opened.control(RUN).keys_per_second) == (True, 500)
        assert [(each.finding_id, each.detail) for each in opened.repairs(RUN)] == [(7, "after")]
        assert read_status(opened.engine, RUN) is None
        assert (read_steps(opened.engine, RUN), read_samples(opened.engine, RUN)) == ([], [])

    assert contents(ledger_of_0002) == before


def test_a_live_ledger_can_be_taken_back_and_loses_only_what_is_live(
    ledger_of_0002: Path, settings: Settings
) -> None:
    before = contents(ledger_of_0002)
    with closing(open_ledger(settings)) as opened:
        with SyncBoard(opened.engine, RUN) as board:
            board.publish(SyncStatus(Direction.FORWARD, SyncState.FOLLOWING))
        add_sample(opened.engine, RUN, "sync", {"dirty": 1})

        downgrade(opened.engine, "0002")

        assert LIVE_TABLES.isdisjoint(inspect(opened.engine).get_table_names())
    assert contents(ledger_of_0002) == before

    with closing(open_ledger(settings)) as again:
        assert read_samples(again.engine, RUN) == []
        assert read_status(again.engine, RUN) is None
    assert contents(ledger_of_0002) == before


# -- 0003, the version before assessments ------------------------------------------------------------------------------

ROWS_OF_0003 = """
INSERT INTO sync VALUES ('20260101-000000-abcdef', 'forward', 'following', 'tracking', 1, 2, 3, 4, 5, NULL, NULL, 6, 7,
  '2026-01-01 00:00:10.000000', 0, NULL, NULL, 0, NULL);
INSERT INTO step VALUES (1, '20260101-000000-abcdef', 0, 'gates', 'done', 30000, 1, NULL, NULL, '{}');
INSERT INTO approval VALUES (1, '20260101-000000-abcdef', 'cutover', 'approved', 'ops',
  '2026-01-01 00:00:10.000000', '');
INSERT INTO sample VALUES (1, '20260101-000000-abcdef', 'sync', '2026-01-01 00:00:10.000000', '{}');
"""


@pytest.fixture
def ledger_of_0003(ledger_of_0002: Path) -> Path:
    """A ledger as revision 0003 made it, with a row in each of its tables."""
    engine = create_engine(f"sqlite:///{ledger_of_0002}")
    upgrade(engine, "0003")
    engine.dispose()
    with closing(sqlite3.connect(ledger_of_0002)) as connection:
        connection.executescript(ROWS_OF_0003)
    return ledger_of_0002


def test_a_ledger_from_before_assessments_keeps_its_rows(ledger_of_0003: Path, settings: Settings) -> None:
    before = contents(ledger_of_0003, ASSESS_TABLES)
    assert all(before[name] for name in (*LIVE_TABLES, "run", "phase", "finding", "repair", "control"))

    with closing(open_ledger(settings)) as opened:
        assert set(inspect(opened.engine).get_table_names()) >= ASSESS_TABLES
        assert read_assessment(opened.engine, RUN) is None
        assert (read_results(opened.engine, RUN), read_waivers(opened.engine)) == ([], [])

    assert contents(ledger_of_0003, ASSESS_TABLES) == before


def test_a_ledger_with_assessments_can_be_taken_back_and_loses_only_these(
    ledger_of_0003: Path, settings: Settings
) -> None:
    before = contents(ledger_of_0003, ASSESS_TABLES | {"event"})
    with closing(open_ledger(settings)) as opened:
        add_waiver(
            opened.engine,
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
        downgrade(opened.engine, "0003")
        assert ASSESS_TABLES.isdisjoint(inspect(opened.engine).get_table_names())
    assert contents(ledger_of_0003, ASSESS_TABLES | {"event"}) == before

    with closing(open_ledger(settings)) as again:
        assert read_waivers(again.engine) == []
        assert again.chain_state().intact
