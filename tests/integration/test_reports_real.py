"""Reports of real migrations: what happened between two servers stands in the report."""

from __future__ import annotations

import json
import signal
import subprocess
from time import monotonic, sleep

import pytest

from tests.cli import Greenfly, dig
from tests.conftest import StartServer
from tests.inprocess import run_here
from tests.servers import Store

YEARS_20_MS = int(20 * 365.25 * 86_400_000)


def report_of(greenfly: Greenfly, which: int = -1) -> dict[str, object]:
    """The JSON report of one of the runs, oldest first."""
    reports = [
        json.loads(path.read_text("utf-8")) for path in greenfly.state_dir.glob("reports/*/report.json")
    ]
    value = sorted(reports, key=lambda report: str(dig(report, "run", "started_at")))[which]
    assert isinstance(value, dict)
    return value


def dig_list(value: object, *path: str | int) -> list[dict[str, object]]:
    found = dig(value, *path)
    assert isinstance(found, list)
    return found


def test_rules_and_collisions_are_reported(blue: Store, green: Store, greenfly: Greenfly) -> None:
    blue.client.mset({f"user:{n}": n for n in range(20)} | {"user:1:tmp": "t", "left": "l"})
    blue.client.mset({"old:1": "from", "new:1": "onto"})
    blue.client.rpush("user:list", 1)
    run = run_here(
        greenfly,
        *("migrate", "--source", blue.url, "--target", green.url, "--no-snapshot", "--exclude", "*:tmp"),
        *("--include", "user:*", "--include", "old:*", "--include", "new:*", "--exclude-type", "list"),
        *("--rename", "old:=new:"),
    )
    assert run.exit_code == 1, run.stderr
    assert "  left out  3 keys: 1 by exclude *:tmp, 1 by include, 1 by type list\n" in run.stdout
    report = report_of(greenfly)
    left_out = dig(report, "rules", "left_out")
    assert isinstance(left_out, list)
    assert {row["rule"]: (row["stream"], row["verify"]) for row in left_out} == {
        "include": (1, 1),
        "exclude *:tmp": (1, 1),
        "type list": (1, 1),
    }
    # One of the two values is on the target; the other key's finding says that its place was taken.
    findings = report["findings"]
    assert isinstance(findings, list)
    assert {row["class"] for row in findings} == {"collision"}


@pytest.mark.dragonfly
def test_exceptions_and_big_values_are_reported(
    blue: Store, green_dragonfly: Store, greenfly: Greenfly
) -> None:
    blue.client.set("far", "x", px=YEARS_20_MS)
    blue.client.set("big", b"\xff" * 3_000_000)
    green_dragonfly.client.set("only here", 1)
    run = run_here(
        greenfly,
        *("migrate", "--source", blue.url, "--target", green_dragonfly.url, "--no-snapshot"),
        *("--conflict", "replace", "--allow-extra"),
    )
    assert run.exit_code == 0, run.stderr + run.stdout
    report = report_of(greenfly)
    groups = report["exceptions"]
    assert isinstance(groups, list)
    assert {group["rule"]: group["by_class"] for group in groups} == {
        "expiry-limit": {"expiry": 1},
        "verify.extra_keys=allow": {"extra": 1},
    }
    assert (
        dig(report, "copy", "big") == dig(report, "copy", "rewritten") == dig(report, "coverage", "big") == 1
    )
    assert "1 written with typed commands, 1 too big to be read whole" in run.stdout


def test_a_repair_and_what_it_repaired_name_each_other(
    blue: Store, green_redis: Store, greenfly: Greenfly
) -> None:
    servers = ("--source", blue.url, "--target", green_redis.url)
    blue.client.mset({"same": 1, "gone": 2})
    green_redis.client.set("same", 1)
    assert run_here(greenfly, "verify", *servers).exit_code == 1
    repair = run_here(greenfly, "repair", "latest", *servers)
    assert repair.exit_code == 0, repair.stderr
    report = report_of(greenfly)
    parent = dig(report, "repairs", "of")
    assert dig(report, "repairs", "actions") == {"copied": 1}
    log = report["repair_log"]
    assert isinstance(log, list)
    assert [(bytes.fromhex(row["key"]["hex"]), row["action"]) for row in log] == [(b"gone", "copied")]
    assert log[0]["before"]["target"] is None
    assert log[0]["after"]["target"] == log[0]["after"]["source"]
    assert dig(report, "verdict", "contradictions") == []
    assert run_here(greenfly, "report", str(parent)).exit_code == 0
    before = report_of(greenfly, 0)
    assert dig(before, "verdict", "verdict") == "FAIL"
    assert dig(before, "verdict", "contradictions") == []
    assert dig(before, "repairs", "runs", 0, "run_id") == dig(report, "run", "run_id")
    assert dig(before, "coverage", "last_recheck_at") is not None
    assert dig(before, "finding_shapes") is None
    assert run_here(greenfly, "verify", *servers).exit_code == 0
    after = report_of(greenfly)
    assert dig(after, "comparison", "previous_id") == parent
    assert {"verdict", "findings, repaired missing"} & {
        row["what"] for row in dig_list(after, "comparison", "changes")
    }


def test_incidents_and_workers_are_reported(start_redis: StartServer, greenfly: Greenfly) -> None:
    blue, green = start_redis(), start_redis()
    blue.client.mset({f"key:{n}": n for n in range(45_000)})
    process = greenfly.start(
        *("migrate", "--source", blue.url, "--target", green.url, "--no-snapshot", "-q"),
        *("--workers", "2", "--keys-per-second", "25000", "--reconnect", "20"),
    )
    _wait_for_keys(green, process)
    blue.client.client_kill_filter(_type="normal", skipme=True)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err + out
    report = report_of(greenfly)
    assert dig(report, "run", "workers") == 2
    assert dig(report, "incidents", "counts", "server.lost") == dig(
        report, "incidents", "counts", "server.back"
    )
    away = dig(report, "incidents", "away_seconds")
    assert isinstance(away, float)
    assert 0 < away < 60
    for side in ("source_after", "target_after"):
        assert dig(report, side, "keys") == 45_000
    held = dig(report, "throttle", 0)
    over_time = dig(held, "latency", 0, "over_time")
    assert isinstance(over_time, list)
    assert len(over_time) > 1
    assert all(0 < point["mean"] <= point["worst"] for point in over_time)
    assert dig(held, "phase") == "stream"
    waited = dig(held, "waited", "cap on keys")
    assert isinstance(waited, float)
    assert waited > 1
    ranges = report["ranges"]
    assert isinstance(ranges, list)
    stream = next(row for row in ranges if row["phase"] == "stream")
    assert stream["ranges"] == stream["done"] == stream["begun"] > 1


def _wait_for_keys(store: Store, process: subprocess.Popen[str]) -> None:
    give_up = monotonic() + 60
    while not store.client.dbsize():
        assert process.poll() is None
        if monotonic() > give_up:
            process.send_signal(signal.SIGTERM)
            pytest.fail("nothing was copied")
        sleep(0.05)


def test_a_replica_is_named_in_the_report(
    start_redis: StartServer, green_redis: Store, greenfly: Greenfly
) -> None:
    blue = start_redis("--repl-diskless-sync-delay", "0")
    blue.client.set("a", 1)
    where = blue.client.connection_pool.connection_kwargs
    replica = start_redis("--replicaof", f"{where['host']} {where['port']}")
    give_up = monotonic() + 30
    while replica.client.info("replication")["master_link_status"] != "up":
        assert monotonic() < give_up
        sleep(0.05)
    run = run_here(
        greenfly,
        *("migrate", "--source", blue.url, "--target", green_redis.url, "--no-snapshot"),
        *("--replica", replica.url),
    )
    assert run.exit_code == 0, run.stderr
    report = report_of(greenfly)
    assert dig(report, "source", "address") == blue.url
    assert dig(report, "source", "read_from") == replica.url
    assert dig(report, "source", "server_role") == "replica"
