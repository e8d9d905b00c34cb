"""The record of a real migration: signed when it ends, exported, checked, tampered with, all by the command line."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cli import CompletedRun, Greenfly
from tests.inprocess import between, run_here
from tests.servers import Store


@dataclass(frozen=True)
class Operator:
    """Somebody with a key, who migrated something."""

    greenfly: Greenfly
    run: str
    public_key: str
    env: dict[str, str]
    kept: Path

    def audit(self, *arguments: str, signs: bool = True) -> CompletedRun:
        return run_here(self.greenfly, "audit", *arguments, env=self.env if signs else None)


@pytest.fixture
def operator(blue: Store, green_redis: Store, greenfly: Greenfly, tmp_path: Path) -> Operator:
    made = run_here(greenfly, "audit", "keygen", str(tmp_path / "key"), "--json")
    env = {
        "GREENFLY_AUDIT__KEY_FILE": str(tmp_path / "key"),
        "GREENFLY_AUDIT__CHECKPOINT_FILE": str(tmp_path / "kept.jsonl"),
    }
    blue.client.set("k", "v")
    run = run_here(greenfly, "migrate", *between(blue.url, green_redis.url), "--json", env=env)
    assert (made.exit_code, run.exit_code) == (0, 0), run.stderr
    return Operator(greenfly, str(run.at("run")), str(made.at("public_key")), env, tmp_path / "kept.jsonl")


def test_a_run_is_signed_when_it_ends_and_its_bundle_is_proven_elsewhere(
    operator: Operator, tmp_path: Path
) -> None:
    assert len(operator.kept.read_text().splitlines()) == 1
    ledger = operator.audit("verify", "latest", "--json")
    assert (ledger.exit_code, ledger.at("intact"), ledger.at("signed")) == (0, True, "trusted")
    for name in ("bundle", "bundle.zip"):
        made = operator.audit("export", "latest", "--to", str(tmp_path / name), "--json")
        assert (made.exit_code, made.at("run"), made.at("public_key")) == (
            0,
            operator.run,
            operator.public_key,
        )
        shutil.move(tmp_path / name, tmp_path / f"handed-{name}")
    shutil.rmtree(operator.greenfly.state_dir)

    for name in ("handed-bundle", "handed-bundle.zip"):
        bundle = str(tmp_path / name)
        found = operator.audit("verify", bundle, "--trust", operator.public_key, "--json", signs=False)
        assert (found.exit_code, found.at("finding"), found.at("run")) == (0, "proven", operator.run)
        stranger = operator.audit("verify", bundle, "--json", signs=False)
        assert (stranger.exit_code, stranger.at("finding")) == (3, "unknown-key")
    assert not operator.greenfly.state_dir.exists()


def test_a_tampered_bundle_is_broken_and_the_place_told(operator: Operator, tmp_path: Path) -> None:
    operator.audit("export", operator.run, "--to", str(tmp_path / "bundle"))
    path = tmp_path / "bundle" / "report.json"
    path.write_text(path.read_text().replace('"verdict": "PASS"', '"verdict": "FAIL"', 1))

    told = operator.audit("verify", str(tmp_path / "bundle"))
    as_json = operator.audit("verify", str(tmp_path / "bundle"), "--json")

    assert (told.exit_code, as_json.exit_code) == (1, 1)
    assert "report.json, bytes" in told.stdout
    assert as_json.at("problems", 0, "file") == "report.json"
    assert as_json.at("problems", 0, "kind") == "changed"


def test_an_unsigned_bundle_says_that_it_is(operator: Operator, tmp_path: Path) -> None:
    made = operator.audit("export", operator.run, "--to", str(tmp_path / "b.zip"), signs=False)
    found = operator.audit("verify", str(tmp_path / "b.zip"), signs=False)

    assert made.exit_code == 0
    assert "not signed" in made.stdout
    assert found.exit_code == 3
    assert "unsigned" in found.stdout


def test_a_cut_off_tail_is_noticed_where_checkpoints_are_kept_elsewhere(operator: Operator) -> None:
    made = operator.audit("checkpoint", "--json")
    assert made.exit_code == 0
    assert len(operator.kept.read_text().splitlines()) == 2
    with closing(sqlite3.connect(operator.greenfly.state_dir / "ledger.sqlite3")) as database:
        database.execute("DELETE FROM event WHERE sequence > 5")
        database.commit()

    alone = operator.audit("verify", "--json", signs=False)
    found = operator.audit("verify", "--json")
    by_flags = operator.audit(
        *("verify", "--json", "--trust", operator.public_key, "--checkpoints", str(operator.kept)),
        signs=False,
    )

    assert (alone.exit_code, alone.at("intact"), alone.at("signed")) == (0, True, "unsigned")
    for told in (found, by_flags):
        assert (told.exit_code, told.at("intact"), told.at("broken_at")) == (1, False, 6)
        assert "cut off" in str(told.at("problem"))
    refused = operator.audit("export", operator.run, "--to", str(operator.kept.parent / "bundle"))
    assert refused.exit_code == 5


def test_keys_that_were_replaced_still_count_where_they_are_trusted(
    operator: Operator, tmp_path: Path
) -> None:
    new = operator.audit("keygen", str(tmp_path / "new"), "--json")
    rotated = operator.env | {"GREENFLY_AUDIT__KEY_FILE": str(tmp_path / "new")}
    both = rotated | {"GREENFLY_AUDIT__TRUSTED_KEYS": operator.public_key}

    signed = run_here(operator.greenfly, "audit", "checkpoint", env=rotated)
    forgotten = run_here(operator.greenfly, "audit", "verify", "--json", env=rotated)
    kept = run_here(operator.greenfly, "audit", "verify", "--json", env=both)

    assert (new.exit_code, signed.exit_code) == (0, 0)
    assert (forgotten.exit_code, forgotten.at("trusted_checkpoints")) == (3, 1)
    assert (kept.exit_code, kept.at("trusted_checkpoints"), kept.at("unknown_keys")) == (0, 2, [])


def test_what_cannot_be_done_ends_with_its_own_code(operator: Operator, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    to = str(tmp_path / "new")
    for arguments, code in (
        (("keygen", str(tmp_path / "key")), 2),
        (("export", "no-such-run", "--to", to), 2),
        (("export", "latest", "--to", str(tmp_path / "there")), 4),
        (("export", "latest", "--to", str(tmp_path / "no" / "such" / "place.zip")), 5),
        (("verify", str(tmp_path / "missing.zip")), 6),
        (("verify", "no-such-run"), 2),
        (("verify", "--trust", "ed25519:none"), 2),
        (("verify", "--checkpoints", str(tmp_path / "missing")), 2),
    ):
        assert operator.audit(*arguments).exit_code == code, arguments
    assert operator.audit("checkpoint", signs=False).exit_code == 2
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("command", ["keygen", "checkpoint", "export", "verify"])
def test_each_command_has_a_help(greenfly: Greenfly, command: str) -> None:
    assert run_here(greenfly, "audit", command, "--help").exit_code == 0
