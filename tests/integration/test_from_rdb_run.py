"""``migrate --from-rdb`` as a run: refusals before the first write, policies, rules, resuming, and its verdict."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from time import monotonic, sleep, time

import anycrc
import pytest

from greenfly.demo.dataset import fill
from integrity.errors import StopSignal
from integrity.from_rdb.job import FileJob
from integrity.from_rdb.load import FileLoad
from tests.cli import CompletedRun, Greenfly, dig
from tests.conftest import StartServer
from tests.faults.sync_move import StartRestartable, restartable
from tests.inprocess import between, run_here
from tests.oracle import compare
from tests.rdb_files import save
from tests.servers import Store

__all__ = ["restartable"]


def dump(store: Store, path: Path) -> Path:
    """The store's RDB file, copied to *path*."""
    shutil.copy(save(store.url, store.engine), path)
    return path


def load(greenfly: Greenfly, path: Path, target: Store, *flags: str) -> CompletedRun:
    return run_here(greenfly, "migrate", "--from-rdb", str(path), "--target", target.url, "--json", *flags)


def phase(run: CompletedRun, name: str) -> dict[str, object]:
    phases = run.json()["phases"]
    assert isinstance(phases, list)
    return next(phase["detail"] | {"keys": phase["keys"]} for phase in phases if phase["name"] == name)


def findings(run: CompletedRun) -> dict[str, dict[str, int]]:
    value = run.json()["findings"]
    assert isinstance(value, dict)
    return {state: classes for state, classes in value.items() if classes}


# -- the whole way ---------------------------------------------------------------------------------------------------


def test_a_file_arrives_whole_and_is_not_touched(
    blue: Store, green: Store, start_redis: StartServer, greenfly: Greenfly, tmp_path: Path
) -> None:
    fill(blue.url, keys=3_000, seed=81)
    path = dump(blue, tmp_path / "backup.rdb")
    before = (path.read_bytes(), path.stat().st_mtime_ns)

    run = load(greenfly, path, green)

    assert (run.exit_code, run.at("verdict"), run.at("source")) == (0, "PASS", "file:backup.rdb"), run.stdout
    assert (phase(run, "stream")["written"], phase(run, "verify")["compared"]) == (3_000, 3_000)
    assert set(dig(phase(run, "verify"), "afterwards")) == {"target"}  # type: ignore[call-overload]
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before
    # A server that has loaded the file by itself is the other side.
    folder = tmp_path / "loaded"
    folder.mkdir()
    shutil.copy(path, folder / "dump.rdb")
    loaded = start_redis("--dir", str(folder), "--dbfilename", "dump.rdb")
    deadline = monotonic() + 20
    while dig(loaded.client.info("persistence"), "loading"):
        assert monotonic() < deadline
        sleep(0.02)
    assert compare(loaded.url, green.url) == []


def test_what_was_indexed_is_a_snapshot_of_its_own(
    blue: Store, green_redis: Store, start_redis: StartServer, greenfly: Greenfly, tmp_path: Path
) -> None:
    fill(blue.url, keys=300, seed=82)
    path = dump(blue, tmp_path / "backup.rdb")
    run = load(greenfly, path, green_redis)
    folder = run.at("snapshot")
    assert isinstance(folder, str)

    checked = run_here(greenfly, "snapshot", "verify", folder, "--json")
    other = start_redis()
    back = run_here(greenfly, "snapshot", "restore", folder, "--target", other.url, "--json")

    assert (checked.exit_code, checked.at("keys")) == (0, 300), checked.stdout
    assert {entry.name for entry in Path(folder).iterdir()} == {"manifest.parquet", "header.json"}
    assert (back.exit_code, back.at("verdict")) == (0, "PASS")
    path.write_bytes(path.read_bytes()[:-20])
    assert run_here(greenfly, "snapshot", "verify", folder, "--json").exit_code == 6


def test_the_manifest_of_a_file_is_encrypted_where_snapshots_are(
    blue: Store, green_redis: Store, greenfly: Greenfly, tmp_path: Path
) -> None:
    fill(blue.url, keys=200, seed=83)
    path = dump(blue, tmp_path / "backup.rdb")
    keygen = run_here(greenfly, "snapshot", "keygen", str(tmp_path / "key"))
    recipient = next(word for word in keygen.stdout.split() if word.startswith("age1"))

    run = run_here(
        greenfly,
        "migrate",
        "--from-rdb",
        str(path),
        "--target",
        green_redis.url,
        "--json",
        env={"GREENFLY_SNAPSHOT__ENCRYPT_TO": recipient},
    )

    assert (run.exit_code, run.at("verdict")) == (0, "PASS"), run.stderr
    folder = Path(str(run.at("snapshot")))
    assert {entry.name for entry in folder.iterdir()} == {
        "manifest.parquet.age",
        "header.json",
        "header.json.age",
    }


def test_expired_keys_are_told_apart(blue: Store, green: Store, greenfly: Greenfly, tmp_path: Path) -> None:
    blue.client.set("stays", "v")
    blue.client.set("goes", "v", px=700)
    blue.client.set("later", "v", px=3_600_000)
    path = dump(blue, tmp_path / "backup.rdb")
    sleep(0.8)

    run = load(greenfly, path, green)

    assert (run.exit_code, run.at("verdict")) == (0, "PASS"), run.stdout
    assert (phase(run, "verify")["compared"], phase(run, "verify")["vanished"]) == (2, 1)
    assert green.client.exists("goes") == 0


@pytest.mark.dragonfly
def test_an_expiry_beyond_the_limit_of_dragonfly_is_an_exception(
    blue: Store, green_dragonfly: Store, greenfly: Greenfly, tmp_path: Path
) -> None:
    blue.client.set("far", "v", pxat=int(time() * 1000) + 10 * 365 * 86_400_000)
    path = dump(blue, tmp_path / "backup.rdb")

    run = load(greenfly, path, green_dragonfly)

    assert run.at("verdict") == "PASS WITH EXCEPTIONS", run.stdout
    assert findings(run) == {"exception": {"expiry": 1}}


def test_libraries_of_functions_are_told(
    blue: Store, green_redis: Store, greenfly: Greenfly, tmp_path: Path
) -> None:
    blue.client.function_flush()
    blue.client.function_load("#!lua name=shop\nredis.register_function('f', function() return 1 end)")
    blue.client.set("k", "v")
    path = dump(blue, tmp_path / "backup.rdb")
    blue.client.function_flush()

    run = load(greenfly, path, green_redis)

    assert (run.exit_code, phase(run, "snapshot")["functions"]) == (0, ["shop"])
    assert "shop" in run.stderr


# -- refused before the first write ----------------------------------------------------------------------------------


@pytest.fixture
def small(blue: Store, tmp_path: Path) -> Path:
    """A file of a few keys in two databases."""
    blue.client.set("a", "a value that is long enough to be damaged")
    blue.client.rpush("b", *range(30))
    blue.client.set("user:1", "one")
    blue.client.set("user:2", "two")
    blue.database(1).set("a", "in database 1")
    return dump(blue, tmp_path / "small.rdb")


def refused(run: CompletedRun, target: Store) -> str:
    assert run.exit_code == 6, run.stdout
    assert run.at("error", "kind") in {"RdbDamaged", "RdbUnsupported"}
    assert target.client.dbsize() == 0
    problem = run.at("error", "problem")
    assert isinstance(problem, str)
    return problem


@pytest.mark.parametrize("share", [0.02, 0.5, 0.97, 1.0])
def test_a_file_that_is_cut_off_is_refused_with_the_place(
    small: Path, green_redis: Store, greenfly: Greenfly, share: float
) -> None:
    data = small.read_bytes()
    small.write_bytes(data[: min(int(len(data) * share), len(data) - 1)])

    assert "at byte" in refused(load(greenfly, small, green_redis), green_redis)


@pytest.mark.parametrize("place", [0, 60, -1, -9, -30])
def test_a_file_that_was_changed_is_refused_with_the_place(
    small: Path, green_redis: Store, greenfly: Greenfly, place: int
) -> None:
    data = bytearray(small.read_bytes())
    data[place] ^= 0x04
    small.write_bytes(data)

    assert "at byte" in refused(load(greenfly, small, green_redis), green_redis)


def test_a_file_that_holds_a_key_twice_is_refused(
    small: Path, green_redis: Store, greenfly: Greenfly
) -> None:
    data = small.read_bytes()[:-9]
    twice = data + b"\xfe\x00" + 2 * b"\x00\x03new\x01v" + b"\xff"
    crc: int = anycrc.Model("CRC64-REDIS").calc(twice)
    small.write_bytes(twice + crc.to_bytes(8, "little"))

    assert "twice" in refused(load(greenfly, small, green_redis), green_redis)


def test_what_is_no_file_and_no_rdb_file_is_refused(
    green_redis: Store, greenfly: Greenfly, tmp_path: Path
) -> None:
    (tmp_path / "text").write_text("this is no RDB file, however long it may be")
    for name, kind in (
        ("missing", "ArtifactError"),
        ("text", "RdbUnsupported"),
        (".", "ArtifactError"),
    ):
        run = load(greenfly, tmp_path / name, green_redis)
        assert (run.exit_code, run.at("error", "kind")) == (6, kind), run.stdout


def test_flags_that_mean_nothing_beside_a_file_are_refused(
    small: Path, green_redis: Store, greenfly: Greenfly
) -> None:
    for flags in (
        ("--source", green_redis.url),
        ("--workers", "2"),
        ("--min-bytes", "1KB"),
        ("--no-snapshot",),
    ):
        run = load(greenfly, small, green_redis, *flags)
        assert (run.exit_code, run.at("error", "kind")) == (2, "ConfigurationError"), run.stdout


def test_a_target_without_the_database_is_refused(
    small: Path, start_redis: StartServer, greenfly: Greenfly
) -> None:
    target = start_redis("--databases", "1")

    run = load(greenfly, small, target)

    assert (run.exit_code, run.at("error", "kind")) == (4, "Refused")
    assert target.client.dbsize() == 0
    assert load(greenfly, small, target, "--databases", "0").at("verdict") == "PASS"


def test_a_target_that_cannot_hold_the_values_is_refused(
    blue: Store, start_redis: StartServer, greenfly: Greenfly, tmp_path: Path
) -> None:
    blue.client.config_set("rdbcompression", "no")
    blue.client.set("large", bytes(8_000_000))
    path = dump(blue, tmp_path / "large.rdb")
    blue.client.config_set("rdbcompression", "yes")
    target = start_redis("--maxmemory", "4mb")

    run = load(greenfly, path, target)

    assert (run.exit_code, run.at("error", "kind")) == (4, "Refused"), run.stdout
    assert target.client.dbsize() == 0


# -- policies and rules ----------------------------------------------------------------------------------------------


def test_a_target_that_holds_keys_is_refused(small: Path, green: Store, greenfly: Greenfly) -> None:
    green.client.set("old", "v")

    run = load(greenfly, small, green)

    assert (run.exit_code, run.at("error", "kind")) == (4, "Refused")
    assert green.client.keys() == [b"old"]


def test_skip_keeps_the_targets_values_and_says_so(small: Path, green: Store, greenfly: Greenfly) -> None:
    green.client.set("a", "the target's")
    green.client.set("user:1", "one")

    run = load(greenfly, small, green, "--conflict", "skip")

    assert (run.exit_code, run.at("verdict")) == (0, "PASS WITH EXCEPTIONS"), run.stdout
    assert phase(run, "stream")["skipped"] == 2
    # The one that is equal by chance is no difference.
    assert findings(run)["exception"]["value"] == 1
    assert green.client.get("a") == b"the target's"


def test_replace_overwrites_and_keys_of_the_target_alone_are_found(
    small: Path, green: Store, greenfly: Greenfly
) -> None:
    green.client.rpush("a", "another type")
    green.client.set("only here", "v")

    run = load(greenfly, small, green, "--conflict", "replace")

    assert (run.exit_code, run.at("verdict")) == (1, "FAIL"), run.stdout
    assert findings(run) == {"open": {"extra": 1}}
    assert green.client.get("a") == b"a value that is long enough to be damaged"
    allowed = load(greenfly, small, green, "--conflict", "replace", "--allow-extra")
    assert allowed.at("verdict") == "PASS WITH EXCEPTIONS"


def test_rules_leave_out_rename_and_map(small: Path, green: Store, greenfly: Greenfly) -> None:
    run = load(
        greenfly,
        small,
        green,
        "--exclude",
        "b",
        "--rename",
        "user:=person:",
        "--map-db",
        "1=2",
    )

    assert (run.exit_code, run.at("verdict")) == (0, "PASS"), run.stdout
    assert phase(run, "verify")["excluded"] == {"exclude b": 1}
    assert sorted(green.client.keys()) == [b"a", b"person:1", b"person:2"]
    assert green.database(2).get("a") == b"in database 1"
    assert green.database(1).dbsize() == 0


def test_two_keys_that_go_to_one_place_are_a_finding(
    small: Path, green_redis: Store, greenfly: Greenfly
) -> None:
    run = load(greenfly, small, green_redis, "--map-db", "1=0")

    assert (run.exit_code, run.at("verdict")) == (1, "FAIL"), run.stdout
    assert findings(run) == {"open": {"collision": 1}}
    assert green_redis.client.get("a") == b"a value that is long enough to be damaged"


# -- a verdict that holds --------------------------------------------------------------------------------------------


def test_what_somebody_changes_meanwhile_is_found(
    blue: Store, green: Store, greenfly: Greenfly, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(blue.url, keys=500, seed=84)
    blue.client.set("gone", "v")
    blue.client.set("other", "v")
    blue.client.set("expires", "v")
    blue.client.xadd("stream", {"f": "v"}, id="1-1")
    path = dump(blue, tmp_path / "backup.rdb")
    verify = FileJob.verify

    def after_damage(job: FileJob) -> object:
        green.client.delete("gone")
        green.client.set("other", "w")
        green.client.expire("expires", 1_000)
        green.client.xadd("stream", {"f": "v"}, id="2-1")
        green.client.xdel("stream", "2-1")
        green.client.set("new", "v")
        return verify(job)

    monkeypatch.setattr(FileJob, "verify", after_damage)

    run = load(greenfly, path, green)

    assert (run.exit_code, run.at("verdict")) == (1, "FAIL")
    assert findings(run) == {"open": {"missing": 1, "value": 2, "expiry": 1, "extra": 1}}


# -- resuming --------------------------------------------------------------------------------------------------------


SMALL_BATCHES = {"GREENFLY_COPY__BATCH_KEYS": "100", "GREENFLY_LEASE_SECONDS": "1"}


@pytest.mark.parametrize(
    ("engine", "policy"),
    [
        ("redis", "fail"),
        pytest.param("dragonfly", "skip", marks=pytest.mark.dragonfly),
        pytest.param("dragonfly", "replace", marks=pytest.mark.dragonfly),
    ],
)
def test_a_load_that_was_killed_goes_on(
    request: pytest.FixtureRequest,
    blue: Store,
    greenfly: Greenfly,
    tmp_path: Path,
    engine: str,
    policy: str,
) -> None:
    green = request.getfixturevalue(f"green_{engine}")
    assert isinstance(green, Store)
    fill(blue.url, keys=2_000, seed=85)
    path = dump(blue, tmp_path / "backup.rdb")
    if policy != "fail":
        green.client.set("counter:page:0", "the target's")
    arguments = ("migrate", "--from-rdb", str(path), "--target", green.url, "--conflict", policy, "--json")
    process = greenfly.start(*arguments, "--keys-per-second", "1000", env=SMALL_BATCHES)
    deadline = monotonic() + 30
    while green.client.dbsize() < 400:
        assert monotonic() < deadline
        sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=20)
    there = green.client.dbsize()
    sleep(1.1)

    run = run_here(greenfly, *arguments, "--resume")

    verdict = {"skip": "PASS WITH EXCEPTIONS"}.get(policy, "PASS")
    assert (run.exit_code, run.at("verdict")) == (0, verdict), run.stdout
    resumed_at = phase(run, "stream")["resumed_at"]
    assert isinstance(resumed_at, int)
    assert 0 < resumed_at <= there
    kept = {b"counter:page:0"} if policy == "skip" else set()
    assert {d.key for d in compare(blue.url, green.url)} == kept


@pytest.fixture
def stopped(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Makes loads stop, by a signal, when two batches are acknowledged; calling it lets them through again."""

    def stop_soon(job: FileLoad, row: int, *others: object) -> None:
        acknowledged(job, row, *others)  # type: ignore[arg-type]
        if row >= 200:
            raise StopSignal(signal.SIGTERM)

    acknowledged = FileLoad._acknowledged
    monkeypatch.setattr(FileLoad, "_acknowledged", stop_soon)
    return monkeypatch.undo


def test_another_file_is_not_loaded_by_resuming(
    blue: Store, green_redis: Store, greenfly: Greenfly, tmp_path: Path, stopped: Callable[[], None]
) -> None:
    fill(blue.url, keys=1_000, seed=86)
    path = dump(blue, tmp_path / "backup.rdb")
    arguments = ("migrate", "--from-rdb", str(path), "--target", green_redis.url, "--json")
    first = run_here(greenfly, *arguments, env=SMALL_BATCHES)
    stopped()
    again = run_here(greenfly, *arguments)
    blue.client.set("changed", "since")
    dump(blue, path)

    other = run_here(greenfly, *arguments, "--resume")

    assert first.exit_code == 128 + signal.SIGTERM
    assert "--resume" in str(again.at("error", "remedy"))
    assert (other.exit_code, other.at("error", "kind")) == (4, "Refused"), other.stdout
    assert green_redis.client.exists("changed") == 0


def test_a_target_that_lost_everything_is_loaded_from_the_beginning(
    blue: Store,
    restartable: StartRestartable,
    greenfly: Greenfly,
    tmp_path: Path,
    stopped: Callable[[], None],
) -> None:
    fill(blue.url, keys=1_000, seed=87)
    path = dump(blue, tmp_path / "backup.rdb")
    target = restartable()
    arguments = ("migrate", "--from-rdb", str(path), "--target", target.url, "--json")
    run_here(greenfly, *arguments, env=SMALL_BATCHES)
    stopped()
    assert target.store.client.dbsize() >= 200
    target.restart()

    run = run_here(greenfly, *arguments, "--resume")

    assert (run.exit_code, run.at("verdict")) == (0, "PASS"), run.stdout
    assert phase(run, "stream")["resumed_at"] == 0
    assert compare(blue.url, target.url) == []


def test_a_run_that_loaded_a_file_cannot_be_repaired_from_it(
    small: Path, blue: Store, green_redis: Store, greenfly: Greenfly
) -> None:
    green_redis.client.set("only here", "v")
    run = load(greenfly, small, green_redis, "--conflict", "replace")

    repair = run_here(greenfly, "repair", str(run.at("run")), *between(blue.url, green_redis.url), "--json")

    assert (repair.exit_code, repair.at("error", "kind")) == (4, "Refused"), repair.stdout
