"""``greenfly snapshot list``, ``prune`` and ``diff`` on snapshots of real servers."""

from __future__ import annotations

import json
import os
import shutil
import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import monotonic, sleep

import pytest

from greenfly.demo.dataset import fill
from integrity.snapshot.header import read_header
from tests.cli import CompletedRun, Greenfly, dig
from tests.inprocess import run_here
from tests.servers import Store
from tests.snapshots import new_key, take_here


def snapshot(greenfly: Greenfly, *arguments: str) -> CompletedRun:
    return run_here(greenfly, "snapshot", *arguments, "--json")


def take(greenfly: Greenfly, store: Store, age_days: float = 0) -> Path:
    """A snapshot that says it was taken so long ago."""
    run = snapshot(greenfly, "take", "--source", store.url, "--quiet")
    assert run.exit_code == 0, run.stderr
    folder = Path(str(run.at("snapshot")))
    header = read_header(folder / "header.json")
    ended = datetime.now(UTC) - timedelta(days=age_days)
    (folder / "header.json").write_bytes(header.model_copy(update={"ended_at": ended}).to_bytes())
    return folder


def states(run: CompletedRun) -> list[tuple[object, object]]:
    items = run.at("snapshots")
    assert isinstance(items, list)
    return [(item["snapshot"], item["state"]) for item in items]


def test_all_snapshots_are_listed_newest_first_with_their_state(
    blue: Store, greenfly: Greenfly, tmp_path: Path
) -> None:
    fill(blue.url, keys=100, seed=71)
    old, damaged, gone, new = (take(greenfly, blue, age) for age in (9, 5, 3, 1))
    (damaged / "dump.rdb").write_bytes(b"short")
    shutil.rmtree(gone)
    (old.parent / "left.partial").mkdir()
    (old.parent / "left.partial" / "lock").touch()
    (old.parent / "not a snapshot").mkdir()
    sealed = take_here(blue, old.parent / "sealed", new_key(tmp_path / "key")).directory

    run = snapshot(greenfly, "list")

    found = states(run)
    assert set(found) == {
        ("left", "partial"),
        (sealed.name, "whole"),
        (gone.name, "missing"),
        (new.name, "whole"),
        (damaged.name, "damaged"),
        (old.name, "whole"),
    }
    whole = [name for name, state in found if state == "whole"]
    assert whole == [sealed.name, new.name, old.name]
    items = {item["snapshot"]: item for item in run.json()["snapshots"]}  # type: ignore[attr-defined]
    assert (items[new.name]["keys"], items[new.name]["encrypted"]) == (100, False)
    assert items[sealed.name]["encrypted"] is True
    assert items[new.name]["source"] == blue.url
    assert items[new.name]["bytes"] == sum(path.stat().st_size for path in new.iterdir())
    assert "dump.rdb" in items[damaged.name]["note"]
    plain = run_here(greenfly, "snapshot", "list").stdout.splitlines()
    assert [line.split()[0] for line in plain] == [name for name, _ in found]


def test_no_snapshot_at_all_is_said(greenfly: Greenfly) -> None:
    assert snapshot(greenfly, "list").at("snapshots") == []
    assert "no snapshot" in run_here(greenfly, "snapshot", "list").stdout


def test_prune_removes_what_the_rules_let_go_and_records_it(blue: Store, greenfly: Greenfly) -> None:
    blue.client.set("k", "v")
    folders = [take(greenfly, blue, age) for age in (40, 20, 10, 1)]

    tried = snapshot(greenfly, "prune", "--keep", "2", "--older-than", "15d", "--dry-run")
    there = [folder.is_dir() for folder in folders]
    done = snapshot(greenfly, "prune", "--keep", "2", "--older-than", "15d")

    assert there == [True] * 4
    assert (tried.at("removed"), tried.at("dry_run")) == (done.at("removed"), True) == (2, True)
    assert [folder.is_dir() for folder in folders] == [False, False, True, True]
    assert {*folders[0].parent.iterdir()} == {*folders[2:]}
    assert [name for name, _ in states(snapshot(greenfly, "list"))] == [f.name for f in reversed(folders[2:])]
    every = dict(states(snapshot(greenfly, "list", "--all")))
    assert [every[folder.name] for folder in folders] == ["pruned", "pruned", "whole", "whole"]
    assert run_here(greenfly, "audit", "verify").exit_code == 0
    assert snapshot(greenfly, "prune", "--keep", "1", "--older-than", "15d").at("removed") == 0


def test_prune_takes_its_rules_from_the_settings_and_wants_some(blue: Store, greenfly: Greenfly) -> None:
    blue.client.set("k", "v")
    folders = [take(greenfly, blue, age) for age in (40, 1)]

    without = snapshot(greenfly, "prune")
    wrong = snapshot(greenfly, "prune", "--older-than", "soon")
    (greenfly.folder / "greenfly.toml").write_text("[snapshot]\nkeep = 1\nmax_age_days = 30\n")
    done = snapshot(greenfly, "prune")

    assert (without.exit_code, wrong.exit_code, done.exit_code) == (2, 2, 0)
    assert [folder.is_dir() for folder in folders] == [False, True]


def test_prune_leaves_alone_what_is_not_its_own(blue: Store, greenfly: Greenfly, tmp_path: Path) -> None:
    blue.client.set("k", "v")
    noted, elsewhere, newest = (take(greenfly, blue, age) for age in (40, 30, 1))
    (noted / "notes.txt").write_text("keep me")
    shutil.move(elsewhere, tmp_path / "elsewhere")
    (noted.parent / elsewhere.name).symlink_to(tmp_path / "elsewhere")
    (noted.parent / "mine.partial").mkdir()
    (noted.parent / "mine.partial" / "thesis.txt").write_text("")
    os.utime(noted.parent / "mine.partial", (0, 0))

    done = snapshot(greenfly, "prune", "--keep", "1")

    assert done.at("removed") == 0
    assert (noted / "notes.txt").is_file()
    assert (tmp_path / "elsewhere" / "dump.rdb").is_file()
    assert (noted.parent / "mine.partial" / "thesis.txt").is_file()
    assert newest.is_dir()


def test_prune_removes_what_a_killed_process_left_and_not_what_a_live_one_writes(
    blue: Store, greenfly: Greenfly
) -> None:
    fill(blue.url, keys=8_000, seed=72)
    process = greenfly.start(
        *("snapshot", "take", "--source", blue.url, "--json"),
        env={"GREENFLY_SNAPSHOT__BATCH_KEYS": "1", "GREENFLY_LEASE_SECONDS": "1"},
    )
    folder = greenfly.state_dir / "snapshots"
    deadline = monotonic() + 30
    while not list(folder.glob("*.partial/manifest.parquet")):
        assert process.poll() is None, "the snapshot ended before it could be stopped"
        assert monotonic() < deadline
        sleep(0.01)
    [partial] = folder.iterdir()

    while_it_runs = snapshot(greenfly, "prune", "--keep", "1")
    assert (while_it_runs.at("removed"), partial.is_dir()) == (0, True)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=30)
    sleep(1.1)  # its lease
    afterwards = snapshot(greenfly, "prune", "--keep", "1")

    assert (afterwards.at("removed"), partial.exists()) == (1, False)


# -- diff --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sealed", [False, True])
def test_what_changed_between_two_snapshots_is_told(
    blue: Store, greenfly: Greenfly, tmp_path: Path, sealed: bool
) -> None:
    fill(blue.url, keys=400, seed=73)
    recipients = [new_key(tmp_path / "key")] if sealed else []
    flags = ("--identity-file", str(tmp_path / "key")) if sealed else ()
    client = blue.client
    client.set("user:1", "before")
    client.set("user:2", "v", px=3_600_000)
    client.set("cart:1", "v")
    client.set("plain", "v")
    first = take_here(blue, tmp_path / "first", *recipients).directory
    client.set("user:1", "after")
    client.persist("user:2")
    client.delete("cart:1")
    client.rpush("cart:1", "now a list")
    client.delete("plain")
    blue.database(2).set("order:9", "new")
    second = take_here(blue, tmp_path / "second", *recipients).directory

    run = snapshot(greenfly, "diff", str(first), str(second), *flags)
    same = snapshot(greenfly, "diff", str(first), str(first), *flags)
    back = snapshot(greenfly, "diff", str(second), str(first), *flags)

    assert (run.exit_code, same.exit_code) == (1, 0), run.stderr
    wanted = {"added": 1, "removed": 1, "changed": 3}
    assert {name: run.at(name) for name in wanted} == wanted
    assert [run.at(f"changed_{name}") for name in ("value", "expiry", "type")] == [1, 1, 1]
    assert {(item["key"], *item["change"]) for item in run.json()["keys"]} == {  # type: ignore[attr-defined]
        ("user:1", "value"),
        ("user:2", "expiry"),
        ("cart:1", "type"),
        ("plain", "removed"),
        ("order:9", "added"),
    }
    assert {"database": 2, "kind": "string", "prefix": "order", "added": 1} in run.json()["groups"]  # type: ignore[operator]
    assert {"database": 0, "kind": "string", "prefix": "user", "value": 1, "expiry": 1} in run.json()[
        "groups"
    ]  # type: ignore[operator]
    assert (same.at("added"), same.at("removed"), same.at("changed"), same.at("keys")) == (0, 0, 0, [])
    assert (back.at("added"), back.at("removed"), back.at("changed")) == (1, 1, 3)


def test_the_separator_and_the_number_of_listed_keys_are_chosen(
    blue: Store, greenfly: Greenfly, tmp_path: Path
) -> None:
    first = take_here(blue, tmp_path / "first").directory
    for number in range(30):
        blue.client.set(f"a/{number}:x", "v")
    second = take_here(blue, tmp_path / "second").directory

    run = snapshot(greenfly, "diff", str(first), str(second), "--prefix-separator", "/", "--keys", "4")
    shown = run_here(greenfly, "snapshot", "diff", str(first), str(second))
    empty = snapshot(greenfly, "diff", str(first), str(second), "--prefix-separator", "")

    assert run.at("groups") == [{"database": 0, "kind": "string", "prefix": "a", "added": 30}]
    assert len(run.json()["keys"]) == 4  # type: ignore[arg-type]
    assert "30 added" in shown.stdout
    assert shown.stdout.count("+ db 0") == 20
    assert empty.exit_code == 2


def test_digests_of_two_definitions_are_refused(blue: Store, greenfly: Greenfly, tmp_path: Path) -> None:
    first, second = (take_here(blue, tmp_path / name).directory for name in ("first", "second"))
    header = read_header(second / "header.json")
    other = header.model_copy(update={"checksum_definition": "other"})
    (second / "header.json").write_bytes(other.to_bytes())

    run = snapshot(greenfly, "diff", str(first), str(second))

    assert (run.exit_code, run.at("error", "kind")) == (4, "Refused")


@pytest.mark.dragonfly
def test_a_type_without_a_digest_is_compared_by_its_bytes(
    green_dragonfly: Store, greenfly: Greenfly, tmp_path: Path
) -> None:
    client = green_dragonfly.client
    client.execute_command("BF.ADD", "seen", "a")  # type: ignore[no-untyped-call]
    first = take_here(green_dragonfly, tmp_path / "first").directory
    again = take_here(green_dragonfly, tmp_path / "again").directory
    client.execute_command("BF.ADD", "seen", "b")  # type: ignore[no-untyped-call]
    second = take_here(green_dragonfly, tmp_path / "second").directory

    same = snapshot(greenfly, "diff", str(first), str(again))
    run = snapshot(greenfly, "diff", str(first), str(second))

    assert (same.exit_code, same.at("uncompared")) == (0, 0)
    assert (run.exit_code, run.at("changed"), run.at("uncompared")) == (3, 0, 1)


def test_snapshots_are_named_by_a_part_of_their_id(blue: Store, greenfly: Greenfly) -> None:
    blue.client.set("k", "v")
    folders = [take(greenfly, blue, 1), take(greenfly, blue)]

    run = snapshot(greenfly, "diff", folders[0].name[-6:], "latest")
    ambiguous = snapshot(greenfly, "verify", folders[0].name[:4])

    assert (run.exit_code, run.at("before"), run.at("after")) == (0, *map(str, folders))
    assert ambiguous.exit_code == 6
    assert folders[0].name in str(ambiguous.at("error", "problem"))


def test_the_folder_is_written_as_documented(blue: Store, tmp_path: Path) -> None:
    blue.client.set("k", "v")
    folder = take_here(blue, tmp_path / "taken").directory

    values = json.loads((folder / "header.json").read_text())

    assert values["format"] == "greenfly-snapshot/2"
    assert list(values)[-1] == "header_xxh3_128"
    assert dig(values, "files", "dump.rdb", "bytes") == (folder / "dump.rdb").stat().st_size
