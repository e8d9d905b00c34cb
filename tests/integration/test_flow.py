"""The migrate flow through a real Prefect server on loopback."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from greenfly.demo.dataset import fill
from integrity.settings import Settings
from tests.cli import Greenfly, dig
from tests.conftest import StartServer
from tests.oracle import compare
from tests.servers import Store

pytestmark = pytest.mark.orchestrator

PASSWORD = "orchestrated-secret"


def test_the_flow_does_the_same_job(blue: Store, green: Store, greenfly: Greenfly) -> None:
    fill(blue.url, 2_000, seed=5)
    run = greenfly("flow", "migrate", "--source", blue.url, "--target", green.url, "--json", timeout=240)
    assert run.exit_code == 0, run.stderr
    assert run.at("verdict") == "PASS"
    assert compare(blue.url, green.url) == []
    with closing(sqlite3.connect(greenfly.state_dir / "ledger.sqlite3")) as ledger:
        (flow_run_id,) = ledger.execute("SELECT flow_run_id FROM run").fetchone()
    assert flow_run_id, "the ledger names the flow run"
    names = [phase["name"] for phase in _phases(run.json())]
    assert names == ["check", "assess", "snapshot", "stream", "verify"]


def test_the_flow_obeys_rules_and_shows_them(blue: Store, green_redis: Store, greenfly: Greenfly) -> None:
    blue.client.mset({"user:1": "a", "user:2": "b", "user:2:tmp": "c", "other": "d"})
    prefect_home = greenfly.state_dir / "prefect"
    prefect_home.mkdir(parents=True)
    run = greenfly(
        *("flow", "migrate", "--source", blue.url, "--target", green_redis.url, "--json", "--no-snapshot"),
        *("--include", "user:*", "--exclude", "*:tmp", "--rename", "user:=u:", "--map-db", "3=5"),
        *("--keys-per-second", "5000", "--bytes-per-second", "50MB", "--reconnect", "5", "--workers", "2"),
        env={"PREFECT_HOME": str(prefect_home)},
        timeout=240,
    )
    assert run.exit_code == 0, run.stderr
    assert sorted(green_redis.client.keys()) == [b"u:1", b"u:2"]
    stream = next(phase for phase in _phases(run.json()) if phase["name"] == "stream")
    assert dig(stream, "detail", "excluded") == {"include": 1, "exclude *:tmp": 1}
    with closing(sqlite3.connect(prefect_home / "prefect.db")) as prefect:
        (text,) = prefect.execute("SELECT parameters FROM flow_run").fetchone()
    parameters = json.loads(text)["parameters"]
    assert parameters["rules"]["include"] == ["user:*"]
    assert parameters["keys_per_second"] == 5_000
    assert "redis://" not in text


def test_parameters_are_settings_without_addresses(state_dir: Path) -> None:
    from flows.parameters import MigrateParameters

    settings = Settings.model_validate(
        {
            "source": {"url": f"redis://app:{PASSWORD}@blue.example:6379"},
            "replica": {"url": f"redis://app:{PASSWORD}@replica.example:6379"},
            "target": {"url": "redis://green.example:6379", "password": PASSWORD},
            "rules": {"include": ["a*"], "databases": {"1": 0}, "rename": ["old:=new:"], "max_bytes": "10KB"},
            "throttle": {"bytes_per_second": "1GiB"},
            "verify": {"extra_keys": "allow"},
            "copy": {"conflict": "skip"},
            "databases": [0, 1],
            "workers": 4,
            "state_dir": state_dir,
        }
    )
    text = MigrateParameters.showing(settings).model_dump_json(by_alias=True)
    for secret in (PASSWORD, "blue.example", "replica.example", "green.example"):
        assert secret not in text
    again = MigrateParameters.model_validate_json(text).settings()
    for name in ("rules", "throttle", "copying", "databases", "workers", "snapshot", "reconnect_seconds"):
        assert getattr(again, name) == getattr(settings, name), name
    assert again.verify.extra_keys is settings.verify.extra_keys


def test_parameters_leave_other_rules_as_configured(tmp_path: Path) -> None:
    from flows.parameters import MigrateParameters

    config = tmp_path / "greenfly.toml"
    config.write_text('[rules]\ninclude = ["user:*"]\nexclude = ["*:tmp"]\n')
    parameters = MigrateParameters.model_validate({"rules": {"include": ["a*"]}, "config_file": config})
    rules = parameters.settings().rules
    assert (rules.include, rules.exclude) == (("a*",), ("*:tmp",))


def test_a_refused_flow_ends_with_the_code_of_its_cause_and_leaks_no_password(
    start_redis: StartServer, green_redis: Store, greenfly: Greenfly
) -> None:
    blue = start_redis(password=PASSWORD)
    assert PASSWORD in blue.url
    green_redis.client.set("in the way", 1)
    prefect = greenfly.state_dir / "prefect"
    prefect.mkdir(parents=True)
    run = greenfly(
        *("flow", "migrate", "--source", blue.url, "--target", green_redis.url, "--json"),
        env={"PREFECT_HOME": str(prefect)},
        timeout=240,
    )
    assert run.exit_code == 4, run.stderr
    assert run.at("error", "kind") == "Refused"
    assert PASSWORD not in run.stdout + run.stderr
    # The state folder holds the ledger, the report, and Prefect's own database and log.
    files = [path for path in greenfly.state_dir.rglob("*") if path.is_file()]
    assert any(path.is_relative_to(prefect) for path in files)
    for path in files:
        assert PASSWORD.encode() not in path.read_bytes(), path


def _phases(outcome: dict[str, object]) -> list[dict[str, object]]:
    phases = outcome["phases"]
    assert isinstance(phases, list)
    return phases
