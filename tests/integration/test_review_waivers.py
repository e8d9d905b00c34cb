"""Differences that somebody let pass: what a waiver does to later verdicts and to the gate of a cutover."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import update

from integrity.ledger import Ledger, open_ledger
from integrity.ledger.database import writing
from integrity.ledger.review_models import FindingWaiver
from integrity.settings import load_settings
from tests.cli import CompletedRun, Greenfly, dig
from tests.conftest import StartServer
from tests.inprocess import between, run_here
from tests.live import Live, deep
from tests.servers import Store

PATTERN = ("--class", "value", "--pattern", "cache:*", "--why", "a cache warms up", "--as", "grace")


@pytest.fixture
def ledger(greenfly: Greenfly) -> Iterator[Ledger]:
    settings = load_settings({"state_dir": greenfly.state_dir}, environ={}).settings
    with closing(open_ledger(settings)) as opened:
        yield opened


@pytest.fixture
def pair(blue: Store, green_redis: Store) -> tuple[Store, Store]:
    """Two cached keys differ, one key is equal."""
    for store, value in ((blue, "old"), (green_redis, "new")):
        store.client.mset({"cache:1": value, "cache:2": value, "order:1": "paid"})
    return blue, green_redis


def verify(greenfly: Greenfly, pair: tuple[Store, Store], **env: str) -> CompletedRun:
    settings = {"GREENFLY_VERIFY__RECHECKS": "1", **env}
    return run_here(greenfly, "verify", *between(*(store.url for store in pair)), "--json", env=settings)


def waive(greenfly: Greenfly, *flags: str) -> CompletedRun:
    return run_here(greenfly, "review", "waive", "latest", *flags, "--json")


def outcome(run: CompletedRun) -> tuple[int, str]:
    return run.exit_code, str(run.at("verdict"))


def report_of(run: CompletedRun) -> object:
    return json.loads(Path(str(run.at("report", "json"))).read_text("utf-8"))


FAIL, EXCEPTIONS = (1, "FAIL"), (0, "PASS WITH EXCEPTIONS")


def test_what_was_let_pass_is_an_exception_of_later_runs_until_the_waiver_ends(
    greenfly: Greenfly, ledger: Ledger, pair: tuple[Store, Store]
) -> None:
    first = verify(greenfly, pair)
    assert outcome(first) == FAIL
    given = waive(greenfly, *PATTERN)
    assert (given.exit_code, given.at("covers"), given.at("at_most")) == (0, 2, 1_000)
    assert ledger.find_run(str(first.at("run"))).verdict == "FAIL", "a run that has ended stays as it is"

    passed = verify(greenfly, pair)
    assert outcome(passed) == EXCEPTIONS
    report = report_of(passed)
    findings = dig(report, "findings")
    assert isinstance(findings, list)
    assert [(dig(each, "state"), dig(each, "rule")) for each in findings] == [("exception", "waiver:1")] * 2
    group = dig(report, "exceptions", 0)
    assert [dig(group, name) for name in ("rule", "owner")] == ["waiver:1", "grace"]
    assert dig(group, "by_class", "value") == 2
    assert "a cache warms up" in str(dig(group, "meaning"))
    applied = [e for e in ledger.events(str(passed.at("run"))) if e.kind == "finding-waivers.applied"]
    assert json.loads(applied[0].payload)["applied"] == [{"id": 1, "by": "grace", "findings": 2}]

    assert outcome(verify(greenfly, pair, GREENFLY_REVIEW__HONOUR_WAIVERS="false")) == FAIL
    with writing(ledger.engine) as connection:
        until = FindingWaiver.until
        connection.execute(update(FindingWaiver).values({until: datetime.now(UTC) - timedelta(seconds=1)}))
    assert outcome(verify(greenfly, pair)) == FAIL

    assert waive(greenfly, *PATTERN).exit_code == 0
    assert outcome(verify(greenfly, pair)) == EXCEPTIONS
    assert run_here(greenfly, "review", "unwaive", "2").exit_code == 0
    assert outcome(verify(greenfly, pair)) == FAIL
    listed = run_here(greenfly, "review", "waivers", "--json")
    assert [listed.at("waivers", place, "state") for place in (0, 1)] == ["expired", "withdrawn"]


def test_a_waiver_lets_nothing_else_pass(greenfly: Greenfly, pair: tuple[Store, Store]) -> None:
    blue, green = pair
    verify(greenfly, pair)
    assert waive(greenfly, *PATTERN).exit_code == 0

    green.client.delete("cache:1")
    gone = verify(greenfly, pair)
    assert outcome(gone) == FAIL
    assert "missing" in str(gone.at("reason"))

    green.client.rpush("cache:1", "new")
    assert outcome(verify(greenfly, pair)) == FAIL, "of another type now"

    blue.client.set("cache:1", "x")
    green.client.set("cache:1", "x")
    blue.client.set("order:1", "unpaid")
    assert outcome(verify(greenfly, pair)) == FAIL, "another key"

    green.client.set("order:1", "unpaid")
    assert outcome(verify(greenfly, pair)) == EXCEPTIONS
    assert outcome(verify(greenfly, (green, blue))) == FAIL, "the other way round"


def test_a_waiver_that_covers_more_than_it_was_given_for_lets_none_pass(
    greenfly: Greenfly, pair: tuple[Store, Store]
) -> None:
    blue, _ = pair
    verify(greenfly, pair)
    assert waive(greenfly, *PATTERN, "--at-most", "1").exit_code == 4
    assert waive(greenfly, *PATTERN, "--at-most", "2").exit_code == 0
    assert outcome(verify(greenfly, pair)) == EXCEPTIONS

    for store, value in zip(pair, ("old", "new"), strict=True):
        store.client.set("cache:3", value)
    failed = verify(greenfly, pair)
    assert outcome(failed) == FAIL
    assert "3 value" in str(failed.at("reason"))
    assert "Waiver 1 covers more than the 2 findings" in str(failed.at("reason"))

    own = verify(greenfly, pair, GREENFLY_OPERATOR="grace", GREENFLY_REVIEW__SEPARATE_REVIEWER="true")
    assert "Waiver 1 was given by grace, who started this run" in str(own.at("reason"))

    wide = {"GREENFLY_REVIEW__MAX_WAIVED_FINDINGS": "2"}
    flags = ("--class", "value", "--pattern", "*", "--why", "all", "--as", "grace", "--at-most", "100")
    assert run_here(greenfly, "review", "waive", "latest", *flags, env=wide).exit_code == 4
    assert blue.client.get("cache:3") == b"old"


def test_one_key_of_any_bytes_is_let_pass(greenfly: Greenfly, pair: tuple[Store, Store]) -> None:
    blue, green = pair
    for store, value in ((blue, "new"), (green, "new")):
        store.client.mset({"cache:1": value, "cache:2": value})
    hostile = b"<b>\xff\x00*[\x1b[31m"
    blue.client.set(hostile, 1)
    assert outcome(verify(greenfly, pair)) == FAIL
    flags = ("--class", "missing", "--key-hex", hostile.hex(), "--database", "0", "--why", "x", "--as", "ada")
    assert waive(greenfly, *flags).at("covers") == 1

    assert outcome(verify(greenfly, pair)) == EXCEPTIONS
    listed = run_here(greenfly, "review", "waivers").stdout
    assert r"<b>\xff\x00*[\x1b[31m" in listed
    assert "\x1b" not in listed


@deep
def test_a_cutover_goes_by_what_was_let_pass_while_the_waiver_holds(
    start_redis: StartServer, tmp_path: Path
) -> None:
    blue, green = start_redis(), start_redis("--proto-max-bulk-len", "1mb")
    settings = '[sync]\ncompare_seconds = 3\n[cutover]\nconfirm = "environment"\n'
    with Live(tmp_path / "live", blue.url, green.url, settings) as live:
        blue.client.set("small", 1)
        live.sync("--quiet")
        live.wait_until_clean()
        blue.client.set("large", b"x" * 2_000_000)
        live.wait_until(lambda: bool((live.board() or {}).get("stuck")), "a stuck key", 40.0)

        def verdict() -> tuple[object, str]:
            gates = dig(live.run("cutover", "--dry-run", "--json").json(), "gates")
            assert isinstance(gates, list)
            (found,) = (each for each in gates if dig(each, "name") == "verdict")
            return dig(found, "passed"), str(dig(found, "value"))

        # While everything is compared, what was stuck is tried again.
        live.wait_until(lambda: verdict() == (False, "1 key differing"), "the gate is closed", 20.0)
        flags = ("--key", "large", "--why", "rebuilt", "--as", "grace", "--json")
        passing = "SELECT id FROM finding WHERE rule = ? AND state = 'exception'"
        for finding_class in ("missing", "refused"):
            given = live.run("review", "waive", "latest", "--class", finding_class, *flags)
            assert given.code == 0, given.err
        live.wait_until(lambda: bool(live.rows(passing, "waiver:1")), "it is let pass", 40.0)
        live.wait_until(lambda: (live.board() or {}).get("stuck") == 0, "nothing is stuck", 40.0)
        passed, value = verdict()
        assert (passed, "1 finding let pass" in value) == (True, True), value

        assert live.run("review", "unwaive", "1").code == 0
        passed, value = verdict()
        assert passed is False, value
        live.wait_until(lambda: (live.board() or {}).get("stuck") == 1, "it is stuck again", 40.0)
        assert live.run("review", "waive", "latest", "--class", "missing", *flags).code == 0
        live.wait_until(lambda: bool(live.rows(passing, "waiver:3")), "it is let pass again", 40.0)
        live.wait_until(lambda: (live.board() or {}).get("stuck") == 0, "nothing is stuck", 40.0)

        done = live.run("cutover", "--yes", "--json")
        assert done.code == 0, done.out + done.err
        assert live.environment()["DRAGONFLY_URL"] == green.url
