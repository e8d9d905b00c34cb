"""``greenfly snapshot restore``: what was taken is what is there again, on any server, and it is proved."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from random import randbytes
from time import sleep, time

import anycrc
import pytest

from greenfly.demo.dataset import fill
from integrity.checksum import Fingerprint
from integrity.endpoint import Endpoint
from integrity.kinds.pieces import Piece
from integrity.rdb.errors import UnsupportedBody
from integrity.rdb.payload import payload_of
from integrity.settings import BigValueSettings, ConflictPolicy, EndpointSettings
from integrity.snapshot import prove, restore_batch
from integrity.snapshot import restore as restore_module
from integrity.snapshot.artifact import Artifact
from integrity.snapshot.files import hash_file
from integrity.snapshot.header import FileEntry, read_header
from integrity.snapshot.manifest import read_manifest
from integrity.snapshot.restore import Restorer
from integrity.snapshot.sealing import NO_KEYS
from integrity.verify.look import look
from tests.cli import CompletedRun, Greenfly
from tests.conftest import StartServer
from tests.inprocess import run_here
from tests.oracle import compare
from tests.servers import Store
from tests.snapshots import changed_row, flip, new_key, rewrite, take_here


def put_back(greenfly: Greenfly, folder: Path, target: Store, *flags: str) -> CompletedRun:
    return run_here(
        greenfly, "snapshot", "restore", str(folder), "--target", target.url, "--json", "--quiet", *flags
    )


def listed(run: CompletedRun) -> list[tuple[object, object]]:
    items = run.at("listed")
    assert isinstance(items, list)
    return [(item["key"], item["what"]) for item in items]


def test_a_restored_snapshot_is_the_source_again(
    blue: Store, green: Store, greenfly: Greenfly, tmp_path: Path
) -> None:
    fill(blue.url, keys=3_000, seed=61)
    folder = take_here(blue, tmp_path / "taken").directory

    run = put_back(greenfly, folder, green)

    assert run.exit_code == 0, run.stdout
    assert (run.at("verdict"), run.at("written"), run.at("refused")) == ("PASS", 3_000, 0)
    equal, expired = run.at("equal"), run.at("expired")
    assert isinstance(equal, int)
    assert isinstance(expired, int)
    assert equal + expired == 3_000
    assert compare(blue.url, green.url) == []


@pytest.mark.dragonfly
def test_a_dragonfly_comes_back_as_a_redis(
    green_dragonfly: Store, green_redis: Store, greenfly: Greenfly, tmp_path: Path
) -> None:
    fill(green_dragonfly.url, keys=1_000, seed=62)
    folder = take_here(green_dragonfly, tmp_path / "taken").directory

    run = put_back(greenfly, folder, green_redis)

    assert (run.exit_code, run.at("verdict")) == (0, "PASS"), run.stdout
    assert compare(green_dragonfly.url, green_redis.url) == []


@pytest.mark.dragonfly
def test_streams_of_a_newer_server_come_back_on_one_that_does_not_know_their_form(
    green_dragonfly: Store, green_redis: Store, greenfly: Greenfly, tmp_path: Path
) -> None:
    """With groups, consumers and pending entries, over a stream that is there already."""
    client = green_dragonfly.client
    for number in range(300):
        client.xadd("s", {"field": "v" * (number % 90), "n": number})
    client.xgroup_create("s", "one", "0")
    client.xgroup_create("s", "two", "$")
    client.xreadgroup("one", "first", {"s": ">"}, count=100)
    client.xreadgroup("one", "second", {"s": ">"}, count=7)
    client.xtrim("s", maxlen=250, approximate=False)
    client.xgroup_create("empty", "g", "$", mkstream=True)
    folder = take_here(green_dragonfly, tmp_path / "taken").directory
    green_redis.client.xadd("s", {"old": "entry"})

    run = put_back(greenfly, folder, green_redis, "--conflict", "replace")

    assert (run.exit_code, run.at("verdict")) == (0, "PASS"), run.stdout
    if green_redis.version.startswith("7.0"):
        assert run.at("downgraded") == 2
    assert compare(green_dragonfly.url, green_redis.url) == []


def test_an_encrypted_snapshot_is_restored_without_plaintext_on_the_disk(
    blue: Store, green_redis: Store, greenfly: Greenfly, tmp_path: Path
) -> None:
    fill(blue.url, keys=500, seed=63)
    recipient = new_key(tmp_path / "key")
    folder = take_here(blue, tmp_path / "taken", recipient).directory
    before = {*tmp_path.rglob("*")}

    run = put_back(greenfly, folder, green_redis, "--identity-file", str(tmp_path / "key"))

    assert (run.exit_code, run.at("verdict")) == (0, "PASS"), run.stdout
    assert compare(blue.url, green_redis.url) == []
    new = {path.name for path in {*tmp_path.rglob("*")} - before if path.is_file()}
    assert all(name.startswith("ledger.sqlite3") for name in new), new


def test_large_values_and_awkward_keys_come_back(
    blue: Store, green: Store, greenfly: Greenfly, tmp_path: Path
) -> None:
    blue.client.set("large", bytes(range(256)) * 40_000)
    blue.client.set(b"\xff\0\r\n key", b"\0\r\n")
    blue.client.set("k" * 20_000, "long name")
    blue.client.rpush("list", *range(20_000))
    blue.client.set("", "no name")
    folder = take_here(blue, tmp_path / "taken").directory

    run = put_back(greenfly, folder, green)

    assert (run.exit_code, run.at("written")) == (0, 5), run.stdout
    assert compare(blue.url, green.url) == []


def test_only_the_databases_that_were_asked_for_are_restored(
    blue: Store, green_redis: Store, greenfly: Greenfly, tmp_path: Path
) -> None:
    for number in (0, 1, 2):
        blue.database(number).set(f"k{number}", "v")
    folder = take_here(blue, tmp_path / "taken").directory

    run = put_back(greenfly, folder, green_redis, "--databases", "0,2")

    assert (run.exit_code, run.at("written"), run.at("left_out")) == (0, 2, 1)
    assert [green_redis.database(number).dbsize() for number in range(3)] == [1, 0, 1]


# -- a target that holds keys ----------------------------------------------------------------------------------------


@pytest.fixture
def three(blue: Store, tmp_path: Path) -> Path:
    """A snapshot of three keys."""
    blue.client.set("a", "from the snapshot")
    blue.client.rpush("b", 1, 2, 3)
    blue.client.set("c", "v", px=3_600_000)
    return take_here(blue, tmp_path / "three").directory


def test_a_target_that_holds_keys_is_refused(green: Store, greenfly: Greenfly, three: Path) -> None:
    green.client.set("mine", "v")

    run = put_back(greenfly, three, green)

    assert (run.exit_code, run.at("error", "kind")) == (4, "Refused")
    assert [*green.client.scan_iter()] == [b"mine"]


def test_skip_keeps_what_the_target_has(green: Store, greenfly: Greenfly, three: Path) -> None:
    green.client.set("a", "mine")
    green.client.set("other", "mine")

    run = put_back(greenfly, three, green, "--conflict", "skip")

    assert (run.exit_code, run.at("verdict")) == (0, "PASS WITH EXCEPTIONS"), run.stdout
    assert (run.at("written"), run.at("skipped"), run.at("equal")) == (2, 1, 2)
    assert (green.client.get("a"), green.client.get("other")) == (b"mine", b"mine")
    assert green.client.lrange("b", 0, -1) == [b"1", b"2", b"3"]


def test_replace_overwrites_and_leaves_no_temporary_key(
    blue: Store, green: Store, greenfly: Greenfly, tmp_path: Path
) -> None:
    fill(blue.url, keys=1_000, seed=64)
    fill(green.url, keys=1_000, seed=65)
    green.client.set("only here", "v")
    folder = take_here(blue, tmp_path / "taken").directory

    run = put_back(greenfly, folder, green, "--conflict", "replace")

    assert (run.exit_code, run.at("verdict")) == (0, "PASS"), run.stdout
    left = {difference.key for difference in compare(blue.url, green.url) if difference.what != "extra"}
    assert left == set()
    assert green.client.get("only here") == b"v"
    assert [*green.client.scan_iter(match="greenfly:tmp:*", count=1_000)] == []


def test_an_expired_key_removes_the_old_value_under_replace(
    blue: Store, green: Store, greenfly: Greenfly, tmp_path: Path
) -> None:
    blue.client.set("short", "v", px=400)
    blue.client.set("stays", "v")
    folder = take_here(blue, tmp_path / "taken").directory
    green.client.set("short", "an older value")
    sleep(0.5)

    run = put_back(greenfly, folder, green, "--conflict", "replace")

    assert (run.exit_code, run.at("equal"), run.at("expired")) == (0, 1, 1), run.stdout
    assert green.client.get("short") is None


def refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Send the payload of one key under a type that no server knows, with a right checksum."""

    def damaged(rdb_type: int, body: bytes, version: int) -> bytes:
        return payload_of(99 if body.endswith(b"snapshot") else rdb_type, body, version)

    monkeypatch.setattr(restore_batch, "payload_of", damaged)


def test_a_refused_payload_over_an_existing_key_is_written_with_typed_commands(
    green: Store, greenfly: Greenfly, three: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    green.client.set("a", "an older value")
    refuse(monkeypatch)

    run = put_back(greenfly, three, green, "--conflict", "replace")

    assert (run.exit_code, run.at("verdict"), run.at("rewritten")) == (0, "PASS", 1), run.stdout
    assert green.client.get("a") == b"from the snapshot"


def test_a_refused_payload_that_cannot_be_decoded_leaves_the_old_value_and_is_listed(
    green: Store, greenfly: Greenfly, three: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    green.client.set("a", "an older value")
    green.client.set("b", "another")
    refuse(monkeypatch)

    def unknown(rdb_type: int, body: bytes, version: int) -> list[Piece]:
        raise UnsupportedBody("an encoding that nobody knows")

    monkeypatch.setattr(restore_batch, "whole_pieces", unknown)

    run = put_back(greenfly, three, green, "--conflict", "replace")

    assert (run.exit_code, run.at("verdict"), run.at("refused")) == (1, "FAIL", 1), run.stdout
    assert listed(run) == [("a", "refused")]
    assert green.client.get("a") == b"an older value"
    assert green.client.lrange("b", 0, -1) == [b"1", b"2", b"3"]


# -- targets that are older, full, or smaller ------------------------------------------------------------------------


def as_written_by(folder: Path, version: int) -> None:
    """Make a snapshot look as if a server with a newer RDB version had written it."""
    rdb = folder / "dump.rdb"
    data = b"REDIS%04d" % version + rdb.read_bytes()[9:-8]
    crc: int = anycrc.Model("CRC64-REDIS").calc(data)
    rdb.write_bytes(data + crc.to_bytes(8, "little"))
    facts = hash_file(rdb)
    header = read_header(folder / "header.json")
    files = {**header.files, "dump.rdb": FileEntry(bytes=facts.bytes, xxh3_128=facts.xxh3_128)}
    new = header.model_copy(update={"rdb_version": version, "files": files})
    (folder / "header.json").write_bytes(new.to_bytes())


def test_a_target_with_an_older_rdb_version_gets_the_lowest_one_that_has_the_type(
    blue: Store, green: Store, greenfly: Greenfly, tmp_path: Path
) -> None:
    fill(blue.url, keys=2_500, seed=66)
    folder = take_here(blue, tmp_path / "taken").directory
    as_written_by(folder, 79)

    run = put_back(greenfly, folder, green)

    assert (run.exit_code, run.at("verdict")) == (0, "PASS"), run.stdout
    assert run.at("relabelled") == run.at("written") == 2_500
    assert compare(blue.url, green.url) == []


def test_a_target_that_lacks_a_database_is_refused_before_anything_is_written(
    blue: Store, start_redis: StartServer, greenfly: Greenfly, tmp_path: Path
) -> None:
    blue.client.set("k", "v")
    blue.database(7).set("k", "v")
    folder = take_here(blue, tmp_path / "taken", databases=(0, 7)).directory
    small = start_redis("--databases", "4")

    run = put_back(greenfly, folder, small)

    assert (run.exit_code, run.at("error", "kind")) == (4, "Refused")
    assert "database 7" in str(run.at("error", "problem"))
    assert small.client.dbsize() == 0


def test_a_full_target_ends_the_restore_by_its_code(
    blue: Store, start_redis: StartServer, greenfly: Greenfly, tmp_path: Path
) -> None:
    for number in range(400):
        blue.client.set(f"k{number}", bytes(10_000))
    folder = take_here(blue, tmp_path / "taken").directory
    full = start_redis("--maxmemory", "3mb", "--maxmemory-policy", "noeviction")

    run = put_back(greenfly, folder, full)

    assert run.exit_code == 25, run.stdout


# -- damage ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["dump.rdb", "manifest.parquet", "header.json"])
def test_a_damaged_snapshot_is_refused_before_anything_is_written(
    green_redis: Store, greenfly: Greenfly, three: Path, name: str
) -> None:
    flip(three / name, (three / name).stat().st_size // 2)

    run = put_back(greenfly, three, green_redis)

    assert (run.exit_code, run.at("error", "kind")) == (6, "ArtifactError")
    assert name in str(run.at("error", "problem"))
    assert green_redis.client.dbsize() == 0


@pytest.fixture
def changed_meanwhile(monkeypatch: pytest.MonkeyPatch, green: Store) -> None:
    """Someone writes to the target between the restore and its proof."""
    honest = look
    late = int(time() * 1000) + 7_200_000

    def meddled(*arguments: object, **named: object) -> object:
        green.client.set("a", "someone else's")
        green.client.delete("b")
        green.client.pexpireat("c", late)
        return honest(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(prove, "look", meddled)


@pytest.mark.usefixtures("changed_meanwhile")
def test_a_target_that_does_not_hold_what_was_written_fails_the_proof(
    green: Store, greenfly: Greenfly, three: Path
) -> None:
    run = put_back(greenfly, three, green)

    assert (run.exit_code, run.at("verdict"), run.at("differing")) == (1, "FAIL", 3)
    assert {*listed(run)} == {("a", "value"), ("b", "missing"), ("c", "expiry")}


def test_a_body_that_decodes_to_another_value_than_the_digest_fails_the_proof(
    green_redis: Store, greenfly: Greenfly, blue: Store, tmp_path: Path
) -> None:
    """Everything in the folder agrees with everything else, but the digest was of another value."""
    blue.client.set("a", "v")
    folder = take_here(blue, tmp_path / "taken").directory
    [row] = read_manifest(folder / "manifest.parquet")
    header = json.loads((folder / "header.json").read_text())
    other = bytes(16)
    prints = Fingerprint()
    prints.add(row.key, other)
    header["databases"]["0"]["fingerprint"] = prints.hex()
    rewrite(folder, [changed_row(row, digest=other)], changed={"databases": header["databases"]})

    run = put_back(greenfly, folder, green_redis)

    assert (run.exit_code, listed(run)) == (1, [("a", "value")])


def test_a_restore_of_nothing_proves_nothing(
    blue: Store, green_redis: Store, greenfly: Greenfly, tmp_path: Path
) -> None:
    folder = take_here(blue, tmp_path / "taken").directory

    run = put_back(greenfly, folder, green_redis)

    assert (run.exit_code, run.at("verdict")) == (3, "INCONCLUSIVE")


@pytest.mark.dragonfly
def test_a_type_without_a_digest_makes_the_restore_inconclusive(
    green_dragonfly: Store, greenfly: Greenfly, tmp_path: Path
) -> None:
    green_dragonfly.client.execute_command("BF.ADD", "seen", "a")  # type: ignore[no-untyped-call]
    green_dragonfly.client.set("k", "v")
    folder = take_here(green_dragonfly, tmp_path / "taken").directory
    green_dragonfly.client.flushall()

    run = put_back(greenfly, folder, green_dragonfly)

    assert (run.exit_code, run.at("verdict")) == (3, "INCONCLUSIVE"), run.stdout
    assert listed(run) == [("seen", "unreadable")]


# -- around it ---------------------------------------------------------------------------------------------------------


def test_a_restore_is_recorded_and_works_without_a_ledger(
    green_redis: Store, greenfly: Greenfly, three: Path
) -> None:
    recorded = put_back(greenfly, three, green_redis)
    green_redis.client.flushall()
    shutil.rmtree(greenfly.state_dir)
    greenfly.state_dir.write_text("not a folder")
    alone = put_back(greenfly, three, green_redis)

    assert (recorded.exit_code, alone.exit_code) == (0, 0), alone.stderr
    assert "Without the ledger" in alone.stderr


def test_no_more_than_two_batches_are_held(
    blue: Store, green_redis: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(120):
        blue.client.set(f"k{number}", randbytes(5_000))
    folder = take_here(blue, tmp_path / "taken").directory
    monkeypatch.setattr(restore_module, "_BATCH_BYTES", 50_000)
    target = Endpoint.from_settings("target", EndpointSettings.model_validate({"url": green_redis.url}))
    batches: list[int] = []
    restorer = Restorer(
        Artifact.open(folder, NO_KEYS),
        target,
        target.identify(),
        conflict=ConflictPolicy.FAIL,
        databases=None,
        batch_keys=1_000,
        big_values=BigValueSettings(),
        on_progress=lambda keys, size: batches.append(keys),
    )

    restorer.restore()

    assert sum(batches) == 120
    assert max(batches) <= 10


def test_progress_and_result_go_to_their_streams(green_redis: Store, greenfly: Greenfly, three: Path) -> None:
    run = run_here(greenfly, "snapshot", "restore", str(three), "--target", green_redis.url)

    assert run.exit_code == 0
    assert run.stdout.startswith("PASS: all 3 keys equal the snapshot")
    for phase in ("check", "restore", "prove"):
        assert phase in run.stderr
