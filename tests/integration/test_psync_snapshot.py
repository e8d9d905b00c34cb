"""Snapshots over the replication protocol: one moment, the same artifact, and a way back where it is not allowed."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import randbytes
from threading import Event, Thread
from time import monotonic, sleep

import pytest
from redis import Redis

from greenfly.demo.dataset import fill
from integrity.endpoint import Endpoint
from integrity.errors import ServerUnreachable
from integrity.settings import EndpointSettings
from integrity.snapshot.artifact import Artifact
from integrity.snapshot.by_replication import ReplicationTaker
from integrity.snapshot.check import inspect_snapshot
from integrity.snapshot.diff import compare_snapshots
from integrity.snapshot.header import read_header
from integrity.snapshot.manifest import ManifestRow, read_manifest
from integrity.snapshot.sealing import NO_KEYS
from integrity.snapshot.writer import Snapshot
from tests.cli import CompletedRun, Greenfly
from tests.conftest import StartServer
from tests.fencing import programs
from tests.inprocess import run_here
from tests.matrix.cases import CASES
from tests.matrix.loader import load_cases
from tests.matrix.servers import Program, Server
from tests.oracle import compare
from tests.proxy import Proxy
from tests.servers import Store
from tests.snapshots import changed_row, flip, new_key, rewrite
from tests.snapshots import take_here as scan_here

NOW = ("--repl-diskless-sync-delay", "0")


@pytest.fixture
def source(start_redis: StartServer) -> Store:
    """A source that does not wait for further replicas."""
    return start_redis(*NOW)


def take_here(store: Store | str, folder: Path, *encrypt_to: str) -> Snapshot:
    url = store if isinstance(store, str) else store.url
    endpoint = Endpoint.from_settings("source", EndpointSettings.model_validate({"url": url}))
    taker = ReplicationTaker(
        endpoint,
        endpoint.identify(),
        folder,
        encrypt_to=encrypt_to,
        on_progress=lambda keys, size: None,
    )
    return taker.take()


def take(greenfly: Greenfly, source: Store, *arguments: str) -> tuple[CompletedRun, Path]:
    run = run_here(greenfly, "snapshot", "take", "--source", source.url, "--json", *arguments)
    assert run.exit_code == 0, run.stderr
    folder = run.at("snapshot")
    assert isinstance(folder, str)
    return run, Path(folder)


def restore(greenfly: Greenfly, folder: Path, target: Store, *flags: str) -> CompletedRun:
    return run_here(
        greenfly, "snapshot", "restore", str(folder), "--target", target.url, "--json", "--quiet", *flags
    )


# -- one moment ------------------------------------------------------------------------------------------------------


@dataclass
class Writer:
    """Writes as fast as it can, in transactions that keep two keys equal."""

    url: str
    acknowledged: int = 0

    def __enter__(self) -> Writer:
        self._stop = Event()
        self._thread = Thread(target=self._run)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        with Redis.from_url(self.url) as client:
            while not self._stop.is_set():
                with client.pipeline(transaction=True) as unit:
                    # Far apart in the keyspace, and one of them among many fields.
                    unit.incr("left")
                    unit.hincrby("right", "n", 1)
                    unit.rpush("log", self.acknowledged + 1)
                    self.acknowledged = int(unit.execute()[0])


def test_a_snapshot_under_writes_is_one_moment(
    source: Store, green_redis: Store, greenfly: Greenfly, tmp_path: Path
) -> None:
    fill(source.url, keys=3_000, seed=71)
    for number in range(3):
        with Writer(source.url) as writer:
            while not writer.acknowledged:
                sleep(0.001)
            before = writer.acknowledged
            folder = take_here(source, tmp_path / f"taken {number}").directory
            # One that is under way when the server forks may be acknowledged later.
            after = writer.acknowledged + 1
        green_redis.client.flushall()

        run = restore(greenfly, folder, green_redis)

        assert run.exit_code == 0, run.stdout
        left = int(green_redis.client.get("left") or 0)
        assert left == int(green_redis.client.hget("right", "n") or 0) == green_redis.client.llen("log")
        assert before <= left <= after


def test_the_header_tells_the_moment(source: Store, tmp_path: Path) -> None:
    source.client.set("k", "v")

    folder = take_here(source, tmp_path / "taken").directory

    header = read_header(folder / "header.json")
    assert header.format == "greenfly-snapshot/3"
    assert header.consistency.startswith("replication: ")
    assert header.foreign is not None
    assert header.foreign.replication_id == source.client.info("replication")["master_replid"]
    assert header.foreign.replication_offset is not None
    assert header.foreign.aux["redis-ver"] == source.version


# -- the artifact ----------------------------------------------------------------------------------------------------


def test_what_was_received_is_proved_and_restored(
    source: Store, green: Store, greenfly: Greenfly, tmp_path: Path
) -> None:
    """Plain into one engine, encrypted into the other."""
    encrypted = green.engine == "dragonfly"
    fill(source.url, keys=1_000, seed=72)
    source.client.set("big", randbytes(2_000_000))
    source.client.zadd("big zset", {f"member:{n}": n / 3 for n in range(60_000)})
    recipient = new_key(tmp_path / "key") if encrypted else ""
    flags = ("--identity-file", str(tmp_path / "key")) if encrypted else ()

    run, folder = take(
        greenfly, source, "--method", "replication", *(("--encrypt-to", recipient) if encrypted else ())
    )
    checked = run_here(greenfly, "snapshot", "verify", str(folder), "--json", *flags)
    back = restore(greenfly, folder, green, *flags)

    assert run.at("phases", 1, "detail", "method") == "replication"
    assert (checked.exit_code, checked.at("keys")) == (0, 1_002), checked.stdout
    assert (back.exit_code, back.at("verdict"), back.at("in_pieces")) == (0, "PASS", 2), back.stdout
    assert compare(source.url, green.url) == []
    names = {path.name for path in folder.iterdir()}
    suffix = ".age" if encrypted else ""
    assert names == {f"dump.rdb{suffix}", f"manifest.parquet{suffix}", "header.json"} | (
        {"header.json.age"} if encrypted else set()
    )
    if encrypted:
        assert all(b"session:" not in path.read_bytes() for path in folder.iterdir())


def test_both_methods_find_the_same_digests(source: Store, greenfly: Greenfly) -> None:
    fill(source.url, keys=3_000, seed=73)

    _, scanned = take(greenfly, source, "--method", "scan")
    _, received = take(greenfly, source, "--method", "replication")
    run = run_here(greenfly, "snapshot", "diff", str(scanned), str(received), "--json")

    assert (run.exit_code, run.at("keys_before"), run.at("keys_after")) == (0, 3_000, 3_000), run.stdout


@pytest.mark.parametrize(
    "program", [pytest.param(p, id=p.title) for p in programs() if p.engine != "dragonfly"]
)
def test_every_kind_of_value_is_received_as_it_is_scanned(program: Program, tmp_path: Path) -> None:
    with program.start() as running:
        server = Server.of(program, running)
        load_cases(server, CASES)
        store = Store(server.url, program.engine, program.title)
        with store:
            store.client.config_set("repl-diskless-sync-delay", 0)
            received = take_here(store, tmp_path / "received")
            scanned = scan_here(store, tmp_path / "scanned", databases=(0,))

    found = compare_snapshots(
        Artifact.open(scanned.directory, NO_KEYS),
        Artifact.open(received.directory, NO_KEYS),
        separator=b":",
        list_keys=10,
        tolerance_ms=1000,
    )

    assert (found.listed, found.same, found.uncompared) == ([], True, 0)
    assert inspect_snapshot(received.directory, NO_KEYS).whole


def test_what_is_no_key_is_recorded(source: Store, tmp_path: Path) -> None:
    source.client.function_load("#!lua name=shop\nredis.register_function('f', function() return 1 end)")
    source.client.set("k", "v")

    taken = take_here(source, tmp_path / "taken")

    assert taken.foreign is not None
    assert taken.foreign.functions == ("shop",)
    assert inspect_snapshot(taken.directory, NO_KEYS).whole
    assert taken.totals.keys == 1


def test_a_server_whose_file_has_no_checksum_is_served_too(start_redis: StartServer, tmp_path: Path) -> None:
    source = start_redis(*NOW, "--rdbchecksum", "no", "--repl-diskless-sync", "no")
    source.client.set("k", "v")

    taken = take_here(source, tmp_path / "taken")

    assert taken.foreign is not None
    assert not taken.foreign.checksum
    assert inspect_snapshot(taken.directory, NO_KEYS).whole


# -- damage ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def taken(source: Store, tmp_path: Path) -> Path:
    """A snapshot of a handful of keys in two databases."""
    source.client.set("a", "a value that is long enough to be damaged")
    source.client.set("b", "v", px=3_600_000)
    source.client.rpush("c", *range(50))
    source.database(1).hset("d", mapping={"f": "v"})
    return take_here(source, tmp_path / "taken").directory


def test_a_flipped_bit_anywhere_in_the_file_is_found(taken: Path, tmp_path: Path) -> None:
    size = (taken / "dump.rdb").stat().st_size
    for place in range(0, size, 3):
        copy = tmp_path / "copy"
        shutil.copytree(taken, copy)
        flip(copy / "dump.rdb", place)

        assert not inspect_snapshot(copy, NO_KEYS).whole, place
        shutil.rmtree(copy)


Change = Callable[[list[ManifestRow]], list[ManifestRow]]
CHANGES: dict[str, Change] = {
    "first row gone": lambda rows: rows[1:],
    "last row gone": lambda rows: rows[:-1],
    "a row gone": lambda rows: [rows[0], *rows[2:]],
    "order": lambda rows: [rows[1], rows[0], *rows[2:]],
    "name": lambda rows: [changed_row(rows[0], key=b"z"), *rows[1:]],
    "database": lambda rows: [changed_row(rows[0], database=5), *rows[1:]],
    "expiry": lambda rows: [changed_row(rows[0], expiry_ms=77), *rows[1:]],
    "length": lambda rows: [changed_row(rows[0], length=rows[0].length + 1), *rows[1:]],
    "offset": lambda rows: [changed_row(rows[0], offset=rows[0].offset + 1), *rows[1:]],
    "a row more": lambda rows: [*rows, changed_row(rows[-1], offset=rows[-1].offset + 40)],
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_manifest_that_is_not_the_files_is_found(taken: Path, change: Change) -> None:
    """The hashes are made right again: the two files are held against each other."""
    rows = change(list(read_manifest(taken / "manifest.parquet")))
    rewrite(taken, rows=rows)

    inspection = inspect_snapshot(taken, NO_KEYS)

    assert any(problem.file == "dump.rdb" for problem in inspection.problems), inspection.problems


def test_a_link_that_breaks_leaves_only_a_partial_folder(source: Store, tmp_path: Path) -> None:
    source.client.config_set("rdbcompression", "no")
    for number in range(64):
        source.client.set(f"key:{number}", bytes(1_000_000 + number))
    folder = tmp_path / "taken"
    with Proxy(source.url) as proxy:

        def cut_soon() -> None:
            deadline = monotonic() + 20
            rdb = tmp_path / "taken.partial" / "dump.rdb"
            while monotonic() < deadline and not (rdb.is_file() and rdb.stat().st_size):
                sleep(0.001)
            proxy.cut()

        cutter = Thread(target=cut_soon)
        cutter.start()
        with pytest.raises(ServerUnreachable):
            take_here(proxy.url, folder)
        cutter.join()

    assert not folder.exists()
    assert {path.name for path in tmp_path.iterdir()} == {"taken.partial"}


def test_a_signal_ends_it_while_the_source_still_waits(start_redis: StartServer, greenfly: Greenfly) -> None:
    source = start_redis("--repl-diskless-sync-delay", "60")
    process = greenfly.start("snapshot", "take", "--source", source.url, "--method", "replication")
    deadline = monotonic() + 30
    while not source.client.client_list(_type="replica"):
        assert monotonic() < deadline
        sleep(0.02)

    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)

    assert process.returncode == 128 + signal.SIGTERM
    assert list((greenfly.state_dir / "snapshots").glob("*")) == []
    deadline = monotonic() + 5
    while source.client.client_list(_type="replica"):
        assert monotonic() < deadline
        sleep(0.02)


# -- choosing --------------------------------------------------------------------------------------------------------


def detail(run: CompletedRun, name: str) -> object:
    phases = run.json()["phases"]
    assert isinstance(phases, list)
    return next(phase["detail"][name] for phase in phases if phase["name"] == "snapshot")


def test_auto_receives_where_the_source_allows_it(source: Store, greenfly: Greenfly) -> None:
    source.client.set("k", "v")

    run, _ = take(greenfly, source, "--method", "auto")

    assert detail(run, "method") == "replication"


def test_auto_scans_where_the_source_does_not_allow_it_and_says_why(
    start_redis: StartServer, greenfly: Greenfly
) -> None:
    source = start_redis("--rename-command", "PSYNC", "", "--rename-command", "SYNC", "")
    source.client.set("k", "v")

    run, folder = take(greenfly, source, "--method", "auto")

    assert detail(run, "method") == "scan"
    assert "unknown command" in str(detail(run, "method_reason"))
    assert read_header(folder / "header.json").keys == 1


def test_auto_scans_for_a_run_that_is_about_some_databases(source: Store, greenfly: Greenfly) -> None:
    source.client.set("k", "v")
    source.database(1).set("other", "v")

    run, folder = take(greenfly, source, "--method", "auto", "--databases", "0")

    assert detail(run, "method") == "scan"
    assert read_header(folder / "header.json").keys == 1


@pytest.mark.dragonfly
def test_auto_scans_a_dragonfly(green_dragonfly: Store, greenfly: Greenfly) -> None:
    green_dragonfly.client.set("k", "v")

    run, _ = take(greenfly, green_dragonfly, "--method", "auto")

    assert detail(run, "method") == "scan"


@pytest.mark.dragonfly
def test_replication_that_was_asked_for_is_refused_where_it_cannot_be(
    green_dragonfly: Store, greenfly: Greenfly
) -> None:
    run = run_here(
        greenfly,
        "snapshot",
        "take",
        "--source",
        green_dragonfly.url,
        "--method",
        "replication",
        "--json",
    )

    assert (run.exit_code, run.at("error", "kind")) == (4, "Refused")


def test_a_migration_takes_its_snapshot_that_way(
    source: Store, green_redis: Store, greenfly: Greenfly
) -> None:
    fill(source.url, keys=500, seed=74)

    run = run_here(
        greenfly,
        "migrate",
        "--source",
        source.url,
        "--target",
        green_redis.url,
        "--snapshot-method",
        "replication",
        "--json",
    )

    assert (run.exit_code, run.at("verdict")) == (0, "PASS"), run.stderr
    assert detail(run, "method") == "replication"
    folder = run.at("snapshot")
    assert isinstance(folder, str)
    assert inspect_snapshot(Path(folder), NO_KEYS).keys == 500
