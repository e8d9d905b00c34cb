"""Ranges that workers share through the ledger: the same result as one process, whoever of them goes missing."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from threading import Thread
from time import monotonic, sleep

import pytest
from sqlalchemy import select, update

from flows.sequence import read_outcome
from integrity.errors import ConfigurationError, OrchestratorFailed, Refused, ServerFull
from integrity.ledger import open_ledger
from integrity.ledger.database import reading, writing
from integrity.ledger.models import PhaseName, RunKind, RunState, Verdict
from integrity.ledger.range_models import RangeLease, RangeSet
from integrity.migration import Run
from integrity.progress import Silent
from integrity.ranges.crew import Came, lent
from integrity.settings import Settings, load_settings
from tests.conftest import StartServer
from tests.crew import ThreadCrew, take_and_vanish, told
from tests.faults.test_workers import make_keys
from tests.ledger import place
from tests.oracle import compare
from tests.servers import Store

KEYS = 4_500
"""Enough for two ranges."""
KEYS_PER_RANGE = 2_000
LEASE = 1.0
Make = Callable[..., Settings]


@pytest.fixture
def make(
    tmp_path: Path,
    blue: Store,
    green_redis: Store,
    sqlite_ledger: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> Make:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("integrity.partition.KEYS_PER_RANGE", KEYS_PER_RANGE)

    def settings(**more: object) -> Settings:
        tables: dict[str, object] = {
            **place(tmp_path / "state", sqlite_ledger),
            "source": {"url": blue.url},
            "target": {"url": green_redis.url},
            "snapshot": {"enabled": False},
            "assess": {"enabled": False},
            "throttle": {"enabled": False},
            "verify": {"recheck_delay": 0.05},
            "workers": 2,
            "lease_seconds": LEASE,
        }
        return load_settings(tables | more, environ={}).settings

    return settings


@pytest.fixture
def sqlite_ledger() -> None:
    """Where the ledger is, unless a test says otherwise."""
    return


def migrate(
    settings: Settings, crew: ThreadCrew | None, *, resume: bool = False, verify: bool = True
) -> dict[str, object]:
    """Copy and compare, without a report."""
    with closing(open_ledger(settings)) as ledger:
        run = (
            Run.resume(settings, ledger, Silent())
            if resume
            else Run.start(settings, ledger, RunKind.MIGRATE, Silent())
        )
        with lent(crew), run.recorded():
            servers = run.check()
            run.stream(servers)
            if verify:
                run.verify(servers)
        return read_outcome(ledger, run.id).to_dict()


def events(settings: Settings, run_id: object, kind: str) -> list[dict[str, object]]:
    with closing(open_ledger(settings)) as ledger:
        return [json.loads(event.payload) for event in ledger.events(str(run_id)) if event.kind == kind]


def newest_run(settings: Settings) -> str:
    with closing(open_ledger(settings)) as ledger:
        return ledger.find_run("latest").id


def nothing_is_shared(settings: Settings) -> bool:
    with closing(open_ledger(settings)) as ledger, reading(ledger.engine) as connection:
        return (
            not connection.execute(select(RangeSet.id)).all()
            and not connection.execute(select(RangeLease.id)).all()
        )


# -- the same as one ---------------------------------------------------------------------------------------------------


class TestOnEitherDatabase:
    @pytest.fixture
    def sqlite_ledger(self, ledger_url: str | None) -> str | None:
        return ledger_url

    def test_a_crew_comes_to_the_same_as_one_process_and_a_lost_worker_changes_nothing(
        self, make: Make, blue: Store, green_redis: Store
    ) -> None:
        make_keys(blue, KEYS, (0, 3))
        alone = migrate(make(workers=1), None)
        green_redis.client.flushall()
        settings = make()

        def first_ones_vanish(run_id: str, phase: PhaseName, number: int, tried: int) -> Came:
            if number == 1 and tried == 0:
                return take_and_vanish(settings, run_id, phase, number)
            return crew.honest(run_id, phase, number, tried)

        crew = ThreadCrew(settings, attempt=first_ones_vanish)
        shared = migrate(settings, crew)

        assert shared["verdict"] == "PASS"
        assert compare(blue.url, green_redis.url) == []
        for phase, names in {
            "stream": ("written", "skipped", "refused", "vanished", "untold"),
            "verify": ("compared", "equal", "target_scanned", "extra", "fingerprints"),
        }.items():
            for name in names:
                assert told(shared, phase)[name] == told(alone, phase)[name], name
        lost = events(settings, shared["run"], "worker.lost")
        assert [(one["worker"], one["kind"]) for one in lost] == [("gone:1", "copy"), ("gone:1", "compare")]
        assert nothing_is_shared(settings)


def test_workers_are_told_a_run_a_phase_and_a_number_and_the_ledger_holds_no_secret(
    make: Make, start_redis: StartServer, green_redis: Store
) -> None:
    source = start_redis(password="not for the ledger")
    make_keys(source, KEYS)
    settings = make(source={"url": source.url})
    contexts: list[str] = []

    def look_first(run_id: str, phase: PhaseName, number: int, tried: int) -> Came:
        with closing(open_ledger(settings)) as ledger, reading(ledger.engine) as connection:
            contexts.extend(json.dumps(row) for (row,) in connection.execute(select(RangeSet.context)))
        return crew.honest(run_id, phase, number, tried)

    crew = ThreadCrew(settings, attempt=look_first)

    outcome = migrate(settings, crew)

    assert outcome["verdict"] == "PASS"
    assert set(crew.handed) == {
        (outcome["run"], phase, number)
        for phase, count in (("stream", 2), ("verify", 4))
        for number in range(count)
    }
    assert contexts
    for secret in ("not for the ledger", source.url):
        assert not any(secret in context for context in contexts)


def test_temporary_keys_of_a_lost_worker_are_removed_before_green_is_compared(
    make: Make, blue: Store, green_redis: Store
) -> None:
    make_keys(blue, KEYS)
    settings = make()

    def leave_one_behind(run_id: str, phase: PhaseName, number: int, tried: int) -> Came:
        if phase is PhaseName.STREAM and number == 1 and tried == 0:
            with closing(open_ledger(settings)) as ledger:
                ledger.record_event("temporary.keys", {"worker": 1001}, run_id)
            green_redis.client.set(f"greenfly:tmp:{run_id}:1001:0", "half")
            return take_and_vanish(settings, run_id, phase, number)
        return crew.honest(run_id, phase, number, tried)

    crew = ThreadCrew(settings, attempt=leave_one_behind)

    assert migrate(settings, crew)["verdict"] == "PASS"
    assert green_redis.client.dbsize() == KEYS


# -- operators ---------------------------------------------------------------------------------------------------------


def test_a_pause_reaches_every_worker_and_none_counts_as_lost(
    make: Make, blue: Store, green_redis: Store
) -> None:
    make_keys(blue, KEYS)
    settings = make(throttle={"enabled": False, "keys_per_second": 2_000}, workers=4)
    grown: list[int] = []

    def pause_in_the_middle() -> None:
        while green_redis.client.dbsize() < 500:
            sleep(0.02)
        with closing(open_ledger(settings)) as ledger:
            run = ledger.find_run("latest").id
            ledger.set_control(run, "control.paused", paused=True)
            sleep(0.8)
            before = green_redis.client.dbsize()
            sleep(1.2)  # longer than a lease: who is paused is not lost
            grown.append(green_redis.client.dbsize() - before)
            ledger.set_control(run, "control.resumed", paused=False, keys_per_second=0)

    operator = Thread(target=pause_in_the_middle)
    operator.start()
    began = monotonic()
    outcome = migrate(settings, ThreadCrew(settings, workers=4), verify=False)
    operator.join()

    assert green_redis.client.dbsize() == KEYS
    assert grown == [0]
    assert events(settings, outcome["run"], "worker.lost") == []
    assert monotonic() - began > 2.0


def test_two_workers_together_keep_a_cap(make: Make, blue: Store) -> None:
    make_keys(blue, KEYS)
    settings = make(throttle={"enabled": False, "keys_per_second": 3_000})

    outcome = migrate(settings, ThreadCrew(settings), verify=False)

    # 4,500 keys at 3,000 a second; the first to come had the whole cap for itself, for a moment.
    seconds = told(outcome, "stream")["seconds"]
    assert isinstance(seconds, float)
    assert seconds > 1.0


# -- what ends a run ---------------------------------------------------------------------------------------------------


def test_a_worker_that_reaches_another_server_ends_the_run_and_writes_nothing_there(
    make: Make, blue: Store, start_redis: StartServer
) -> None:
    make_keys(blue, KEYS)
    elsewhere = start_redis()

    with pytest.raises(ConfigurationError, match="another target"):
        migrate(make(), ThreadCrew(make(target={"url": elsewhere.url})))

    assert elsewhere.client.dbsize() == 0
    assert nothing_is_shared(make())


def test_a_worker_without_servers_takes_no_range(make: Make, blue: Store) -> None:
    make_keys(blue, KEYS)

    with pytest.raises(ConfigurationError, match="No target"):
        migrate(make(), ThreadCrew(make(target={})))

    assert nothing_is_shared(make())


def test_a_worker_of_another_version_does_nothing(make: Make, blue: Store, green_redis: Store) -> None:
    make_keys(blue, KEYS)
    settings = make()

    def another_version(run_id: str, phase: PhaseName, number: int, tried: int) -> Came:
        with closing(open_ledger(settings)) as ledger, writing(ledger.engine) as connection:
            context = connection.execute(select(RangeSet.context)).scalar_one()
            connection.execute(update(RangeSet).values(context=context | {"version": "0.0.1"}))
        return crew.honest(run_id, phase, number, tried)

    crew = ThreadCrew(settings, workers=1, attempt=another_version)

    with pytest.raises(Refused, match=r"0\.0\.1"):
        migrate(settings, crew)

    assert green_redis.client.dbsize() == 0


def test_what_a_worker_meets_ends_the_run_as_itself_and_the_run_can_be_resumed(
    make: Make, blue: Store, green_redis: Store
) -> None:
    make_keys(blue, KEYS)
    settings = make()
    green_redis.client.config_set("maxmemory", "1500kb")
    try:
        with pytest.raises(ServerFull) as caught:
            migrate(settings, ThreadCrew(settings))
    finally:
        green_redis.client.config_set("maxmemory", "0")
    assert caught.value.role == "target"
    assert nothing_is_shared(settings)

    outcome = migrate(settings, ThreadCrew(settings), resume=True)

    assert outcome["verdict"] == "PASS"
    assert told(outcome, "stream")["written"] == KEYS
    assert compare(blue.url, green_redis.url) == []


def test_a_run_without_workers_breaks_off_by_name(make: Make, blue: Store) -> None:
    make_keys(blue, KEYS)
    settings = make(flows={"worker_seconds": 1})

    with pytest.raises(OrchestratorFailed):
        migrate(settings, ThreadCrew(settings, workers=0))

    with closing(open_ledger(settings)) as ledger:
        run = ledger.find_run("latest")
    assert (run.state, run.verdict) == (RunState.FAILED, Verdict.INCONCLUSIVE)


def test_a_range_that_kills_worker_after_worker_ends_the_run(make: Make, blue: Store) -> None:
    make_keys(blue, KEYS)
    settings = make()

    def dies(run_id: str, phase: PhaseName, number: int, tried: int) -> Came:
        if number == 1:
            raise RuntimeError("killed")
        return crew.honest(run_id, phase, number, tried)

    crew = ThreadCrew(settings, attempt=dies)

    with pytest.raises(OrchestratorFailed, match="4 workers"):
        migrate(settings, crew)

    assert crew.handed.count((newest_run(settings), "stream", 1)) == 4


def test_workers_stop_when_nobody_owns_the_run(make: Make, blue: Store, green_redis: Store) -> None:
    make_keys(blue, KEYS)
    settings = make(throttle={"enabled": False, "keys_per_second": 1_000})
    came: list[Came] = []

    def owner_dies(run_id: str, phase: PhaseName, number: int, tried: int) -> Came:
        came.append(crew.honest(run_id, phase, number, tried))
        return came[-1]

    class Died(BaseException):
        """The owner's process is gone: nothing is closed, nothing is renewed."""

    def dying_owner() -> None:
        def watch_and_die(self: object, tasks: object) -> None:
            sleep(0.5)
            raise Died

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("integrity.ranges.owner.SharedRanges._watch", watch_and_die)
            patch.setattr("integrity.ranges.owner.SharedRanges._stop", lambda self: None)
            patch.setattr("integrity.ranges.board.remove", lambda engine, set_id: None)
            patch.setattr("integrity.ledger.handle.RunHandle.finish", lambda self, *a, **b: None)
            with pytest.raises(Died):
                migrate(settings, crew)

    crew = ThreadCrew(settings, attempt=owner_dies)
    began = monotonic()
    dying_owner()

    assert came == [Came.LOST, Came.LOST]
    assert monotonic() - began < 4.0
    size = green_redis.client.dbsize()
    assert 0 < size < KEYS
    sleep(0.3)
    assert green_redis.client.dbsize() == size
