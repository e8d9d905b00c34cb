"""Keys that SCAN returned twice are found, however many and wherever they stand."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from integrity.snapshot import duplicates
from integrity.snapshot.duplicates import KeyHashes, repeated_rows, superseded_rows
from integrity.snapshot.manifest import ManifestWriter, read_manifest

Rows = list[tuple[int, bytes]]

rows_of_keys = st.lists(
    st.tuples(st.integers(0, 2), st.sampled_from([b"a", b"b", b"c", b"", b"\xff"])), max_size=20
)


def write(folder: Path, rows: Rows) -> tuple[Path, Path]:
    hashes = KeyHashes(folder / "keys.hashes")
    with ManifestWriter(folder / "manifest.parquet") as manifest:
        for number, (database, key) in enumerate(rows):
            manifest.add(database, key, "string", 0, None, bytes(16), number, 1, None)
            hashes.add(database, key)
    hashes.close()
    return hashes.path, folder / "manifest.parquet"


def superseded(rows: Rows) -> set[int]:
    with TemporaryDirectory() as folder:
        hashes, manifest = write(Path(folder), rows)
        return superseded_rows(repeated_rows(hashes), read_manifest(manifest))


def expected(rows: Rows) -> set[int]:
    last = {row: number for number, row in enumerate(rows)}
    return set(range(len(rows))) - set(last.values())


@given(rows_of_keys)
@settings(max_examples=60, deadline=None)
def test_all_but_the_last_reading_of_each_key_are_superseded(rows: Rows) -> None:
    assert superseded(rows) == expected(rows)


@given(rows_of_keys)
@settings(max_examples=40, deadline=None)
def test_searching_in_slices_finds_the_same(rows: Rows) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(duplicates, "_SLICE_KEYS", 3)
        assert superseded(rows) == expected(rows)


def test_the_same_key_in_two_databases_is_no_duplicate() -> None:
    assert superseded([(0, b"a"), (1, b"a")]) == set()


def test_two_keys_that_share_a_hash_are_no_duplicate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "xxh3_64_intdigest", lambda key, seed: 1)

    assert superseded([(0, b"a"), (0, b"b"), (1, b"a")]) == set()
    assert superseded([(0, b"a"), (0, b"b"), (0, b"a"), (0, b"a")]) == {0, 2}


def test_more_hashes_than_are_kept_in_memory_are_searched(tmp_path: Path) -> None:
    hashes = KeyHashes(tmp_path / "keys.hashes")
    for number in range(25_000):
        hashes.add(0, b"%d" % (number % 24_990))
    hashes.close()

    assert repeated_rows(hashes.path) == [*range(10), *range(24_990, 25_000)]


def test_an_empty_snapshot_has_no_duplicates() -> None:
    assert superseded([]) == set()


@pytest.mark.parametrize("salt", [0, 1, 2**64 - 1])
def test_a_salt_changes_every_hash_but_not_which_repeat(tmp_path: Path, salt: int) -> None:
    with KeyHashes(tmp_path / "plain") as plain, KeyHashes(tmp_path / "salted", salt) as salted:
        for key in (b"a", b"b", b"a"):
            plain.add(0, key)
            salted.add(0, key)

    assert repeated_rows(salted.path) == [0, 2]
    assert (plain.path.read_bytes() == salted.path.read_bytes()) == (salt == 0)


def test_a_manifest_gives_back_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "manifest.parquet"
    with ManifestWriter(path) as manifest:
        manifest.add(3, b"\xff\0", "zset", 17, 1_900_000_000_000, bytes(range(16)), 40, 9, 2**64 - 1)
        manifest.add(0, b"", "MBbloom--", 34, None, None, 60, 0, None)
        assert manifest.rows == 2

    first, second = read_manifest(path)

    assert (first.database, first.key, first.kind, first.rdb_type) == (3, b"\xff\0", "zset", 17)
    assert (first.expiry_ms, first.digest, first.offset, first.length) == (
        1_900_000_000_000,
        bytes(range(16)),
        40,
        9,
    )
    assert (first.body_xxh3, second.body_xxh3) == (2**64 - 1, None)
    assert (second.kind, second.expiry_ms, second.digest) == ("MBbloom--", None, None)
