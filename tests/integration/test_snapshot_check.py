"""``greenfly snapshot verify``: a whole snapshot is whole, and whatever is broken is told by its place."""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import dataclass
from pathlib import Path

import pyrage
import pytest

from greenfly.demo.dataset import fill
from greenfly.demo.process import free_port
from integrity.snapshot.header import parse_header
from integrity.snapshot.manifest import ManifestRow, read_manifest
from tests.cli import CompletedRun, Greenfly, dig
from tests.inprocess import run_here
from tests.servers import Store
from tests.snapshots import changed_row, flip, new_key, rewrite, take_here

PLAIN = ("dump.rdb", "manifest.parquet", "header.json")
SEALED = ("dump.rdb.age", "manifest.parquet.age", "header.json", "header.json.age")


@dataclass(frozen=True)
class Taken:
    """One snapshot, and how to open it."""

    folder: Path
    flags: tuple[str, ...]
    identity: Path

    @property
    def rdb(self) -> Path:
        """The file of the bodies."""
        return next(self.folder.glob("dump.rdb*"))


@pytest.fixture(params=["plain", "sealed"])
def taken(request: pytest.FixtureRequest, blue: Store, tmp_path: Path) -> Taken:
    """A snapshot of 300 keys in three databases."""
    fill(blue.url, keys=300, seed=51)
    identity = tmp_path / "key"
    recipient = new_key(identity)
    sealed = request.param == "sealed"
    take_here(blue, tmp_path / "taken", *([recipient] if sealed else []))
    return Taken(tmp_path / "taken", ("--identity-file", str(identity)) if sealed else (), identity)


def verify(greenfly: Greenfly, taken: Taken, *more: str) -> CompletedRun:
    return run_here(
        greenfly, "snapshot", "verify", str(taken.folder), "--json", "--quiet", *taken.flags, *more
    )


def problems(run: CompletedRun) -> list[dict[str, object]]:
    assert run.exit_code == 6, run.stdout
    found = run.json().get("problems")
    if found is None:
        return [{"file": "", "problem": run.at("error", "problem")}]
    assert isinstance(found, list)
    assert found
    return found


def told(run: CompletedRun) -> str:
    """All that a failed verify says, in one text."""
    return "\n".join(f"{problem['file']}: {problem['problem']}" for problem in problems(run))


def test_a_whole_snapshot_is_whole(greenfly: Greenfly, taken: Taken) -> None:
    run = verify(greenfly, taken)

    assert run.exit_code == 0, run.stdout
    assert (run.at("whole"), run.at("keys"), run.at("problems")) == (True, 300, [])
    assert run.at("encrypted") is bool(taken.flags)
    assert {path.name for path in taken.folder.iterdir()} == {*(SEALED if taken.flags else PLAIN)}
    assert taken.folder.stat().st_mode & 0o077 == 0


def test_no_byte_of_any_file_can_change_unnoticed(greenfly: Greenfly, taken: Taken) -> None:
    chance = random.Random(52)
    for path in sorted(taken.folder.iterdir()):
        original = path.read_bytes()
        for place in (0, len(original) - 1, chance.randrange(len(original))):
            flip(path, place)
            found = told(verify(greenfly, taken))
            assert path.name in found or path.name.removesuffix(".age") in found, (path.name, place, found)
            path.write_bytes(original)
    assert verify(greenfly, taken).exit_code == 0


def test_a_file_that_is_cut_short_longer_empty_or_missing_is_told(greenfly: Greenfly, taken: Taken) -> None:
    for path in sorted(taken.folder.iterdir()):
        original = path.read_bytes()
        for data in (original[: len(original) // 2], original + b"x", b""):
            path.write_bytes(data)
            assert path.name in told(verify(greenfly, taken))
        path.unlink()
        assert path.name in told(verify(greenfly, taken))
        path.write_bytes(original)


def test_a_file_of_another_snapshot_is_told(
    greenfly: Greenfly, taken: Taken, blue: Store, tmp_path: Path
) -> None:
    blue.client.set("one more", "v")
    recipient = str(pyrage.x25519.Identity.from_str(taken.identity.read_text().strip()).to_public())
    other = take_here(blue, tmp_path / "other", *([recipient] if taken.flags else [])).directory
    for path in sorted(taken.folder.iterdir()):
        original = path.read_bytes()
        shutil.copy(other / path.name, path)
        found = told(verify(greenfly, taken))
        assert "header" in found or path.name in found
        path.write_bytes(original)


def rows_of(taken: Taken) -> list[ManifestRow]:
    return list(read_manifest(taken.folder / "manifest.parquet"))


def text(key: bytes) -> str:
    return key.decode("utf-8")


@pytest.fixture
def plain(blue: Store, tmp_path: Path) -> Taken:
    """A snapshot of a few plain keys, in two databases."""
    for number in range(50):
        blue.client.set(f"k{number}", f"value {number}" * 5)
    blue.database(2).set("with expiry", "v", px=3_600_000)
    take_here(blue, tmp_path / "taken")
    return Taken(tmp_path / "taken", (), tmp_path / "no key")


def test_a_changed_value_is_told_by_file_offset_and_key(greenfly: Greenfly, plain: Taken) -> None:
    row = rows_of(plain)[17]
    flip(plain.rdb, row.offset + row.length - 1)

    found = problems(verify(greenfly, plain))

    named = [item for item in found if item["key"] is not None]
    assert [(item["file"], item["offset"], item["database"], item["key"]) for item in named] == [
        ("dump.rdb", row.offset, 0, text(row.key))
    ]
    assert any("XXH3" in str(item["problem"]) for item in found)


@pytest.mark.parametrize("back", [1, 2])
def test_a_changed_name_or_type_is_told_by_its_key(greenfly: Greenfly, plain: Taken, back: int) -> None:
    row = rows_of(plain)[17]
    # The last byte before a body is the key's; before the key stand its length and the type.
    place = row.offset - (1 if back == 1 else len(row.key) + 2)
    flip(plain.rdb, place)

    named = [item for item in problems(verify(greenfly, plain)) if item["key"] is not None]

    assert [item["key"] for item in named] == [text(row.key)]


def test_a_changed_expiry_is_told_by_its_key(greenfly: Greenfly, plain: Taken) -> None:
    row = next(row for row in rows_of(plain) if row.expiry_ms)
    flip(plain.rdb, row.offset - len(row.key) - 2 - 8)

    named = [item for item in problems(verify(greenfly, plain)) if item["key"] is not None]

    assert [(item["database"], item["key"]) for item in named] == [(2, text(row.key))]


def test_a_file_that_ends_early_names_the_first_key_that_is_not_whole(
    greenfly: Greenfly, plain: Taken
) -> None:
    row = rows_of(plain)[30]
    data = plain.rdb.read_bytes()
    plain.rdb.write_bytes(data[: row.offset + 2])

    named = [item for item in problems(verify(greenfly, plain)) if item["key"] is not None]

    assert [(item["key"], item["offset"]) for item in named] == [(text(row.key), row.offset + 2)]


# -- files that fit the header and lie all the same -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("key", lambda row: b"x" * len(row.key)),
        ("database", lambda row: 1),
        ("rdb_type", lambda row: 4),
        ("expiry_ms", lambda row: 1_900_000_000_000),
        ("offset", lambda row: row.offset + 1),
        ("length", lambda row: row.length + 1),
        ("body_xxh3", lambda row: row.body_xxh3 ^ 1),
        ("kind", lambda row: "hash"),
        ("digest", lambda row: bytes(16)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_row_that_does_not_describe_the_file_is_told(
    greenfly: Greenfly, plain: Taken, name: str, change: object
) -> None:
    assert callable(change)
    rows = rows_of(plain)
    rows[9] = changed_row(rows[9], **{name: change(rows[9])})
    rewrite(plain.folder, rows)

    found = problems(verify(greenfly, plain))

    keys = {item["key"] for item in found}
    # A changed digest is no key's fault: only the fingerprint can tell.
    assert (text(rows[9].key) in keys) if name != "digest" else any("fingerprint" in str(f) for f in found)


@pytest.mark.parametrize("change", ["one row less", "a row twice", "swapped"])
def test_rows_that_are_not_those_of_the_file_are_told(greenfly: Greenfly, plain: Taken, change: str) -> None:
    rows = rows_of(plain)
    match change:
        case "one row less":
            del rows[20]
        case "a row twice":
            rows.insert(20, rows[19])
        case _:
            rows[20], rows[21] = rows[21], rows[20]
    rewrite(plain.folder, rows)

    assert told(verify(greenfly, plain))


@pytest.mark.parametrize("change", ["more behind the last key", "wrong checksum", "wrong magic"])
def test_a_file_that_is_no_rdb_file_of_these_keys_is_told(
    greenfly: Greenfly, plain: Taken, change: str
) -> None:
    data = plain.rdb.read_bytes()
    match change:
        case "more behind the last key":
            data = data[:-9] + b"\x00\x01x\x01y" + data[-9:]
        case "wrong checksum":
            data = data[:-1] + bytes([data[-1] ^ 1])
        case _:
            data = b"RUBIS" + data[5:]
    rewrite(plain.folder, rdb=data)

    assert "dump.rdb" in told(verify(greenfly, plain))


@pytest.mark.parametrize(
    "changed",
    [
        {"keys": 52},
        {"without_digest": 1},
        {"rdb_version": 9},
        {"checksum_definition": "other"},
        {"databases": {}},
    ],
    ids=lambda value: next(iter(value)),
)
def test_a_header_that_tells_other_facts_than_the_files_is_told(
    greenfly: Greenfly, plain: Taken, changed: dict[str, object]
) -> None:
    rewrite(plain.folder, changed=changed)

    assert told(verify(greenfly, plain))


def test_an_edited_header_is_told_even_where_no_file_contradicts_it(greenfly: Greenfly, taken: Taken) -> None:
    path = taken.folder / "header.json"
    original = path.read_text("ascii")
    assert '"address": "redis://127.0.0.1' in original
    path.write_text(original.replace("redis://127.0.0.1", "redis://10.0.0.1"), "ascii")

    assert "header.json" in told(verify(greenfly, taken))


def test_an_edited_header_with_a_new_hash_does_not_pass_for_its_sealed_copy(
    blue: Store, greenfly: Greenfly, tmp_path: Path
) -> None:
    blue.client.set("k", "v")
    identity = tmp_path / "key"
    recipient = new_key(identity)
    folder = take_here(blue, tmp_path / "taken", recipient).directory
    path = folder / "header.json"
    header = parse_header(path.read_bytes(), path)
    path.write_bytes(header.model_copy(update={"vanished_while_reading": 7}).to_bytes())

    assert "sealed copy" in told(
        verify(greenfly, Taken(folder, ("--identity-file", str(identity)), identity))
    )


# -- keys ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def sealed(blue: Store, tmp_path: Path) -> Taken:
    """An encrypted snapshot of one key, and another key's file beside it."""
    blue.client.set("secret name", "a word that is easy to find")
    recipient = new_key(tmp_path / "key")
    new_key(tmp_path / "other")
    folder = take_here(blue, tmp_path / "taken", recipient).directory
    return Taken(folder, ("--identity-file", str(tmp_path / "key")), tmp_path / "key")


def test_without_the_key_or_with_another_nothing_can_be_read(
    greenfly: Greenfly, sealed: Taken, tmp_path: Path
) -> None:
    for flags, words in (
        ((), "no key"),
        (("--identity-file", str(tmp_path / "other")), "another key"),
    ):
        for command in (
            ("verify", str(sealed.folder)),
            ("diff", str(sealed.folder), str(sealed.folder)),
            ("restore", str(sealed.folder), "--target", f"redis://127.0.0.1:{free_port()}"),
        ):
            run = run_here(greenfly, "snapshot", *command, "--json", *flags)
            assert (run.exit_code, run.at("error", "kind")) == (6, "ArtifactError")
            assert ".age" in str(run.at("error", "problem"))
            assert words in str(run.at("error", "problem"))


def test_the_key_may_come_from_the_environment_and_one_of_several_will_do(
    greenfly: Greenfly, sealed: Taken, tmp_path: Path
) -> None:
    both = (tmp_path / "other").read_text() + sealed.identity.read_text()
    run = run_here(
        greenfly,
        *("snapshot", "verify", str(sealed.folder), "--json"),
        env={"GREENFLY_SNAPSHOT__IDENTITY": both},
    )

    assert run.exit_code == 0, run.stdout


def test_nothing_of_the_content_is_in_the_folder_nor_guessable_from_its_header(sealed: Taken) -> None:
    for path in sealed.folder.iterdir():
        data = path.read_bytes()
        assert b"secret name" not in data
        assert b"easy to find" not in data
    header = json.loads((sealed.folder / "header.json").read_text())
    assert "contents" not in header
    assert dig(header, "databases", "0") == {"keys": 1, "kinds": {"string": 1}}
    inside = json.loads(
        pyrage.decrypt(
            (sealed.folder / "header.json.age").read_bytes(),
            [pyrage.x25519.Identity.from_str(sealed.identity.read_text().strip())],
        )
    )
    assert dig(inside, "databases", "0", "fingerprint")
    assert {*inside["contents"]} == {"dump.rdb", "manifest.parquet"}


def test_several_recipients_can_each_open_it(blue: Store, greenfly: Greenfly, tmp_path: Path) -> None:
    blue.client.set("k", "v")
    recipients = [new_key(tmp_path / name) for name in ("one", "two")]
    folder = take_here(blue, tmp_path / "taken", *recipients).directory

    for name in ("one", "two"):
        taken = Taken(folder, ("--identity-file", str(tmp_path / name)), tmp_path / name)
        assert verify(greenfly, taken).exit_code == 0


def test_a_key_that_was_made_here_encrypts_and_opens(blue: Store, greenfly: Greenfly) -> None:
    blue.client.set("k", "v")
    made = run_here(greenfly, "snapshot", "keygen", "key", "--json")
    recipient = str(made.at("recipient"))

    run = run_here(
        greenfly, *("snapshot", "take", "--source", blue.url, "--encrypt-to", recipient, "--json", "--quiet")
    )
    assert run.exit_code == 0, run.stderr
    folder = Path(str(run.at("snapshot")))
    checked = run_here(
        greenfly, *("snapshot", "verify", "latest", "--identity-file", "key", "--json", "--quiet")
    )

    assert {path.name for path in folder.iterdir()} == {*SEALED}
    assert (checked.exit_code, checked.at("encrypted"), checked.at("as_recorded")) == (0, True, True)


# -- what the ledger recorded ----------------------------------------------------------------------------------------


def test_a_snapshot_that_was_replaced_as_a_whole_is_told_by_the_ledger(
    blue: Store, greenfly: Greenfly, tmp_path: Path
) -> None:
    blue.client.set("k", "v")
    run = run_here(greenfly, "snapshot", "take", "--source", blue.url, "--json", "--quiet")
    folder = Path(str(run.at("snapshot")))
    genuine = run_here(greenfly, "snapshot", "verify", "latest", "--json")
    blue.client.set("k", "forged")
    shutil.rmtree(folder)
    take_here(blue, folder)

    forged = run_here(greenfly, "snapshot", "verify", "latest", "--json")

    assert (genuine.exit_code, genuine.at("as_recorded")) == (0, True)
    assert (forged.exit_code, forged.at("as_recorded")) == (6, False)
    assert "ledger" in told(forged)


@pytest.mark.parametrize("name", ["gone", "latest", "20200101"])
def test_a_snapshot_that_is_not_there_is_told(greenfly: Greenfly, name: str) -> None:
    run = run_here(greenfly, "snapshot", "verify", name, "--json")

    assert (run.exit_code, run.at("error", "kind")) == (6, "ArtifactError")


def test_a_folder_that_is_no_snapshot_and_one_of_a_newer_version_are_told(
    greenfly: Greenfly, plain: Taken, tmp_path: Path
) -> None:
    path = plain.folder / "header.json"
    original = path.read_text()
    for content, word in (
        (original.replace("greenfly-snapshot/2", "greenfly-snapshot/4"), "greenfly-snapshot/4"),
        ("{}", "not the header"),
        ("[]", "not the header"),
        ("\0\xff", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ('{"format": "greenfly-snapshot/1", "keys": -1}', "damaged"),
    ):
        path.write_text(content)
        assert word in told(verify(greenfly, plain))
    (tmp_path / "empty").mkdir()
    assert "header.json is missing" in told(verify(greenfly, Taken(tmp_path / "empty", (), tmp_path)))
