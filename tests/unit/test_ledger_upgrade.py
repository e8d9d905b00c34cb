"""Ledgers of earlier versions open, and keep what they hold."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import create_engine, inspect

from integrity.ledger import Ledger, open_ledger
from integrity.ledger.migrate import downgrade, upgrade
from integrity.ledger.models import FindingClass, FindingState, PhaseName, RunKind, RunState
from integrity.ledger.samples import add_sample, read_samples
from integrity.ledger.steps import read_steps
from integrity.ledger.sync_board import SyncBoard, SyncStatus, read_status
from integrity.ledger.vocabulary import Direction, SyncState
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


def contents(path: Path) -> dict[str, list[tuple[object, ...]]]:
    """Every row of every table that revision 0002 knows."""
    with closing(sqlite3.connect(path)) as connection:
        names = [
            name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        ]
        return {
            name: connection.execute(f"SELECT * FROM {name}").fetchall()  # noqa: S608
            for name in names
            if name not in LIVE_TABLES | {"alembic_version"}
        }


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
