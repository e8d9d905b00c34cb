"""The ledger on a real PostgreSQL: whole runs, several at once, and a database that goes away in the middle."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Barrier, Thread
from time import monotonic, sleep
from typing import Final

import pytest
from sqlalchemy import URL, Engine, create_engine, make_url, text, update

from greenfly.demo.dataset import fill
from integrity.errors import GreenflyError, LedgerError, LedgerUnreachable, Undone
from integrity.ledger import Ledger, RunHandle, open_ledger
from integrity.ledger import postgres as postgres_module
from integrity.ledger.database import adding, connect, reading, repeated, writing
from integrity.ledger.models import Finding, FindingClass, PhaseName, Run, RunKind, RunState, Verdict
from integrity.ledger.schema_check import check_ledger
from integrity.ledger.values import CheckpointState, NewFinding
from integrity.progress import Silent
from integrity.settings import Settings, load_settings
from integrity.switch.machine import Detail, Machine, Step
from tests.cli import Greenfly
from tests.inprocess import between
from tests.ledger import Postgres, place
from tests.live import Live
from tests.oracle import compare
from tests.proxy import Proxy, unchanged
from tests.runs import migrate
from tests.servers import Store

KEYS: Final = 2400


def settings_of(url: URL | str, folder: Path, **more: object) -> Settings:
    shown = url if isinstance(url, str) else url.render_as_string(hide_password=False)
    return load_settings(place(folder, shown) | more, environ={}).settings


@pytest.fixture
def settings(postgres_ledger: str, tmp_path: Path) -> Settings:
    return settings_of(postgres_ledger, tmp_path / "state")


@pytest.fixture
def ledger(settings: Settings) -> Iterator[Ledger]:
    with closing(open_ledger(settings)) as opened:
        yield opened


@pytest.fixture
def run(ledger: Ledger, settings: Settings) -> RunHandle:
    return ledger.start_run(RunKind.MIGRATE, settings)


def events_of(ledger: Ledger, run: RunHandle, kind: str) -> int:
    return len([event for event in ledger.events(run.id) if event.kind == kind])


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 60.0) -> None:
    until = monotonic() + seconds
    while not condition():
        assert monotonic() < until, what
        sleep(0.02)


# -- whole runs --------------------------------------------------------------------------------------------------------


def longest_transaction(engine: Engine) -> float:
    """Seconds that the oldest transaction of a Greenfly has been open for, at this moment."""
    query = text(
        "SELECT coalesce(max(extract(epoch FROM clock_timestamp() - xact_start)), 0) FROM pg_stat_activity "
        "WHERE application_name = 'greenfly' AND pid <> pg_backend_pid()"
    )
    with engine.connect() as connection:
        return float(connection.execute(query).scalar_one())


def test_a_killed_migration_goes_on_and_holds_no_transaction_open_while_it_copies(
    greenfly: Greenfly, blue: Store, green_redis: Store, postgres_ledger: str
) -> None:
    fill(blue.url, KEYS, seed=3)
    slow = {"GREENFLY_LEDGER_URL": postgres_ledger, "GREENFLY_LEASE_SECONDS": "2"}
    flags = (*between(blue.url, green_redis.url), "--no-snapshot", "--workers", "2")
    process = greenfly.start("migrate", *flags, "--keys-per-second", "800", env=slow)
    watcher = create_engine(postgres_ledger, isolation_level="AUTOCOMMIT")
    longest = 0.0
    with watcher.connect() as connection:

        def moved() -> int:
            counted = connection.execute(text("SELECT coalesce(sum(keys), 0) FROM checkpoint")).scalar_one()
            return int(counted)

        until = monotonic() + 60
        while moved() < KEYS // 3:
            assert process.poll() is None, process.communicate()
            assert monotonic() < until
            longest = max(longest, longest_transaction(watcher))
            sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.wait()
        copied = moved()
    watcher.dispose()
    assert 0 < copied < KEYS
    # A batch on the wire takes a part of a second at this pace; a transaction around it would show.
    assert longest < 0.2, longest

    sleep(2.1)  # the lease of the killed process
    done = migrate(
        greenfly, blue.url, green_redis.url, "--resume", env={"GREENFLY_LEDGER_URL": postgres_ledger}
    )

    assert (done.exit_code, done.at("verdict")) == (0, Verdict.PASS.value), done.stderr
    assert compare(blue.url, green_redis.url) == []
    with closing(open_ledger(settings_of(postgres_ledger, greenfly.state_dir))) as ledger:
        (only,) = ledger.runs()
        assert [e.kind for e in ledger.events(only.id)].count("run.resumed") == 1
        assert check_ledger(ledger.engine).sound


@dataclass(slots=True)
class LiveOnPostgres(Live):
    """A live move whose ledger is not in a file."""

    ledger_url: str = ""

    def rows(self, query: str, *values: object) -> list[tuple[object, ...]]:
        """Straight from the database."""
        engine = create_engine(self.ledger_url)
        try:
            with engine.connect() as connection:
                found = connection.exec_driver_sql(query.replace("?", "%s"), tuple(values))
                return [tuple(row) for row in found]
        finally:
            engine.dispose()


def test_a_move_there_and_back_is_told_by_a_ledger_on_postgresql(
    blue: Store, green_redis: Store, tmp_path: Path, postgres_ledger: str
) -> None:
    fill(blue.url, 1000, seed=4)
    wanted = f'ledger_url = "{postgres_ledger}"\n'
    folder = tmp_path / "live"
    with LiveOnPostgres(folder, blue.url, green_redis.url, ledger_url=postgres_ledger) as live:
        written = folder / "greenfly.toml"
        written.write_text(wanted + written.read_text())
        more = written.read_text() + '\n[cutover]\nconfirm = "environment"\n'
        written.write_text(more)
        sync = live.sync()
        live.wait_until_clean()
        blue.client.set("while-following", "1")
        live.wait_until_drained()

        there = live.run("cutover", "--yes", "--json")
        assert there.code == 0, there.err + live.log()
        green_redis.client.set("on-green", "2")
        back = live.run("rollback", "--yes", "--json")
        assert back.code == 0, back.err + live.log()

        assert (blue.client.get("while-following"), blue.client.get("on-green")) == (b"1", b"2")
        assert set(live.steps("cutover").values()) == {"done"}
        assert set(live.steps("rollback").values()) == {"done"}
        assert live.run("runs", "stop", "latest").code == 0
        assert sync.wait(timeout=60) == 0, live.log()
        checked = live.run("db", "check", "--json")
        assert (checked.code, checked.json()["sound"], checked.json()["live_runs"]) == (0, True, [])
    assert not (live.state / "ledger.sqlite3").exists()


def test_a_ledger_that_is_away_for_a_while_does_not_break_a_run(
    greenfly: Greenfly, blue: Store, green_redis: Store, own_postgres: Postgres
) -> None:
    fill(blue.url, KEYS, seed=5)
    url = own_postgres.database()
    process = start_slowly(greenfly, blue, green_redis, url)
    wait_until(lambda: copied_keys(green_redis) > KEYS // 4, "some keys")
    assert own_postgres.stop is not None
    assert own_postgres.start_again is not None

    own_postgres.stop()
    sleep(1.0)
    own_postgres.start_again()

    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert json.loads(out)["verdict"] == Verdict.PASS.value
    assert compare(blue.url, green_redis.url) == []


def test_a_ledger_that_stays_away_ends_the_run_by_name_and_loses_nothing(
    greenfly: Greenfly, blue: Store, green_redis: Store, own_postgres: Postgres
) -> None:
    fill(blue.url, KEYS, seed=6)
    url = own_postgres.database()
    assert own_postgres.stop is not None
    assert own_postgres.start_again is not None
    process = start_slowly(greenfly, blue, green_redis, url, GREENFLY_LEASE_SECONDS="2")
    wait_until(lambda: copied_keys(green_redis) > KEYS // 4, "some keys")
    own_postgres.stop()

    out, err = process.communicate(timeout=60)

    assert process.returncode == 5, err
    assert json.loads(out)["error"]["kind"] == LedgerUnreachable.__name__
    assert url.password is not None
    assert url.password not in out + err
    before = copied_keys(green_redis)
    own_postgres.start_again()
    sleep(2.1)
    shown = url.render_as_string(hide_password=False)
    done = migrate(greenfly, blue.url, green_redis.url, "--resume", env={"GREENFLY_LEDGER_URL": shown})
    assert (done.exit_code, done.at("verdict")) == (0, Verdict.PASS.value), done.stderr
    assert before > 0
    assert compare(blue.url, green_redis.url) == []


def start_slowly(
    greenfly: Greenfly, blue: Store, green: Store, url: URL, **env: str
) -> subprocess.Popen[str]:
    shown = url.render_as_string(hide_password=False)
    variables = {"GREENFLY_LEDGER_URL": shown, "GREENFLY_LEASE_SECONDS": "10", **env}
    flags = (*between(blue.url, green.url), "--no-snapshot", "--keys-per-second", "1200", "--json")
    return greenfly.start("migrate", *flags, env=variables)


def copied_keys(store: Store) -> int:
    return sum(int(facts["keys"]) for facts in store.client.info("keyspace").values())


# -- several at once ---------------------------------------------------------------------------------------------------


def test_four_runs_at_once_lose_no_update_and_form_one_chain(ledger: Ledger, settings: Settings) -> None:
    common = ledger.start_run(RunKind.SYNC, settings)
    number, failures = 25, list[BaseException]()

    def one(index: int) -> None:
        try:
            with closing(open_ledger(settings)) as mine:
                handle = mine.start_run(RunKind.MIGRATE, settings)
                for turn in range(1, number + 1):
                    handle.event("test.event", {"turn": turn})
                    state = CheckpointState(0, turn, turn, turn, turn, done=False)
                    handle.checkpoint(PhaseName.STREAM, "server", state)
                    handle.add_findings(PhaseName.VERIFY, [NewFinding(FindingClass.MISSING, 0, b"%d" % turn)])
                    # Read, then written: what one asks must not be undone by another.
                    if index % 2:
                        mine.set_control(common.id, "control.limited", keys_per_second=turn)
                    else:
                        mine.set_control(common.id, "control.limited", bytes_per_second=turn)
                handle.finish(RunState.FINISHED, verdict=Verdict.PASS, reason=None)
        except GreenflyError as error:
            failures.append(error)

    threads = [Thread(target=one, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failures == []
    control = ledger.control(common.id)
    assert (control.keys_per_second, control.bytes_per_second) == (number, number)
    ended = [run for run in ledger.runs() if run.kind is RunKind.MIGRATE]
    assert len(ended) == 4
    for run in ended:
        assert [(c.keys, c.batches) for c in ledger.checkpoints(run.id)] == [(number, number)]
        assert len(ledger.findings(run.id)) == number
    chain = ledger.chain_state()
    assert (chain.intact, chain.events) == (True, 1 + 4 * (number + 2) + 4 * number)


def test_of_those_that_would_take_a_run_over_one_does(
    ledger: Ledger, settings: Settings, run: RunHandle
) -> None:
    with writing(ledger.engine) as connection:
        connection.execute(update(Run).values(lease_until=datetime.now(UTC) - timedelta(seconds=1)))
    barrier, taken, refused = Barrier(4, timeout=20), list[str](), list[str]()

    def take() -> None:
        with closing(open_ledger(settings)) as mine:
            barrier.wait()
            try:
                taken.append(mine.take_over(run.id, 30).owner)
            except GreenflyError as error:
                refused.append(type(error).__name__)

    threads = [Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert (len(taken), refused) == (1, ["Refused"] * 3)
    assert ledger.find_run(run.id).lease_owner == taken[0]


def test_two_that_deadlock_are_both_done_in_the_end(ledger: Ledger, run: RunHandle) -> None:
    keys = [b"a", b"b"]
    run.add_findings(PhaseName.VERIFY, [NewFinding(FindingClass.MISSING, 0, key) for key in keys])
    barrier, attempts, failures = Barrier(2, timeout=20), list[int](), list[BaseException]()

    def touch(mine: int) -> None:
        first = True

        @repeated
        def both() -> None:
            nonlocal first
            attempts.append(mine)
            with adding(ledger.engine) as connection:
                for turn, key in enumerate(keys if mine else reversed(keys)):
                    if turn and first:
                        first = False
                        barrier.wait()  # Each holds what the other wants.
                    seen = Finding.times_seen + 1
                    connection.execute(update(Finding).where(Finding.key == key).values(times_seen=seen))

        try:
            both()
        except LedgerError as error:
            failures.append(error)

    threads = [Thread(target=touch, args=(mine,)) for mine in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failures == []
    assert len(attempts) == 3, "one of them was given up, and came again"
    assert [finding.times_seen for finding in ledger.findings(run.id)] == [3, 3]


def test_a_process_that_stands_still_in_a_transaction_does_not_hold_the_others_up(
    ledger: Ledger, settings: Settings, run: RunHandle, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ExitStack() as stack:
        stuck = stack.enter_context(closing(open_ledger(settings)))
        connection = stack.enter_context(closing(stuck.engine.connect()))
        connection.execute(postgres_module.ALONE)
        connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = '500ms'"))
        began = monotonic()

        run.event("test.event", {})

        assert 0.3 < monotonic() - began < 10
        with pytest.raises(LedgerError), writing(stuck.engine) as other:
            other.execute(text("SELECT nothing"))
        with pytest.raises(Exception, match="idle-in-transaction"):
            connection.execute(text("SELECT 1"))


# -- a connection that is lost -----------------------------------------------------------------------------------------


@pytest.fixture
def proxy(postgres_ledger: str) -> Iterator[Proxy]:
    server = make_url(postgres_ledger)
    with Proxy(f"tcp://{server.host}:{server.port}") as between_them:
        yield between_them


@pytest.fixture
def through(proxy: Proxy, postgres_ledger: str, tmp_path: Path) -> Iterator[Ledger]:
    """The ledger, as a process sees it whose network can be cut."""
    port = int(proxy.url.rpartition(":")[2])
    url = make_url(postgres_ledger).set(port=port, query={"sslmode": "disable"})
    with closing(open_ledger(settings_of(url, tmp_path / "through", reconnect_seconds=10))) as opened:
        yield opened


@pytest.mark.parametrize("arrives", [True, False], ids=["commit arrived", "commit was lost"])
def test_whoever_loses_the_answer_to_a_commit_writes_once(
    through: Ledger, proxy: Proxy, settings: Settings, arrives: bool
) -> None:
    run = through.start_run(RunKind.MIGRATE, settings)

    def cut_at_commit(data: bytes) -> tuple[bytes, bool]:
        if b"COMMIT" not in data:
            return data, False
        proxy.change = unchanged
        proxy.to_client.clear()  # The answer, if there is one, stays on its way.
        return (data if arrives else b""), True

    def settle() -> None:
        sleep(0.2)  # The server has committed by then.
        proxy.cut()
        proxy.to_client.set()

    proxy.settle = settle
    proxy.change = cut_at_commit

    run.event("test.event", {"once": True})

    assert proxy.change is unchanged
    assert events_of(through, run, "test.event") == 1
    assert through.chain_state().intact


def test_a_connection_that_is_lost_between_statements_is_made_again(
    through: Ledger, proxy: Proxy, settings: Settings
) -> None:
    run = through.start_run(RunKind.MIGRATE, settings)
    for batch in range(1, 6):
        run.checkpoint(PhaseName.STREAM, "server", CheckpointState(0, batch, batch, batch, 0, done=False))
        assert run.control().paused is False
        proxy.cut()
        run.event("test.event", {"batch": batch})
        run.measure(PhaseName.STREAM, batch, 0)
        proxy.cut()
        assert [c.batches for c in through.checkpoints(run.id)] == [batch]

    assert events_of(through, run, "test.event") == 5
    assert len(through.measurements(run.id)) == 5


def test_an_outage_is_put_up_with_once_and_not_by_every_statement(
    through: Ledger, proxy: Proxy, settings: Settings
) -> None:
    run = RunHandle(through.engine, through.start_run(RunKind.CUTOVER, settings).id, lease_seconds=2.0)
    proxy.part()
    began = monotonic()

    for _ in range(5):
        with pytest.raises(LedgerUnreachable) as caught:
            run.event("test.event", {})

    # Half of the lease, once.
    assert 0.8 < monotonic() - began < 3
    assert str(through.engine.url.password) not in str(caught.value)
    proxy.parted = False
    run.event("test.event", {})


def test_what_holds_writers_back_is_undone_soon_although_the_ledger_is_away(
    through: Ledger, proxy: Proxy, settings: Settings
) -> None:
    short = settings.model_copy(update={"lease_seconds": 2.0})
    handle, done = through.start_run(RunKind.CUTOVER, short), list[str]()

    def fence(_detail: Detail, _deadline: float) -> Detail:
        done.append("fenced")
        return {}

    def lose_the_ledger(_detail: Detail, _deadline: float) -> Detail:
        proxy.part()
        return {}

    steps = [
        Step("fence", 5, fence, undo=lambda _detail: done.append("lifted")),
        Step("drain", 5, lose_the_ledger),
        Step("switch", 5, fence),
    ]
    began = monotonic()

    with pytest.raises(Undone):
        Machine(through.engine, handle, steps, Silent(), final="switch").run()

    assert done == ["fenced", "lifted"]
    assert monotonic() - began < 4
    proxy.parted = False


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_a_database_that_cannot_hold_every_text_is_refused(postgres: Postgres, tmp_path: Path) -> None:
    url = postgres.database(encoding="SQL_ASCII")

    with pytest.raises(LedgerError, match="SQL_ASCII"):
        open_ledger(settings_of(url, tmp_path))


def test_a_machine_with_another_time_of_day_is_refused(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Ahead(datetime):
        """Four seconds before the others."""

        @classmethod
        def now(cls, tz: object = None) -> datetime:  # type: ignore[override]
            return datetime.now(UTC) + timedelta(seconds=4)

    monkeypatch.setattr(postgres_module, "datetime", Ahead)
    with reading(ledger.engine) as connection:
        postgres_module.require_usable(connection, "here", lease_seconds=60)
        with pytest.raises(LedgerError, match="clock"):
            postgres_module.require_usable(connection, "here", lease_seconds=30)


def test_text_that_no_database_takes_is_stored_as_escapes(ledger: Ledger, run: RunHandle) -> None:
    finding = NewFinding(FindingClass.VALUE, 0, b"k\0", detail="a\0b\udcff", rule="r" * 200)
    run.add_findings(PhaseName.VERIFY, [finding])
    run.event("test.event", {"text": "a\0b\udcff"})
    run.phase_started(PhaseName.VERIFY)

    stored = ledger.findings(run.id)[0]

    assert (stored.key, stored.detail) == (b"k\0", "a\\x00b\\udcff")
    assert stored.rule == "r" * 79 + "…"
    assert ledger.chain_state().intact


def test_an_unknown_address_is_told_at_once(tmp_path: Path) -> None:
    began = monotonic()
    with pytest.raises(LedgerUnreachable) as caught:
        connect(settings_of("postgres://ops:hush-hush@127.0.0.1:1/none", tmp_path))
    assert monotonic() - began < 3
    assert "hush-hush" not in str(caught.value)
