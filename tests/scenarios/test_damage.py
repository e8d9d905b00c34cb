"""Someone damages the copy by hand: verify names every damaged key, its class, and no other key."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from greenfly.demo.dataset import fill
from tests.cli import CompletedRun, Greenfly, dig
from tests.damage import damage
from tests.inprocess import run_here
from tests.servers import Store

Triple = tuple[int, bytes, str]


def open_findings(run: CompletedRun) -> list[Triple]:
    """(database, key, class) of every open finding in the run's JSON report."""
    path = run.at("report", "json")
    assert isinstance(path, str)
    report = json.loads(Path(path).read_text("utf-8"))
    findings = dig(report, "findings")
    assert isinstance(findings, list)
    return [_triple(finding) for finding in findings if dig(finding, "state") == "open"]


def _triple(finding: object) -> Triple:
    database, name, kind = dig(finding, "database"), dig(finding, "key", "hex"), dig(finding, "class")
    assert isinstance(database, int)
    assert isinstance(name, str)
    assert isinstance(kind, str)
    return database, bytes.fromhex(name), kind


@pytest.mark.parametrize("seed", [11, 12])
def test_every_damaged_key_is_found_and_no_other(
    blue: Store, green: Store, greenfly: Greenfly, seed: int
) -> None:
    fill(blue.url, keys=8_000, seed=seed)
    moved = run_here(greenfly, "migrate", "--source", blue.url, "--target", green.url, "--json")
    assert (moved.exit_code, moved.at("verdict")) == (0, "PASS"), moved.stderr
    done = damage(green.url, seed)

    checked = run_here(greenfly, "verify", "--source", blue.url, "--target", green.url, "--json")

    assert (checked.exit_code, checked.at("verdict")) == (1, "FAIL"), checked.stderr
    expected = {(d.database, d.key): (d.expected, d.kind) for d in done}
    found = open_findings(checked)
    named = {(database, key): kind for database, key, kind in found}
    assert [d for d in done if (d.database, d.key) not in named] == []
    assert [finding for finding in found if finding[:2] not in expected] == []
    assert {expected[place] for place, kind in named.items() if kind != expected[place][0]} == set()
    assert len(found) == len(expected) == 240
    assert checked.at("findings", "open") == Counter(d.expected for d in done)


def test_an_undamaged_copy_has_no_finding(blue: Store, green: Store, greenfly: Greenfly) -> None:
    fill(blue.url, keys=2_000, seed=5)
    moved = run_here(greenfly, "migrate", "--source", blue.url, "--target", green.url, "--json")
    assert moved.exit_code == 0, moved.stderr

    checked = run_here(greenfly, "verify", "--source", blue.url, "--target", green.url, "--json")

    assert (checked.exit_code, checked.at("verdict")) == (0, "PASS"), checked.stderr
    assert open_findings(checked) == []
