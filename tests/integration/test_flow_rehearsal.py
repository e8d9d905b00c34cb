"""Rehearsals in a scratch server, how they compare, and upkeep that tries backups there; without an orchestrator."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from flows import maintenance, sequence
from flows.sequence import Outcome
from greenfly.demo.dataset import fill
from integrity.errors import ArtifactError, ConfigurationError, Refused, ServerFull
from integrity.ledger import Ledger, open_ledger
from integrity.ledger.models import RunKind, Verdict
from integrity.progress import Silent
from integrity.rehearsal import Change, Comparison
from integrity.settings import Settings, load_settings
from tests.conftest import StartServer
from tests.servers import Store


@dataclass(frozen=True, slots=True)
class Stage:
    """A source, a scratch server, and a target that is never touched."""

    blue: Store
    scratch: Store
    target: Store
    state_dir: Path

    def settings(self, **more: object) -> Settings:
        return load_settings(
            {
                "state_dir": self.state_dir,
                "source": {"url": self.blue.url},
                "target": {"url": self.target.url},
                "scratch": {"url": self.scratch.url},
                "assess": {"enabled": False},
                "snapshot": {"enabled": False},
            }
            | more,
            environ={},
        ).settings

    def rehearse(self, settings: Settings | None = None) -> tuple[Outcome, Comparison]:
        told: list[Comparison] = []
        outcome = sequence.rehearse(settings or self.settings(), Silent(), compared=told.append)
        (comparison,) = told
        return outcome, comparison


@pytest.fixture
def stage(blue: Store, green_redis: Store, start_redis: StartServer, state_dir: Path) -> Stage:
    return Stage(blue, start_redis(), green_redis, state_dir)


@pytest.fixture
def ledger(stage: Stage) -> Iterator[Ledger]:
    opened = open_ledger(stage.settings())
    yield opened
    opened.close()


# -- rehearsing --------------------------------------------------------------------------------------------------------


def test_a_rehearsal_proves_a_copy_and_leaves_nothing_behind(stage: Stage) -> None:
    stage.blue.client.mset({f"key:{number}": number for number in range(500)})
    outcome, comparison = stage.rehearse()
    assert (outcome.kind, outcome.verdict) == (RunKind.MIGRATE, Verdict.PASS)
    assert comparison.previous_id is None
    assert stage.scratch.client.dbsize() == stage.target.client.dbsize() == 0
    assert stage.blue.client.dbsize() == 500


def test_a_rehearsal_says_what_changed_since_the_last_one(stage: Stage, ledger: Ledger) -> None:
    stage.blue.client.mset({f"s:{number}": "x" for number in range(100)})
    stage.blue.client.hset("h", "field", "value")
    first, _ = stage.rehearse()
    stage.blue.client.delete("h")
    stage.blue.client.mset({f"t:{number}": "x" for number in range(50)})
    second, comparison = stage.rehearse(stage.settings(verify={"rechecks": 3}))
    assert comparison.previous_id == first.run_id
    changes = {change.what: change for change in comparison.changes}
    assert changes["keys"] == Change("keys", "101", "150 (+49%)", notable=False)
    assert changes["keys, db 0 hash"] == Change("keys, db 0 hash", "1", "0 (-100%)", notable=True)
    rechecks = "setting verify.rechecks"
    assert changes[rechecks] == Change(rechecks, "2", "3", notable=True)
    assert not {"verdict", "Greenfly", "source server", "scratch server"} & changes.keys()
    (told,) = (e for e in ledger.events(second.run_id) if e.kind == "rehearsal.compared")
    assert json.loads(told.payload) == comparison.to_dict()
    third, unchanged = stage.rehearse(stage.settings(verify={"rechecks": 3}))
    assert unchanged.previous_id == second.run_id
    assert [c for c in unchanged.changes if not c.what.startswith("seconds")] == []
    assert third.verdict is Verdict.PASS


def test_a_rehearsal_that_broke_off_is_not_what_the_next_one_is_compared_with(stage: Stage) -> None:
    stage.blue.client.set("a", 1)
    first, _ = stage.rehearse()
    stage.scratch.client.config_set("maxmemory", 1)
    with pytest.raises(ServerFull):
        stage.rehearse()
    stage.scratch.client.config_set("maxmemory", 0)
    _, comparison = stage.rehearse()
    assert comparison.previous_id == first.run_id


# -- the scratch server ------------------------------------------------------------------------------------------------


def test_keys_that_no_rehearsal_put_there_are_never_removed(stage: Stage) -> None:
    stage.blue.client.set("a", 1)
    stage.scratch.client.set("somebody's", "data")
    with pytest.raises(Refused):
        stage.rehearse()
    assert stage.scratch.client.get("somebody's") == b"data"


@pytest.mark.parametrize("role", ["source", "target", "replica"])
def test_a_scratch_server_that_has_another_role_is_refused(stage: Stage, role: str) -> None:
    """Also under another name for the same address."""
    stage.blue.client.set("a", 1)
    other = (stage.target if role == "target" else stage.blue).url.replace("127.0.0.1", "localhost")
    settings = stage.settings(
        **{"scratch": {"url": other}} | ({"replica": {"url": stage.blue.url}} if role == "replica" else {})
    )
    with pytest.raises(Refused):
        stage.rehearse(settings)
    assert stage.blue.client.dbsize() == 1


def test_what_a_rehearsal_was_told_to_leave_is_removed_by_the_next(stage: Stage) -> None:
    stage.blue.client.mset({"a": 1, "b": 2})
    keeping = stage.settings(flows={"keep_scratch": True})
    stage.rehearse(keeping)
    assert stage.scratch.client.dbsize() == 2
    stage.blue.client.delete("b")
    outcome, _ = stage.rehearse(keeping)
    assert outcome.verdict is Verdict.PASS
    assert stage.scratch.client.dbsize() == 1


def test_another_server_at_the_same_address_is_not_emptied(stage: Stage, ledger: Ledger) -> None:
    """The ledger knows that a scratch server was empty only as long as it is the same start of it."""
    stage.blue.client.set("a", 1)
    stage.rehearse(stage.settings(flows={"keep_scratch": True}))
    with closing(sqlite3.connect(stage.state_dir / "ledger.sqlite3")) as database, database:
        database.execute("UPDATE event SET payload = replace(payload, 'server_run\":\"', 'server_run\":\"x')")
    with pytest.raises(Refused):
        stage.rehearse()
    assert stage.scratch.client.dbsize() == 1


def test_without_a_scratch_server_nothing_is_begun(stage: Stage, ledger: Ledger) -> None:
    with pytest.raises(ConfigurationError):
        stage.rehearse(stage.settings(scratch={}))
    assert ledger.runs() == []


# -- upkeep ------------------------------------------------------------------------------------------------------------


def upkeep(settings: Settings) -> dict[str, maintenance.Done]:
    jobs = maintenance.chosen(settings, Silent(), prune=True, record=True, backup=True)
    return {job.name: job.run() for job in jobs}


def test_upkeep_prunes_checks_the_record_and_tries_the_newest_backup(stage: Stage) -> None:
    fill(stage.blue.url, 200, seed=4)
    settings = stage.settings(snapshot={"keep": 1})
    snapshots = [sequence.snapshot(settings, Silent()).snapshot for _ in range(2)]
    done = upkeep(settings)
    assert {name: one.good for name, one in done.items()} == {"prune": True, "record": True, "backup": True}
    maintenance.require_good(list(done.values()))
    assert [Path(str(snapshot)).exists() for snapshot in snapshots] == [False, True]
    assert Path(str(snapshots[1])).name in done["backup"].text
    assert stage.scratch.client.dbsize() == stage.target.client.dbsize() == 0


def test_a_damaged_backup_and_a_changed_record_are_told_and_end_badly(stage: Stage) -> None:
    fill(stage.blue.url, 200, seed=4)
    settings = stage.settings()
    snapshot = Path(str(sequence.snapshot(settings, Silent()).snapshot))
    (rdb,) = snapshot.glob("*.rdb")
    body = bytearray(rdb.read_bytes())
    body[len(body) // 2] ^= 1
    rdb.write_bytes(body)
    with closing(sqlite3.connect(stage.state_dir / "ledger.sqlite3")) as database, database:
        database.execute("UPDATE event SET actor = 'nobody' WHERE sequence = 2")
    done = upkeep(settings)
    assert {name: one.good for name, one in done.items()} == {"prune": True, "record": False, "backup": False}
    with pytest.raises(ArtifactError):
        maintenance.require_good(list(done.values()))
    assert stage.scratch.client.dbsize() == 0


def test_without_a_scratch_server_no_backup_is_tried_and_upkeep_says_so(stage: Stage) -> None:
    done = upkeep(stage.settings(scratch={}))
    assert done["backup"].good
    assert "[scratch]" in done["backup"].text
