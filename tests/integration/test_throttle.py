"""Kind to real servers: latency slows a run down, caps hold, and other terminals pause and limit it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from threading import Event, Thread
from time import monotonic, sleep

import pytest

from integrity.endpoint import Endpoint
from integrity.errors import GreenflyError, Refused, Role
from integrity.keyspace import scan_command, scan_reply
from integrity.ledger import Ledger, RunHandle, open_ledger
from integrity.ledger.models import RunKind, RunState
from integrity.ledger.store import ControlState
from integrity.progress import Silent
from integrity.settings import EndpointSettings, Settings, ThrottleSettings, load_settings
from integrity.transfer.throttle import LiveRun, Throttle
from tests.cli import Greenfly, dig
from tests.conftest import StartServer
from tests.inprocess import between, run_here
from tests.servers import Store, connect

FULL = 512
LIMIT_MS = 40.0


def endpoint(store: Store, role: Role = "source") -> Endpoint:
    return Endpoint.from_settings(role, EndpointSettings.model_validate({"url": store.url}))


def throttle(
    *endpoints: Endpoint,
    run: LiveRun | None = None,
    settings: Mapping[str, object] | None = None,
    batch_keys: int = FULL,
) -> Throttle:
    return Throttle(
        ThrottleSettings.model_validate({"max_latency_ms": LIMIT_MS, **(settings or {})}),
        batch_keys,
        endpoints=endpoints,
        run=run,
        progress=Silent(),
    )


def fill(store: Store, keys: int) -> None:
    pipeline = store.client.pipeline(transaction=False)
    for number in range(keys):
        pipeline.set(f"key:{number}", "x" * 100)
    pipeline.execute()


def read_on(
    source: Endpoint, pace: Throttle, go_on: Callable[[int], bool], lease: RunHandle | None = None
) -> int:
    """Read pages round and round, as a copy would, while *go_on* says so of the keys read so far."""
    keys = cursor = 0
    with source.connect("test") as connection:
        while go_on(keys):
            connection.send(scan_command(cursor, pace.batch_keys))
            cursor, page = scan_reply(connection, connection.receive())
            pace.admit(len(page), 100 * len(page))
            keys += len(page)
            if lease is not None:
                lease.renew_lease()
    return keys


def batch_of(pace: Throttle) -> int:
    """Read one page of one key, and tell how large the next one may be."""
    pace.admit(1, 1)
    return pace.batch_keys


def wait_until(true: Callable[[], object], seconds: float = 30.0) -> None:
    give_up = monotonic() + seconds
    while not true():
        assert monotonic() < give_up, "it did not come true"
        sleep(0.02)


@contextmanager
def made_slow(store: Store) -> Iterator[None]:
    """Keep a server from answering anyone for a quarter of a second, again and again."""
    stop = Event()

    def sleep_there() -> None:
        with connect(store.url) as client:
            while not stop.is_set():
                client.execute_command("DEBUG", "SLEEP", "0.23")

    thread = Thread(target=sleep_there)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


# -- latency -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("slow_role", ["source", "target"])
def test_a_server_that_answers_late_is_read_from_in_smaller_batches_until_it_is_quick_again(
    start_redis: StartServer, blue: Store, slow_role: Role
) -> None:
    slow = start_redis("--enable-debug-command", "yes")
    quick_role: Role = "target" if slow_role == "source" else "source"
    with throttle(endpoint(slow, slow_role), endpoint(blue, quick_role)) as pace:
        assert pace.batch_keys == FULL
        with made_slow(slow):
            wait_until(lambda: batch_of(pace) <= FULL // 4)
        wait_until(lambda: batch_of(pace) == FULL)

    told = pace.summary()
    late = told["late"]
    assert isinstance(late, dict)
    assert late[slow_role] >= 2
    smallest = dig(told, "batch_keys", "smallest")
    assert isinstance(smallest, int)
    assert smallest <= FULL // 4
    worst, quiet = dig(told, "latency_ms", slow_role, "worst"), dig(told, "latency_ms", slow_role, "quiet")
    assert isinstance(worst, float)
    assert isinstance(quiet, float)
    assert worst > LIMIT_MS > quiet


def test_a_server_that_stays_slow_is_given_air_between_the_smallest_batches(start_redis: StartServer) -> None:
    slow = start_redis("--enable-debug-command", "yes")
    with throttle(endpoint(slow), batch_keys=32) as pace, made_slow(slow):
        wait_until(lambda: batch_of(pace) == 16 and "latency of the source" in str(pace.summary()))

    assert pace.batch_keys == 16
    assert dig(pace.summary(), "batch_keys", "smallest") == 16


def test_a_server_that_is_stuck_is_noticed_before_it_answers(start_redis: StartServer) -> None:
    store = start_redis()
    with throttle(endpoint(store)) as pace:
        wait_until(lambda: dig(pace.summary(), "latency_ms", "source", "samples"))
        begun = monotonic()
        store.client.client_pause(20_000, all=True)
        wait_until(lambda: batch_of(pace) < FULL, 15)
        assert monotonic() - begun < 15
        # Only an unpaused server can be stopped politely.
        assert store.server is not None
        store.server.stop()


def test_without_the_latency_part_nobody_is_asked(blue: Store) -> None:
    before = blue.client.info("stats")["total_connections_received"]
    with throttle(endpoint(blue), settings={"enabled": False}) as pace:
        sleep(0.3)
        pace.admit(1, 1)

    assert blue.client.info("stats")["total_connections_received"] == before
    assert pace.summary()["latency_ms"] == {}


def test_a_probe_that_loses_its_server_ends_nothing_and_finds_it_again(blue: Store) -> None:
    with throttle(endpoint(blue)) as pace:
        wait_until(lambda: [c for c in blue.client.client_list() if c["name"] == "greenfly:throttle"])
        before = dig(pace.summary(), "latency_ms", "source", "samples")
        assert isinstance(before, int)
        for client in blue.client.client_list():
            if client["name"] == "greenfly:throttle":
                blue.client.client_kill_filter(_id=client["id"])
        wait_until(lambda: batch_of(pace) and dig(pace.summary(), "latency_ms", "source", "lost"))
        wait_until(lambda: int(str(dig(pace.summary(), "latency_ms", "source", "samples"))) > before + 3)

    assert dig(pace.summary(), "latency_ms", "source", "lost") == 1
    wait_until(lambda: all(c["name"] != "greenfly:throttle" for c in blue.client.client_list()))


def test_a_user_who_may_not_ping_is_not_asked_again(start_redis: StartServer) -> None:
    store = start_redis()
    store.client.acl_setuser(
        "app", enabled=True, passwords=["+secret"], keys=["*"], categories=["+@all"], commands=["-ping"]
    )
    url = store.url.replace("redis://", "redis://app:secret@")
    source = Endpoint.from_settings("source", EndpointSettings.model_validate({"url": url}))
    with throttle(source) as pace:
        pace.admit(1, 1)
        sleep(0.5)

    assert [entry["count"] for entry in store.client.acl_log()] == [1]
    assert dig(pace.summary(), "latency_ms", "source", "samples") == 0


# -- caps --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cap", "keys_per_second"), [({"keys_per_second": 2000}, 2000), ({"bytes_per_second": "100KB"}, 1000)]
)
def test_a_cap_is_kept_from_the_first_second_on(
    blue: Store, cap: dict[str, object], keys_per_second: int
) -> None:
    fill(blue, 5000)
    source = endpoint(blue)
    with throttle(source, settings=cap) as pace:
        begun = monotonic()
        keys = read_on(source, pace, lambda _: monotonic() - begun < 3)
        took = monotonic() - begun

    assert keys_per_second / 2 < keys <= keys_per_second * took * 1.15


# -- other terminals ---------------------------------------------------------------------------------------------------


@pytest.fixture
def settings(greenfly: Greenfly) -> Settings:
    return load_settings({"state_dir": greenfly.state_dir, "lease_seconds": 2}, environ={}).settings


@pytest.fixture
def ledger(settings: Settings) -> Iterator[Ledger]:
    opened = open_ledger(settings)
    yield opened
    opened.close()


@pytest.fixture
def run(ledger: Ledger, settings: Settings) -> Iterator[RunHandle]:
    handle = ledger.start_run(RunKind.MIGRATE, settings)
    yield handle
    handle.close()


class Reading:
    """A run that reads round and round in a thread."""

    def __init__(self, source: Endpoint, run: RunHandle) -> None:
        self.id = run.id
        self.keys = 0
        self.error: GreenflyError | None = None
        self._stop = Event()
        self._source = source
        self._run = run
        self._thread = Thread(target=self._read)

    def __enter__(self) -> Reading:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _goes_on(self, keys: int) -> bool:
        self.keys = keys
        return not self._stop.is_set()

    def _read(self) -> None:
        try:
            with throttle(self._source, run=self, settings={"keys_per_second": 5000}) as pace:
                read_on(self._source, pace, self._goes_on, self._run)
        except GreenflyError as error:
            self.error = None if self._stop.is_set() else error

    def control(self) -> ControlState:
        """The run's own, until the test is over: a paused run would otherwise never end."""
        if self._stop.is_set():
            raise Refused("The test is over.")
        return self._run.control()

    def renew_lease(self) -> None:
        """The run's own."""
        self._run.renew_lease()

    def keys_in(self, seconds: float) -> int:
        before = self.keys
        sleep(seconds)
        return self.keys - before


def test_a_live_run_is_paused_and_resumed_from_other_processes_and_keeps_its_lease(
    blue: Store, greenfly: Greenfly, ledger: Ledger, run: RunHandle
) -> None:
    fill(blue, 2000)
    run_here(
        greenfly, "runs", "show", "latest"
    )  # imports, which would keep the thread below from renewing its lease
    with Reading(endpoint(blue), run) as reading:
        wait_until(lambda: reading.keys)

        paused = greenfly("runs", "pause", "latest")
        assert paused.exit_code == 0, paused.stderr
        assert run.id in paused.stdout
        sleep(1.5)  # it asks twice a second, and a page may be on its way
        assert reading.keys_in(2.5) == 0
        # Twice the lease has passed.
        assert ledger.find_run(run.id).lease_until > datetime.now(UTC)
        shown = run_here(greenfly, "runs", "show", "latest", "--json")
        assert (shown.at("state"), shown.at("control", "paused")) == ("running", True)

        resumed = greenfly("runs", "resume", run.id)
        assert resumed.exit_code == 0, resumed.stderr
        wait_until(lambda: reading.keys_in(0.1) > 0)

    assert reading.error is None
    kinds = [event.kind for event in ledger.events(run.id)]
    assert kinds == ["run.started", "control.paused", "control.resumed"]
    assert ledger.chain_state().intact


def test_a_live_run_gets_other_limits(blue: Store, greenfly: Greenfly, run: RunHandle) -> None:
    fill(blue, 2000)
    with Reading(endpoint(blue), run) as reading:
        wait_until(lambda: reading.keys)
        set_to = run_here(greenfly, "runs", "limit", "latest", "--keys-per-second", "100", "--json")
        assert (set_to.at("keys_per_second"), set_to.at("bytes_per_second"), set_to.at("paused")) == (
            100,
            None,
            False,
        )
        sleep(1.5)
        begun = monotonic()
        keys = reading.keys_in(2.0)
        # A page that is a quarter of a second of the cap may fall on either side.
        assert keys <= 100 * (monotonic() - begun) + 50

        assert run_here(greenfly, "runs", "limit", "latest", "--off").exit_code == 0
        wait_until(lambda: reading.keys_in(0.5) > 200)
    assert reading.error is None


def test_a_run_that_was_taken_over_while_it_was_paused_stops(
    blue: Store, greenfly: Greenfly, ledger: Ledger, run: RunHandle
) -> None:
    fill(blue, 100)
    assert run_here(greenfly, "runs", "pause", "latest").exit_code == 0
    with Reading(endpoint(blue), run) as reading, raw_ledger_owner(ledger, run):
        wait_until(lambda: reading.error)

    assert "no longer owns" in str(reading.error)


@contextmanager
def raw_ledger_owner(ledger: Ledger, run: RunHandle) -> Iterator[None]:
    """Give the run to another owner, behind the handle's back."""
    from sqlalchemy import text

    from integrity.ledger.database import writing

    with writing(ledger.engine) as connection:
        connection.execute(text("UPDATE run SET lease_owner = 'elsewhere:1' WHERE id = :id"), {"id": run.id})
    yield


def test_what_is_asked_of_a_live_run_adds_up_and_is_shown(greenfly: Greenfly, run: RunHandle) -> None:
    keys = run_here(greenfly, "runs", "limit", run.id, "--keys-per-second", "500")
    size = run_here(greenfly, "runs", "limit", run.id, "--bytes-per-second", "1.5GiB")
    paused = run_here(greenfly, "runs", "pause", run.id)
    shown = run_here(greenfly, "runs", "show", run.id)
    values = run_here(greenfly, "runs", "show", run.id, "--json")

    assert [done.exit_code for done in (keys, size, paused, shown)] == [0] * 4
    assert "500 keys/s, bytes/s as the run was started" in keys.stdout
    assert "500 keys/s, 1.5 GiB/s" in size.stdout
    assert "control   paused; 500 keys/s, 1.5 GiB/s (by " in shown.stdout
    assert (values.at("control", "keys_per_second"), values.at("control", "bytes_per_second")) == (
        500,
        3 << 29,
    )


@pytest.mark.parametrize("command", [("pause",), ("resume",), ("limit", "--off")])
def test_a_run_that_is_not_running_takes_no_wishes(
    greenfly: Greenfly, run: RunHandle, command: tuple[str, ...]
) -> None:
    run.finish(RunState.FINISHED, verdict=None, reason=None)

    done = run_here(greenfly, "runs", command[0], "latest", *command[1:])

    assert done.exit_code == 4
    assert "not running" in done.stderr
    shown = run_here(greenfly, "runs", "show", "latest", "--json")
    assert shown.at("control") is None


@pytest.mark.parametrize(
    "flags",
    [
        (),
        ("--off", "--keys-per-second", "5"),
        ("--keys-per-second", "0"),
        ("--keys-per-second", "many"),
        ("--bytes-per-second", "0"),
        ("--bytes-per-second", "-5MB"),
        ("--bytes-per-second", "fast"),
        ("--bytes-per-second", "99999999TB"),
    ],
)
def test_a_limit_that_makes_no_sense_is_told(
    greenfly: Greenfly, run: RunHandle, flags: tuple[str, ...]
) -> None:
    done = run_here(greenfly, "runs", "limit", run.id, *flags)

    assert done.exit_code == 2
    assert done.stderr


def test_a_live_migration_is_limited_paused_freed_and_ends_well(
    blue: Store, green_redis: Store, greenfly: Greenfly
) -> None:
    fill(blue, 4000)
    process = greenfly.start(
        "migrate",
        *between(blue.url, green_redis.url),
        "--json",
        env={"GREENFLY_THROTTLE__KEYS_PER_SECOND": "400", "GREENFLY_SNAPSHOT__ENABLED": "false"},
    )
    wait_until(green_redis.client.dbsize, 60)

    assert run_here(greenfly, "runs", "pause", "latest").exit_code == 0
    sleep(1.5)
    held = green_redis.client.dbsize()
    sleep(1.5)
    assert green_redis.client.dbsize() == held < 4000
    assert run_here(greenfly, "runs", "limit", "latest", "--off").exit_code == 0
    assert run_here(greenfly, "runs", "resume", "latest").exit_code == 0
    out, err = process.communicate(timeout=60)

    assert process.returncode == 0, err
    assert "Paused by" in err
    told = json.loads(out)
    stream = next(phase for phase in told["phases"] if phase["name"] == "stream")
    waited = dig(stream, "detail", "throttle", "waited_seconds")
    assert isinstance(waited, dict)
    assert waited["paused"] > 1
    assert waited["cap on keys"] > 0
    assert (told["verdict"], green_redis.client.dbsize()) == ("PASS", 4000)
