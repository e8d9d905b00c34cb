"""A snapshot: a file that Redis loads, a manifest that agrees with it to the byte, a header that tells both."""

from __future__ import annotations

import gc
import json
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic, sleep

import anycrc
import pytest
import xxhash

from greenfly.demo.dataset import fill
from greenfly.demo.process import free_port
from integrity.checksum import DEFINITION, Fingerprint
from integrity.endpoint import Endpoint
from integrity.errors import ServerUnreachable
from integrity.keyspace import KeyspaceReader, Page
from integrity.replies import Reply
from integrity.settings import BigValueSettings, EndpointSettings
from integrity.snapshot.create import Snapshot, SnapshotTaker
from integrity.snapshot.manifest import ManifestRow, read_manifest
from tests.cli import CompletedRun, Greenfly, dig
from tests.conftest import StartServer
from tests.inprocess import run_here
from tests.oracle import compare
from tests.raw import Raw
from tests.servers import Store


def take(greenfly: Greenfly, source: str, *arguments: str) -> tuple[CompletedRun, Path]:
    run = run_here(greenfly, "snapshot", "take", "--source", source, "--json", *arguments)
    assert run.exit_code == 0, run.stderr
    folder = run.at("snapshot")
    assert isinstance(folder, str)
    return run, Path(folder)


def header_of(folder: Path) -> dict[str, object]:
    value = json.loads((folder / "header.json").read_text("utf-8"))
    assert isinstance(value, dict)
    return value


def load(start_redis: StartServer, folder: Path) -> Store:
    """A fresh Redis that was started with the snapshot's file."""
    copy = folder.parent / f"copy of {folder.name}"
    shutil.copytree(folder, copy)
    store = start_redis("--dir", str(copy), "--dbfilename", "dump.rdb")
    deadline = monotonic() + 20
    while dig(store.client.info("persistence"), "loading"):
        assert monotonic() < deadline, "the snapshot does not load"
        sleep(0.02)
    return store


def check_rdb(path: Path) -> str:
    program = shutil.which("redis-check-rdb")
    if program is None:
        pytest.skip("no redis-check-rdb on PATH")
    done = subprocess.run([program, str(path)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_redis_loads_the_snapshot_and_holds_exactly_the_same(
    blue: Store, start_redis: StartServer, greenfly: Greenfly
) -> None:
    fill(blue.url, keys=5_000, seed=31)

    _, folder = take(greenfly, blue.url)

    assert {path.name for path in folder.iterdir()} == {"dump.rdb", "manifest.parquet", "header.json"}
    assert folder.stat().st_mode & 0o077 == 0
    loaded = load(start_redis, folder)
    assert compare(blue.url, loaded.url) == []
    for number in range(3):
        assert loaded.database(number).dbsize() == blue.database(number).dbsize()


def test_redis_check_rdb_passes_the_file(blue: Store, greenfly: Greenfly) -> None:
    fill(blue.url, keys=1_000, seed=32)

    _, folder = take(greenfly, blue.url)

    assert "RDB looks OK" in check_rdb(folder / "dump.rdb")


def payload(row: ManifestRow, rdb: bytes, version: int) -> bytes:
    """A DUMP payload made of what the manifest says about the file."""
    data = bytes([row.rdb_type]) + rdb[row.offset : row.offset + row.length] + version.to_bytes(2, "little")
    crc: int = anycrc.Model("CRC64-REDIS").calc(data)
    return data + crc.to_bytes(8, "little")


def test_every_row_of_the_manifest_agrees_with_the_file_and_with_the_source(
    blue: Store, green_redis: Store, greenfly: Greenfly
) -> None:
    fill(blue.url, keys=2_000, seed=33)

    _, folder = take(greenfly, blue.url)

    rdb, header = (folder / "dump.rdb").read_bytes(), header_of(folder)
    version = header["rdb_version"]
    assert isinstance(version, int)
    assert rdb.startswith(b"REDIS%04d" % version)
    rows = list(read_manifest(folder / "manifest.parquet"))
    assert len({(row.database, row.key) for row in rows}) == len(rows) == 2_000
    for number in range(3):
        with Raw(green_redis.url, number) as target:
            replies = target.many(
                [
                    (b"RESTORE", row.key, row.expiry_ms or 0, payload(row, rdb, version), b"ABSTTL")
                    for row in rows
                    if row.database == number
                ]
            )
        assert {reply for reply in replies if isinstance(reply, bytes)} == {b"OK"}
        assert [reply for reply in replies if not isinstance(reply, bytes)] == []
    assert compare(blue.url, green_redis.url) == []


def test_the_header_tells_counts_kinds_fingerprints_and_hashes(blue: Store, greenfly: Greenfly) -> None:
    fill(blue.url, keys=1_000, seed=34)

    run, folder = take(greenfly, blue.url)

    header = header_of(folder)
    rows = list(read_manifest(folder / "manifest.parquet"))
    assert (header["keys"], header["without_digest"], header["duplicates_dropped"]) == (1_000, 0, 0)
    assert header["checksum_definition"] == DEFINITION
    assert dig(header, "source", "version") == blue.version
    for number in range(3):
        mine = [row for row in rows if row.database == number]
        prints = Fingerprint()
        prints.add_many([row.key for row in mine], [row.digest or b"" for row in mine])
        assert dig(header, "databases", str(number)) == {
            "keys": len(mine),
            "kinds": dict(Counter(row.kind for row in mine)),
            "fingerprint": prints.hex(),
        }
    for name in ("dump.rdb", "manifest.parquet"):
        data = (folder / name).read_bytes()
        assert dig(header, "files", name) == {
            "bytes": len(data),
            "xxh3_128": xxhash.xxh3_128_hexdigest(data),
        }
    assert run.at("verdict") is None


def test_the_digests_of_a_snapshot_are_those_of_a_later_comparison(
    blue: Store, green: Store, greenfly: Greenfly
) -> None:
    fill(blue.url, keys=1_000, seed=35)

    run = run_here(greenfly, "migrate", "--source", blue.url, "--target", green.url, "--json")

    assert run.exit_code == 0, run.stderr
    phases = run.at("phases")
    assert isinstance(phases, list)
    details = {dig(phase, "name"): dig(phase, "detail") for phase in phases}
    taken = dig(details["snapshot"], "fingerprints")
    compared = dig(details["verify"], "fingerprints")
    assert taken == dig(compared, "source") == dig(compared, "target")


def test_only_the_databases_that_were_asked_for_are_taken(blue: Store, greenfly: Greenfly) -> None:
    for number in (0, 2, 5):
        blue.database(number).set(f"k{number}", "v")

    _, folder = take(greenfly, blue.url, "--databases", "2,5")
    by_url, other = take(greenfly, f"{blue.url}/2")

    assert {(r.database, r.key) for r in read_manifest(folder / "manifest.parquet")} == {
        (2, b"k2"),
        (5, b"k5"),
    }
    assert [(r.database, r.key) for r in read_manifest(other / "manifest.parquet")] == [(2, b"k2")]
    assert by_url.at("phases", 0, "detail", "databases") == [2]


def test_a_snapshot_of_nothing_is_a_file_that_loads(
    blue: Store, start_redis: StartServer, greenfly: Greenfly
) -> None:
    _, folder = take(greenfly, blue.url)

    assert header_of(folder)["keys"] == 0
    assert "RDB looks OK" in check_rdb(folder / "dump.rdb")
    assert load(start_redis, folder).client.dbsize() == 0


@pytest.mark.dragonfly
def test_a_dragonfly_can_be_taken_too(
    green_dragonfly: Store, start_redis: StartServer, greenfly: Greenfly
) -> None:
    client = green_dragonfly.client
    client.set("string", "v", px=3_600_000)
    client.rpush("list", *range(300))
    client.sadd("numbers", *range(300))
    client.sadd("set", "a", "b")
    client.hset("hash", mapping={f"f{number}": number for number in range(300)})
    client.zadd("sorted set", {"a": 1.5, "b": float("-inf")})
    client.pfadd("visitors", *range(100))

    _, folder = take(greenfly, green_dragonfly.url)

    assert compare(green_dragonfly.url, load(start_redis, folder).url) == []


@pytest.mark.dragonfly
def test_a_type_without_a_canonical_form_is_counted(green_dragonfly: Store, greenfly: Greenfly) -> None:
    with Raw(green_dragonfly.url) as raw:
        raw("BF.ADD", "seen", "a")
    green_dragonfly.client.set("k", "v")

    _, folder = take(greenfly, green_dragonfly.url)

    assert (header_of(folder)["keys"], header_of(folder)["without_digest"]) == (2, 1)
    rows = {row.key: row for row in read_manifest(folder / "manifest.parquet")}
    assert rows[b"seen"].digest is None
    assert rows[b"k"].digest is not None


# -- keys that SCAN returns twice --------------------------------------------------------------------------------------


def taker(blue: Store, folder: Path) -> SnapshotTaker:
    endpoint = Endpoint.from_settings("source", EndpointSettings.model_validate({"url": blue.url}))
    return SnapshotTaker(
        endpoint,
        endpoint.identify(),
        folder / "taken",
        batch_keys=50,
        big_values=BigValueSettings(),
        on_progress=lambda keys, size: None,
    )


def every_page_twice(
    monkeypatch: pytest.MonkeyPatch, between: Callable[[Page], object] = lambda page: None
) -> None:
    """As after a table was resized during the scan: every page comes a second time, when all have come once."""
    honest = KeyspaceReader.__iter__

    def twice(self: KeyspaceReader) -> Iterator[tuple[Page, list[Reply]]]:
        seen: list[tuple[Page, list[Reply]]] = []
        for page, replies in honest(self):
            seen.append((page, replies))
            yield page, replies
        for page, replies in seen:
            between(page)
            yield page, replies

    monkeypatch.setattr(KeyspaceReader, "__iter__", twice)


def test_a_key_that_scan_returns_twice_is_in_the_snapshot_once(
    blue: Store, start_redis: StartServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(blue.url, keys=500, seed=37)
    every_page_twice(monkeypatch)

    snapshot: Snapshot = taker(blue, tmp_path).take([0, 1, 2])

    monkeypatch.undo()
    rows = list(read_manifest(snapshot.manifest))
    assert len({(row.database, row.key) for row in rows}) == len(rows) == 500
    assert (snapshot.totals.keys, snapshot.totals.duplicates) == (500, 500)
    assert sum(keys for keys, _ in snapshot.totals.tallies.values()) == 500
    header = header_of(snapshot.directory)
    assert (header["keys"], header["duplicates_dropped"]) == (500, 500)
    data = snapshot.rdb.read_bytes()
    assert dig(header, "files", "dump.rdb", "xxh3_128") == xxhash.xxh3_128_hexdigest(data)
    assert snapshot.rdb_bytes == len(data)
    check_rdb(snapshot.rdb)
    assert compare(blue.url, load(start_redis, snapshot.directory).url) == []


def test_the_folder_holds_nothing_but_the_three_files_after_duplicates_were_dropped(
    blue: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blue.client.set("k", "v")
    every_page_twice(monkeypatch)

    snapshot = taker(blue, tmp_path).take([0])

    assert {path.name for path in snapshot.directory.iterdir()} == {
        *("dump.rdb", "manifest.parquet", "header.json")
    }


# -- snapshots that break off ------------------------------------------------------------------------------------------


def test_a_lost_source_leaves_no_folder_under_the_final_name(
    start_redis: StartServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = start_redis()
    fill(source.url, keys=500, seed=38)
    unfinished = taker(source, tmp_path)
    assert source.server is not None
    every_page_twice(monkeypatch, between=lambda page: source.server.stop() if source.server else None)

    with pytest.raises(ServerUnreachable):
        unfinished.take([0, 1, 2])

    assert not (tmp_path / "taken").exists()
    del unfinished
    gc.collect()  # a file that was left open is told here


def test_an_interrupted_snapshot_leaves_no_folder_under_the_final_name(
    blue: Store, greenfly: Greenfly
) -> None:
    fill(blue.url, keys=10_000, seed=39)
    process = greenfly.start(
        *("snapshot", "take", "--source", blue.url, "--json"), env={"GREENFLY_SNAPSHOT__BATCH_KEYS": "1"}
    )
    folder = greenfly.state_dir / "snapshots"
    deadline = monotonic() + 30
    while not list(folder.glob("*.partial/manifest.parquet")):
        assert process.poll() is None, "the snapshot ended before it could be interrupted"
        assert monotonic() < deadline
        sleep(0.01)

    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)

    assert process.returncode == 130
    assert [path for path in folder.iterdir() if path.suffix != ".partial"] == []
    listed = run_here(greenfly, "runs", "list", "--json")
    assert (listed.at("runs", 0, "state"), listed.at("runs", 0, "verdict")) == ("interrupted", None)


def test_an_unreachable_source_leaves_no_folder(greenfly: Greenfly) -> None:
    run = run_here(greenfly, "snapshot", "take", "--source", f"redis://127.0.0.1:{free_port()}", "--json")

    assert run.exit_code == 10
    assert not list(greenfly.state_dir.glob("snapshots/*"))


def test_a_snapshot_folder_that_cannot_be_written_is_told(blue: Store, greenfly: Greenfly) -> None:
    blue.client.set("k", "v")
    (greenfly.folder / "file").write_text("not a folder")

    run = run_here(
        greenfly,
        *("snapshot", "take", "--source", blue.url, "--json"),
        env={"GREENFLY_SNAPSHOT__DIRECTORY": str(greenfly.folder / "file" / "below")},
    )

    assert run.exit_code == 5
    assert "snapshot" in str(run.at("error", "problem"))
