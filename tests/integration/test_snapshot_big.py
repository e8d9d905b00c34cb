"""Values that are too large to be read whole: taken in pieces, as they were at one moment, and put back in pieces."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from random import Random
from time import time
from typing import Final, TypeAlias

import pytest

from integrity.endpoint import Endpoint
from integrity.errors import ServerFull, ServerUnreachable
from integrity.settings import BigValueSettings, ConflictPolicy, EndpointSettings
from integrity.snapshot import spool
from integrity.snapshot.artifact import Artifact
from integrity.snapshot.check import inspect_snapshot
from integrity.snapshot.create import Snapshot
from integrity.snapshot.manifest import ManifestRow, read_manifest
from integrity.snapshot.restore import Restorer
from integrity.snapshot.sealing import NO_KEYS
from integrity.snapshot.totals import RestoreTotals
from integrity.snapshot.walk import Damage
from tests.cli import CompletedRun, Greenfly
from tests.conftest import StartServer
from tests.inprocess import run_here
from tests.integration.test_snapshot import check_rdb, every_page_twice, load
from tests.oracle import compare
from tests.raw import Raw, as_list, as_strings
from tests.servers import Store
from tests.snapshots import changed_row, new_key, rewrite, take_here

SMALL = BigValueSettings(threshold_bytes=1024, piece_bytes=4096, piece_elements=37)
WHOLE = BigValueSettings(threshold_bytes=1 << 30)
IN_THE_FUTURE = int(time() * 1000) + 7_200_000
BIG_KEYS = 11


def fill_big(store: Store) -> None:
    """Big values of every kind that is read in pieces, awkward ones among them, and small ones around them."""
    rng = Random(5)
    client = store.client
    for number in range(50):
        client.set(f"small:{number}", number)
    client.set("string", rng.randbytes(200_000))
    client.set("compressible", b"again and again " * 5_000, pxat=IN_THE_FUTURE)
    client.set(b"binary \x00\xff\r\n key", b"\r\n$5\r\n" * 2_000)
    for number in range(500):
        client.pfadd("visitors", *(f"{number}-{i}" for i in range(10)))
    client.rpush("list", *(rng.randbytes(rng.choice((0, 1, 5, 63, 64, 300))) for _ in range(900)), "17", "-1")
    client.rpush("long elements", b"x" * 70_000, b"", b"yz" * 9_000)
    client.sadd("set", *(f"member {i}" for i in range(600)), "12", b"\x00")
    client.sadd("numbers", *range(1_500))
    client.hset("hash", mapping={f"field {i}": b"value " * (i % 40) for i in range(700)})
    scores = {f"m{i}": rng.uniform(-1e9, 1e9) for i in range(500)}
    client.zadd("zset", {**scores, "inf": "inf", "-inf": "-inf", "-0": -0.0, "tiny": 5e-324, "large": 1e308})
    client.pexpireat("zset", IN_THE_FUTURE)
    client.xadd("stream", {"field": "v" * 9_000})
    other = store.database(1)
    other.rpush("list", *range(2_000))
    other.set("small", "too")


def only(store: Store, key: str) -> None:
    """Delete everything else."""
    store.database(1).flushdb()
    store.client.delete(*(name for name in names(store) if name != key.encode()))


def names(store: Store) -> list[bytes]:
    with Raw(store.url) as raw:
        return as_strings(raw("KEYS", "*"))


def knows_expiring_fields(store: Store) -> bool:
    with Raw(store.url) as raw:
        return as_list(raw("COMMAND", "INFO", "HPEXPIREAT"))[0] is not None


def manifest_of(snapshot: Snapshot) -> dict[tuple[int, bytes], ManifestRow]:
    return {(row.database, row.key): row for row in read_manifest(snapshot.manifest)}


def calls(store: Store, command: str) -> int:
    stats = store.client.info("commandstats").get(f"cmdstat_{command}", {"calls": 0})
    assert isinstance(stats, dict)
    return int(stats["calls"])


def put_back(greenfly: Greenfly, folder: Path, target: Store, *flags: str) -> CompletedRun:
    small = {f"GREENFLY_BIG_VALUES__{name.upper()}": str(value) for name, value in SMALL.model_dump().items()}
    return run_here(
        greenfly,
        "snapshot",
        "restore",
        str(folder),
        "--target",
        target.url,
        "--json",
        "--quiet",
        *flags,
        env=small,
    )


def restore_here(
    folder: Path, target: Store, conflict: ConflictPolicy = ConflictPolicy.REPLACE
) -> RestoreTotals:
    """Without the checks that come first."""
    endpoint = Endpoint.from_settings("target", EndpointSettings.model_validate({"url": target.url}))
    return Restorer(
        Artifact.open(folder, NO_KEYS),
        endpoint,
        endpoint.identify(),
        conflict=conflict,
        databases=None,
        batch_keys=100,
        big_values=SMALL,
        on_progress=lambda keys, size: None,
    ).restore()


class Meddling:
    """A pace that does something to the source between the pieces."""

    batch_keys = 50

    def __init__(self, meddle: Callable[[int], object]) -> None:
        self._meddle = meddle
        self.pieces = 0

    def admit(self, keys: int, size: int) -> None:
        """Count pieces, not pages."""
        if size and not keys:
            self.pieces += 1
            self._meddle(self.pieces)


# -- taking ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("in_memory", [True, False])
def test_redis_loads_what_was_taken_in_pieces_and_holds_exactly_the_same(
    blue: Store, start_redis: StartServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_memory: bool
) -> None:
    monkeypatch.setattr(spool, "MEMORY_BYTES", 1 << 30 if in_memory else 1)
    fill_big(blue)
    before = calls(blue, "dump")

    snapshot = take_here(blue, tmp_path / "taken", big_values=SMALL)

    assert snapshot.totals.in_pieces == BIG_KEYS
    # All the small ones and the stream, which only DUMP tells whole.
    assert calls(blue, "dump") - before == 50 + 1 + 1
    assert {path.name for path in snapshot.directory.iterdir()} == {
        *("dump.rdb", "manifest.parquet", "header.json")
    }
    check_rdb(snapshot.rdb)
    assert inspect_snapshot(snapshot.directory, NO_KEYS).problems == []
    assert compare(blue.url, load(start_redis, snapshot.directory).url) == []


def test_digests_and_expiries_are_those_of_a_snapshot_that_was_read_whole(
    blue: Store, tmp_path: Path
) -> None:
    fill_big(blue)

    pieces = manifest_of(take_here(blue, tmp_path / "pieces", big_values=SMALL))
    whole = manifest_of(take_here(blue, tmp_path / "whole", big_values=WHOLE))

    assert {name: (r.kind, r.digest, r.expiry_ms) for name, r in pieces.items()} == {
        name: (r.kind, r.digest, r.expiry_ms) for name, r in whole.items()
    }
    assert None not in {row.digest for row in pieces.values()}
    assert {r.rdb_type for r in pieces.values()} >= {0, 1, 2, 4, 5}
    assert pieces[0, b"zset"].expiry_ms == pieces[0, b"compressible"].expiry_ms == IN_THE_FUTURE


def test_an_encrypted_snapshot_spools_no_plaintext(
    blue: Store, green_redis: Store, greenfly: Greenfly, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool, "MEMORY_BYTES", 1)
    fill_big(blue)
    blue.client.set("large enough to leave the buffers", b"again and again " * 300_000)
    recipient = new_key(tmp_path / "key")
    spooled: list[int] = []

    def look(piece: int) -> None:
        if piece % 40:
            return
        for path in (tmp_path / "taken.partial").iterdir():
            content = path.read_bytes()
            assert b"again and again" not in content
            assert b"member 1" not in content
            spooled.extend([len(content)] * path.name.startswith("value"))

    folder = take_here(blue, tmp_path / "taken", recipient, big_values=SMALL, pace=Meddling(look)).directory

    assert max(spooled) > 1_000_000
    assert {path.suffix for path in folder.iterdir()} == {".age", ".json"}
    flags = ("--identity-file", str(tmp_path / "key"))
    checked = run_here(greenfly, "snapshot", "verify", str(folder), "--json", *flags)
    assert checked.exit_code == 0, checked.stdout
    run = put_back(greenfly, folder, green_redis, *flags)
    assert (run.exit_code, run.at("verdict"), run.at("in_pieces")) == (0, "PASS", BIG_KEYS + 1), run.stdout
    assert compare(blue.url, green_redis.url) == []


def test_the_version_of_the_file_is_the_source_s_even_without_a_small_key(
    blue: Store, tmp_path: Path
) -> None:
    blue.client.rpush("list", *range(5_000))
    payload = blue.client.dump("list")
    assert payload is not None

    snapshot = take_here(blue, tmp_path / "taken", big_values=SMALL)

    assert snapshot.totals.in_pieces == 1
    assert snapshot.rdb_version == int.from_bytes(payload[-10:-8], "little")


# -- values that are written to meanwhile ------------------------------------------------------------------------------

Change: TypeAlias = Callable[[Store, int], object]
QUIET_CHANGES: Final[dict[str, Change]] = {
    "string": lambda store, n: store.client.setrange("string", 3, b"%06d" % n),
    "list": lambda store, n: store.client.lset("list", 0, str(n)),
    "set": lambda store, n: (
        store.client.srem("set", *(f"member {i}" for i in range(9 * n, 9 * n + 9)))
        and store.client.sadd("set", *(f"new {i}" for i in range(9 * n, 9 * n + 9)))
    ),
    "hash": lambda store, n: store.client.hset("hash", mapping={f"field {i}": n for i in range(300)}),
    "zset": lambda store, n: store.client.zadd("zset", {f"m{i}": n for i in range(300)}),
}
"""Changes that leave the number of elements as it is."""


@pytest.mark.parametrize("key", QUIET_CHANGES)
def test_a_value_that_changes_while_it_is_read_is_read_again(
    blue: Store, start_redis: StartServer, tmp_path: Path, key: str
) -> None:
    fill_big(blue)
    only(blue, key)
    change = QUIET_CHANGES[key]
    pace = Meddling(lambda piece: change(blue, piece) if piece == 4 else None)

    snapshot = take_here(blue, tmp_path / "taken", big_values=SMALL, pace=pace)

    assert (snapshot.totals.in_pieces, snapshot.totals.unsettled) == (1, 0)
    assert compare(blue.url, load(start_redis, snapshot.directory).url) == []


@pytest.mark.parametrize("key", QUIET_CHANGES)
def test_a_value_that_never_holds_still_is_read_whole(
    blue: Store, start_redis: StartServer, tmp_path: Path, key: str
) -> None:
    fill_big(blue)
    only(blue, key)
    change = QUIET_CHANGES[key]
    before = calls(blue, "dump")

    snapshot = take_here(
        blue, tmp_path / "taken", big_values=SMALL, pace=Meddling(lambda piece: change(blue, piece))
    )

    assert (snapshot.totals.in_pieces, snapshot.totals.unsettled, snapshot.totals.keys) == (0, 1, 1)
    assert calls(blue, "dump") - before == 1
    assert inspect_snapshot(snapshot.directory, NO_KEYS).problems == []
    assert compare(blue.url, load(start_redis, snapshot.directory).url) == []


@pytest.mark.parametrize("how", ["delete", "expire"])
def test_a_key_that_goes_while_it_is_read_is_counted_as_vanished(
    blue: Store, tmp_path: Path, how: str
) -> None:
    fill_big(blue)
    only(blue, "hash")

    def go() -> object:
        return blue.client.delete("hash") if how == "delete" else blue.client.pexpire("hash", 0)

    snapshot = take_here(
        blue,
        tmp_path / "taken",
        databases=(0,),
        big_values=SMALL,
        pace=Meddling(lambda piece: go() if piece == 3 else None),
    )

    assert (snapshot.totals.keys, snapshot.totals.vanished) == (0, 1)


def test_a_key_that_becomes_another_type_is_taken_as_what_it_is(
    blue: Store, start_redis: StartServer, tmp_path: Path
) -> None:
    blue.client.rpush("k", *range(2_000))

    def become(piece: int) -> None:
        if piece == 1:
            blue.client.delete("k")
            blue.client.sadd("k", *range(700))

    snapshot = take_here(blue, tmp_path / "taken", big_values=SMALL, pace=Meddling(become))

    assert manifest_of(snapshot)[0, b"k"].kind == "set"
    assert compare(blue.url, load(start_redis, snapshot.directory).url) == []


def test_an_expiry_that_changes_while_its_key_is_read_is_the_new_one(blue: Store, tmp_path: Path) -> None:
    blue.client.rpush("k", *range(2_000))
    pace = Meddling(lambda piece: blue.client.pexpireat("k", IN_THE_FUTURE) if piece == 1 else None)

    snapshot = take_here(blue, tmp_path / "taken", big_values=SMALL, pace=pace)

    assert manifest_of(snapshot)[0, b"k"].expiry_ms == IN_THE_FUTURE


def test_big_keys_that_scan_returns_twice_are_in_the_snapshot_once(
    blue: Store, start_redis: StartServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill_big(blue)
    blue.client.set("larger than what is read at once", Random(9).randbytes(3_000_000))
    every_page_twice(monkeypatch)

    snapshot = take_here(blue, tmp_path / "taken", big_values=SMALL)

    monkeypatch.undo()
    keys = blue.client.dbsize() + blue.database(1).dbsize()
    assert (snapshot.totals.keys, snapshot.totals.duplicates) == (keys, keys)
    check_rdb(snapshot.rdb)
    assert inspect_snapshot(snapshot.directory, NO_KEYS).problems == []
    assert compare(blue.url, load(start_redis, snapshot.directory).url) == []


def test_a_source_that_is_lost_within_a_big_value_leaves_no_folder(
    start_redis: StartServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool, "MEMORY_BYTES", 1)
    source = start_redis()
    fill_big(source)
    server = source.server
    assert server is not None

    with pytest.raises(ServerUnreachable):
        take_here(
            source,
            tmp_path / "taken",
            big_values=SMALL,
            pace=Meddling(lambda piece: server.stop() if piece == 5 else None),
        )

    assert not (tmp_path / "taken").exists()
    gc.collect()  # a file that was left open is told here


# -- putting back ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("taken", [SMALL, WHOLE], ids=["in pieces", "whole"])
def test_big_values_come_back_in_pieces(
    blue: Store, green: Store, greenfly: Greenfly, tmp_path: Path, taken: BigValueSettings
) -> None:
    """From bodies of our own, and from those of DUMP as far as they are one element after the other."""
    fill_big(blue)
    folder = take_here(blue, tmp_path / "taken", big_values=taken).directory

    run = put_back(greenfly, folder, green)

    assert (run.exit_code, run.at("verdict"), run.at("refused")) == (0, "PASS", 0), run.stdout
    in_pieces = run.at("in_pieces")
    assert isinstance(in_pieces, int)
    assert in_pieces == BIG_KEYS if taken is SMALL else in_pieces >= 4
    assert compare(blue.url, green.url) == []
    assert not [name for name in names(green) if name.startswith(b"greenfly:")]


def test_replace_replaces_and_skip_keeps(
    blue: Store, green: Store, greenfly: Greenfly, tmp_path: Path
) -> None:
    fill_big(blue)
    folder = take_here(blue, tmp_path / "taken", big_values=SMALL).directory
    green.client.set("hash", "in the way")
    green.client.rpush("list", *range(3_000))

    kept = put_back(greenfly, folder, green, "--conflict", "skip")

    assert (kept.at("verdict"), kept.at("skipped")) == ("PASS WITH EXCEPTIONS", 2), kept.stdout
    assert (green.client.get("hash"), green.client.llen("list")) == (b"in the way", 3_000)

    replaced = put_back(greenfly, folder, green, "--conflict", "replace")

    assert (replaced.exit_code, replaced.at("verdict")) == (0, "PASS"), replaced.stdout
    assert compare(blue.url, green.url) == []


def test_a_key_that_came_into_being_on_the_target_is_refused_not_overwritten(
    blue: Store, green: Store, tmp_path: Path
) -> None:
    fill_big(blue)
    folder = take_here(blue, tmp_path / "taken", big_values=SMALL).directory
    green.client.set("hash", "mine")

    totals = restore_here(folder, green, ConflictPolicy.FAIL)

    assert [(refused.key, "meanwhile" in refused.detail) for refused in totals.refused] == [(b"hash", True)]
    assert green.client.get("hash") == b"mine"
    assert len(totals.not_written) == 1


def test_a_big_key_whose_expiry_has_passed_leaves_nothing(blue: Store, green: Store, tmp_path: Path) -> None:
    blue.client.rpush("k", *range(2_000))
    blue.client.pexpireat("k", IN_THE_FUTURE)
    folder = take_here(blue, tmp_path / "taken", big_values=SMALL).directory
    data = (folder / "dump.rdb").read_bytes()
    soon = int(time() * 1000) - 1_000
    row = next(iter(read_manifest(folder / "manifest.parquet")))
    rewrite(
        folder,
        [changed_row(row, expiry_ms=soon)],
        data.replace(IN_THE_FUTURE.to_bytes(8, "little"), soon.to_bytes(8, "little")),
    )
    green.client.rpush("k", "the old value")

    with pytest.raises(Damage, match="CRC-64"):  # at the very end: the file was changed here
        restore_here(folder, green)

    assert names(green) == []


def test_a_body_that_changed_since_it_was_checked_replaces_nothing(
    blue: Store, green: Store, tmp_path: Path
) -> None:
    blue.client.rpush("k", *range(2_000))
    folder = take_here(blue, tmp_path / "taken", big_values=SMALL).directory
    row = next(iter(read_manifest(folder / "manifest.parquet")))
    data = bytearray((folder / "dump.rdb").read_bytes())
    data[row.offset + row.length - 1] ^= 1
    (folder / "dump.rdb").write_bytes(data)
    green.client.rpush("k", "the old value")

    with pytest.raises(Damage, match="changed"):
        restore_here(folder, green)

    assert names(green) == [b"k"]
    assert green.client.lrange("k", 0, -1) == [b"the old value"]


def test_a_target_that_is_full_ends_it_and_keeps_no_part(
    blue: Store, start_redis: StartServer, tmp_path: Path
) -> None:
    blue.client.set("k", Random(1).randbytes(8_000_000))
    folder = take_here(blue, tmp_path / "taken", big_values=SMALL).directory
    target = start_redis("--maxmemory", "5mb")

    with pytest.raises(ServerFull):
        restore_here(folder, target)

    assert names(target) == []


# -- single fields and members that expire -----------------------------------------------------------------------------


def field_times(store: Store, key: str, count: int) -> list[object]:
    with Raw(store.url) as raw:
        return [raw("HPEXPIRETIME", key, "FIELDS", 1, f"f{number}") for number in range(count)]


def fill_expiring(store: Store) -> None:
    with Raw(store.url) as raw:
        raw("HSET", "h", *(text for i in range(900) for text in (f"f{i}", f"value {i}")))
        raw("HSET", "plain", *(text for i in range(900) for text in (f"f{i}", f"value {i}")))
        for number in range(0, 900, 100):
            raw("HPEXPIREAT", "h", IN_THE_FUTURE + number, "FIELDS", 2, f"f{number}", f"f{number + 1}")


def test_expiries_of_fields_are_taken_in_pieces_and_come_back(
    blue: Store, green_redis: Store, start_redis: StartServer, greenfly: Greenfly, tmp_path: Path
) -> None:
    if not knows_expiring_fields(blue):
        pytest.skip("this server has no expiries of single fields")
    fill_expiring(blue)
    before = calls(blue, "dump")

    snapshot = take_here(blue, tmp_path / "taken", databases=(0,), big_values=SMALL)

    assert (calls(blue, "dump") - before, snapshot.totals.in_pieces) == (0, 2)
    check_rdb(snapshot.rdb)
    loaded = load(start_redis, snapshot.directory)
    run = put_back(greenfly, snapshot.directory, green_redis)
    assert (run.at("verdict"), run.at("in_pieces")) == ("PASS", 2), run.stdout
    times = field_times(blue, "h", 900)
    assert len({str(time) for time in times}) == 10
    for store in (loaded, green_redis):
        assert compare(blue.url, store.url) == []
        assert field_times(store, "h", 900) == times


def test_a_target_without_expiries_of_fields_is_not_given_fields_for_ever(
    blue: Store, green_redis: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not knows_expiring_fields(blue):
        pytest.skip("this server has no expiries of single fields")
    fill_expiring(blue)
    folder = take_here(blue, tmp_path / "taken", databases=(0,), big_values=SMALL).directory
    monkeypatch.setattr("integrity.kinds.field_expiry.unknown_command", lambda reply: True)

    totals = restore_here(folder, green_redis)

    assert [(refused.key, "18 hash fields" in refused.detail) for refused in totals.refused] == [(b"h", True)]
    assert names(green_redis) == [b"plain"]


@pytest.mark.dragonfly
def test_what_expires_within_a_dragonfly_s_values_is_kept(
    green_dragonfly: Store, greenfly: Greenfly, tmp_path: Path
) -> None:
    with Raw(green_dragonfly.url) as raw:
        raw("SADDEX", "set", 7_200, *(f"member {i}" for i in range(500)))
        raw("HSETEX", "hash", 7_200, *(text for i in range(500) for text in (f"f{i}", f"value {i}")))
        raw("RPUSH", "list", *range(3_000))
    snapshot = take_here(green_dragonfly, tmp_path / "taken", databases=(0,), big_values=SMALL)
    green_dragonfly.client.flushall()

    run = put_back(greenfly, snapshot.directory, green_dragonfly)

    assert (run.exit_code, run.at("verdict")) == (0, "PASS"), run.stdout
    assert snapshot.totals.in_pieces == 1
    with Raw(green_dragonfly.url) as raw:
        for key, member in (("set", "member 7"), ("hash", "f7")):
            left = raw("FIELDTTL", key, member)
            assert isinstance(left, int)
            assert 7_100 < left <= 7_200


@pytest.mark.dragonfly
def test_a_dragonfly_s_big_values_come_back(
    green_dragonfly: Store, green_redis: Store, greenfly: Greenfly, tmp_path: Path
) -> None:
    fill_big(green_dragonfly)
    green_dragonfly.client.delete("stream")
    pace = Meddling(
        lambda piece: green_dragonfly.client.hset("hash", "field 1", piece) if piece == 40 else None
    )
    snapshot = take_here(green_dragonfly, tmp_path / "taken", big_values=SMALL, pace=pace)

    run = put_back(greenfly, snapshot.directory, green_redis)

    assert (run.exit_code, run.at("verdict")) == (0, "PASS"), run.stdout
    assert (snapshot.totals.in_pieces, snapshot.totals.unsettled) == (BIG_KEYS - 2, 0)
    assert compare(green_dragonfly.url, green_redis.url) == []


# -- memory ------------------------------------------------------------------------------------------------------------


def test_a_string_is_never_held_whole(blue: Store, green_redis: Store, tmp_path: Path) -> None:
    value = Random(3).randbytes(48 << 20)
    blue.client.set("k", value)
    del value
    settings = BigValueSettings()
    tracemalloc.start()
    try:
        folder = take_here(blue, tmp_path / "taken", big_values=settings).directory
        taken = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        inspect_snapshot(folder, NO_KEYS)
        inspected = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        restore_here(folder, green_redis)
        restored = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert max(taken, inspected, restored) < 24 << 20
    assert as_list(Raw(green_redis.url).many([("STRLEN", "k")])) == [48 << 20]
