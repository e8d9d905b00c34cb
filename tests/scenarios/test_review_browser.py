"""The review page in a real browser: signed in, found, decided, refused, and watched while a run moves.

One ledger, one page and one browser serve all of them; each test signs in anew.  ``GREENFLY_TEST_PICTURES=FOLDER``
keeps the pictures that the documentation shows.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import Final
from urllib.parse import urlsplit

import pytest

from greenfly.demo.servers import RunningServer
from integrity.ledger import Ledger, open_ledger
from integrity.ledger.models import FindingClass, PhaseName, PhaseState, RunKind, RunState, Verdict
from integrity.ledger.naming import operator_name
from integrity.ledger.review_models import Role
from integrity.ledger.store import NewFinding
from integrity.ledger.tokens import add_token
from integrity.settings import Settings, load_settings
from tests.browser import Tab, browser
from tests.live import Live
from tests.servers import Store

FINDINGS: Final = 100_000
HOSTILE: Final = b"<img src=x onerror=\"document.title='broken'\"><script>alert(1)</script>\xff\x00\r\n"
KEYS_SO_FAR: Final = (
    "Array.from(document.querySelectorAll('#progress .keys'))"
    ".map(cell => Number(cell.innerText.replaceAll(',', ''))).reduce((a, b) => a + b, 0)"
)
SETTINGS: Final = """
[cutover]
approvals = 1
confirm = "environment"
"""
PICTURES: Final = os.environ.get("GREENFLY_TEST_PICTURES")


@dataclass(frozen=True, slots=True)
class Shown:
    """The page as it is served, and who may sign in."""

    address: str
    run: str
    tokens: dict[str, str]
    ledger: Ledger
    live: Live


@pytest.fixture(scope="module")
def shown(
    tmp_path_factory: pytest.TempPathFactory, redis_blue: RunningServer, redis_green: RunningServer
) -> Iterator[Shown]:
    with Live(tmp_path_factory.mktemp("review"), redis_blue.url, redis_green.url, SETTINGS) as live:
        settings = load_settings({"state_dir": live.state}, environ={}).settings
        with closing(open_ledger(settings)) as ledger:
            run = record_findings(ledger, settings, redis_blue.url, redis_green.url)
            roles = {operator_name(): Role.REVIEWER, "grace": Role.REVIEWER, "vera": Role.VIEWER}
            people = roles | {"otto": Role.OPERATOR}
            tokens = {
                name: add_token(ledger.engine, name, role, "test", 1)[1] for name, role in people.items()
            }
            live.start("review", "--json", "--port", "0", name="review")
            told = live.folder / "review.out"
            live.wait_until(lambda: told.read_bytes().endswith(b"\n"), "the page is there")
            yield Shown(json.loads(told.read_text())["url"], run, tokens, ledger, live)


def record_findings(ledger: Ledger, settings: Settings, blue: str, green: str) -> str:
    """A comparison that the user of this process started, and that found 100,000 keys to differ."""
    run = ledger.start_run(RunKind.VERIFY, settings)
    run.identify(
        source={"engine": "redis"}, target={"engine": "redis"}, source_address=blue, target_address=green
    )
    run.phase_started(PhaseName.VERIFY, FINDINGS)
    findings = [
        NewFinding(
            FindingClass.VALUE, 0, b"user:%06d" % number, "string", "string", detail="differs at byte 3"
        )
        for number in range(FINDINGS - 1)
    ]
    hostile = NewFinding(FindingClass.MISSING, 1, HOSTILE, "string", detail="<b>bold</b>")
    run.add_findings(PhaseName.VERIFY, [*findings, hostile])
    run.phase_ended(PhaseName.VERIFY, PhaseState.DONE, keys=FINDINGS, detail={})
    run.finish(RunState.FINISHED, verdict=Verdict.FAIL, reason="100,000 keys differ.")
    return run.id


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    with browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture
def tab(chromium: Tab, shown: Shown) -> Iterator[Tab]:
    """A tab in which nobody is signed in; at the end, nothing may have gone wrong in it, or to anybody else."""
    chromium.send("Network.clearBrowserCookies")
    chromium.errors.clear()
    chromium.requests.clear()
    yield chromium
    assert chromium.errors == []
    strangers = {url for url in chromium.requests if urlsplit(url).netloc != urlsplit(shown.address).netloc}
    assert strangers == set()


def sign_in(tab: Tab, shown: Shown, name: str) -> None:
    tab.go(f"{shown.address}sign-in")
    tab.fill("input[name=token]", shown.tokens[name])
    tab.submit("main button")
    assert name in tab.text(".who")


def rows(tab: Tab) -> object:
    return tab.run("document.querySelectorAll('tbody tr').length")


def picture(tab: Tab, name: str) -> None:
    if PICTURES:
        tab.pause(0.5)  # A page that loads itself anew may be doing so.
        tab.picture(Path(PICTURES) / f"review-{name}.png")


def test_a_finding_among_many_is_found(tab: Tab, shown: Shown) -> None:
    sign_in(tab, shown, "vera")
    assert "FAIL" in tab.text()
    tab.go(f"{shown.address}runs/{shown.run}/findings")
    assert rows(tab) == 50

    tab.fill("input[name=key]", "user:077777")
    tab.submit(".filters button")
    assert rows(tab) == 1

    tab.fill("input[name=key]", "user:0777*")
    tab.fill("select[name=form]", "pattern")
    tab.submit(".filters button")
    picture(tab, "findings")
    assert rows(tab) == 50
    tab.submit("a[rel=next]")
    assert rows(tab) == 50
    assert tab.run("document.querySelector('a[rel=next]')") is None


def test_a_run_is_signed_off_by_another_person_than_who_started_it(tab: Tab, shown: Shown) -> None:
    sign_in(tab, shown, operator_name())
    tab.go(f"{shown.address}runs/{shown.run}")
    tab.submit("form.decide button[value=approved]")
    assert "cannot approve" in tab.text("[role=alert]")
    assert tab.text(".gate-word") == "open"
    picture(tab, "refused")
    tab.submit(".who button")
    assert tab.run("document.querySelector('input[name=token]') !== null") is True

    sign_in(tab, shown, "grace")
    tab.go(f"{shown.address}runs/{shown.run}")
    tab.fill("form.decide textarea", "Looked at the differing keys with the owners of user:*.")
    tab.submit("form.decide button[value=approved]")
    assert tab.text(".gate-word") == "approved"
    picture(tab, "approved")

    approved = [event for event in shown.ledger.events(shown.run) if event.kind == "approval.approved"]
    assert [event.actor for event in approved] == ["grace"]


def test_the_whole_report_is_shown_with_its_own_style(tab: Tab, shown: Shown) -> None:
    sign_in(tab, shown, "vera")
    tab.go(f"{shown.address}runs/{shown.run}/report")
    assert "100,000" in tab.text()
    assert tab.run("getComputedStyle(document.querySelector('.verdict')).borderLeftWidth") == "18px"


def test_values_are_read_when_asked_for_and_masked_until_then(
    tab: Tab, shown: Shown, blue: Store, green_redis: Store
) -> None:
    blue.client.set("user:077777", "the value on blue")
    green_redis.client.set("user:077777", "the value on green")
    sign_in(tab, shown, "grace")
    tab.go(f"{shown.address}runs/{shown.run}/findings?key=user:077777&form=text")
    tab.submit("tbody a")
    assert "the value on" not in tab.text()

    tab.submit("#now form:not(:has([name=reveal])) button")
    assert "They differ: value" in tab.text()
    assert "the value on" not in str(tab.run("document.documentElement.outerHTML"))
    picture(tab, "masked")

    tab.submit("#now form:has([name=reveal]) button")
    assert "the value on blue" in tab.text()
    assert "the value on green" in tab.text()
    revealed = [event for event in shown.ledger.events(shown.run) if event.kind == "review.values-revealed"]
    assert [json.loads(event.payload)["by"] for event in revealed] == ["grace"]


def test_a_hostile_key_is_text_wherever_it_is_shown(tab: Tab, shown: Shown) -> None:
    sign_in(tab, shown, "vera")
    tab.go(f"{shown.address}runs/{shown.run}/findings?key={HOSTILE.hex()}&form=hex")
    for place in ("list", "page"):
        assert "<script>alert(1)</script>\\xff\\x00\\x0d\\x0a" in tab.text(), place
        assert tab.run("document.querySelectorAll('main img, main script, main b').length") == 0
        assert tab.run("document.title.includes('broken')") is False
        if place == "list":
            tab.submit("tbody a")
    picture(tab, "hostile")


def test_a_migration_is_seen_to_move_with_and_without_script(
    tab: Tab, shown: Shown, blue: Store, green_redis: Store
) -> None:
    with blue.client.pipeline(transaction=False) as pipeline:
        for number in range(20_000):
            pipeline.set(f"key:{number}", number)
        pipeline.execute()
    sign_in(tab, shown, "vera")
    process = shown.live.start("migrate", "--keys-per-second", "1000", name="migrate")
    tab.go(f"{shown.address}runs/{begun(shown.ledger, RunKind.MIGRATE)}")
    tab.run("window.untouched = true")
    require_movement(tab, 4)
    picture(tab, "live")
    assert tab.run("window.untouched") is True

    tab.send("Emulation.setScriptExecutionDisabled", value=True)
    tab.go(str(tab.run("location.href")))
    require_movement(tab, 2)
    tab.send("Emulation.setScriptExecutionDisabled", value=False)
    process.terminate()
    process.wait(30)
    tab.go(shown.address)
    picture(tab, "runs")


def test_a_cutover_goes_on_when_somebody_else_approves_and_is_taken_back_from_the_page(
    tab: Tab, shown: Shown, blue: Store, green_redis: Store
) -> None:
    live = shown.live
    blue.client.mset({f"key:{number}": number for number in range(100)})
    live.sync("--quiet")
    live.wait_until_clean()
    cutover = live.start("cutover", "--yes", "--wait-for-approvals", "--json", name="cutover")
    live.wait_until(lambda: bool(live.events("approval.requested")), "the cutover has asked")
    run = begun(shown.ledger, RunKind.SYNC)
    approve = "form[data-gate=cutover] button[value=approved]"

    sign_in(tab, shown, operator_name())
    tab.go(f"{shown.address}runs/{run}")
    tab.submit(approve)
    assert "cannot approve" in tab.text("[role=alert]")
    assert tab.text(".gate-word") == "requested"
    assert (cutover.poll(), live.steps("cutover")) == (None, {})
    tab.submit(".who button")

    sign_in(tab, shown, "grace")
    tab.go(f"{shown.address}runs/{run}")
    tab.submit(approve)
    assert tab.text(".gate-word") == "approved"
    picture(tab, "cutover")
    assert cutover.wait(60) == 0, live.log("cutover")
    assert live.environment()["DRAGONFLY_URL"] == green_redis.url
    tab.submit(".who button")

    sign_in(tab, shown, "otto")
    tab.go(f"{shown.address}runs/{run}")
    tab.submit("a.danger")
    for confirmation, said in (("yes", "nothing was done"), (run, "was asked for")):
        tab.fill("textarea[name=reason]", "orders are slow")
        tab.fill("input[name=confirmation]", confirmation)
        picture(tab, "rollback")
        tab.submit("button.danger")
        assert said in tab.text()
    live.wait_until(lambda: "DRAGONFLY_URL" not in live.environment(), "the applications are on blue")
    ended = "SELECT operator FROM run WHERE kind = 'rollback' AND state = 'finished'"
    live.wait_until(lambda: bool(live.rows(ended)), "the rollback has ended")
    assert live.rows(ended) == [("otto",)]


def begun(ledger: Ledger, kind: RunKind) -> str:
    """The run of this kind, as soon as it has phases."""
    until = monotonic() + 30
    while True:
        found = [run.id for run in ledger.runs(5) if run.kind is kind and len(ledger.phases(run.id)) > 1]
        if found:
            return found[0]
        assert monotonic() < until
        sleep(0.1)


def require_movement(tab: Tab, count: int) -> None:
    """The number of keys of all phases together rises on the page, so many times."""
    seen: list[int] = []
    until = monotonic() + 40
    while len(seen) <= count and monotonic() < until:
        keys = int(str(tab.run(KEYS_SO_FAR)))
        # 0 is also what a page says that is not there yet.
        if keys and keys not in seen:
            seen.append(keys)
        tab.pause(0.3)
    assert len(seen) > count, seen
    assert seen == sorted(seen)
