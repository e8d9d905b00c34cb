"""The gates of a cutover, each closed for real: the cutover says so, exits with 4 and has done nothing."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli import dig
from tests.conftest import StartServer
from tests.live import Live, deep
from tests.servers import Store

SETTINGS = """
[sync]
group_seconds = 0.5
[cutover]
confirm = "environment"
confirm_seconds = 10
canary_key = "canary"
"""


@pytest.fixture
def servers(start_redis: StartServer) -> tuple[Store, Store]:
    """Blue and green, with a few keys on blue."""
    blue, green = start_redis(), start_redis()
    blue.client.mset({f"k:{number}": number for number in range(100)})
    return blue, green


@pytest.fixture
def live(servers: tuple[Store, Store], tmp_path: Path) -> Iterator[Live]:
    """A move that could be cut over."""
    blue, green = servers
    with Live(tmp_path / "live", blue.url, green.url, SETTINGS) as made:
        made.sync("--quiet")
        made.wait_until_clean()
        yield made


def gate(document: object, name: str) -> dict[str, object]:
    """One gate of a dry run's document."""
    gates = dig(document, "gates")
    assert isinstance(gates, list)
    (found,) = (each for each in gates if dig(each, "name") == name)
    assert isinstance(found, dict)
    return found


def assert_closed(live: Live, name: str, value: str, *arguments: str) -> None:
    """The dry run shows the gate closed with its value; the cutover refuses, and nothing was done."""
    before = live.env_file.read_bytes()
    planned = live.run("cutover", "--dry-run", "--json", *arguments)
    assert planned.code == 4, planned.err
    shown = gate(planned.json(), name)
    assert shown["passed"] is False
    assert value in str(shown["value"])
    done = live.run("cutover", "--yes", "--json", *arguments)
    assert done.code == 4, done.err
    assert dig(done.json(), "error", "kind") == "GatesClosed"
    assert name in str(dig(done.json(), "error", "problem"))
    states = live.steps("cutover")
    assert states["gates"] == "failed"
    assert set(states.values()) == {"failed", "pending"}
    assert live.env_file.read_bytes() == before


def configure(live: Live, table: str, line: str) -> None:
    """Add a setting to the configuration that commands from now on read."""
    path = live.folder / "greenfly.toml"
    text = path.read_text()
    head = f"[{table}]\n"
    text = text.replace(head, head + line + "\n") if head in text else f"{text}\n{head}{line}\n"
    path.write_text(text)


def test_every_gate_that_holds_is_shown_open_and_nothing_is_done(live: Live) -> None:
    planned = live.run("cutover", "--dry-run", "--json")
    assert planned.code == 0, planned.err
    document = planned.json()
    assert document["passes"] is True
    gates = document["gates"]
    assert isinstance(gates, list)
    assert [dig(each, "passed") for each in gates] == [True] * 10
    assert live.steps("cutover") == {}
    assert "DRAGONFLY_URL" not in live.environment()


def test_what_blocks_closes_the_assessment_until_it_is_waived(
    start_redis: StartServer, tmp_path: Path
) -> None:
    blue, green = start_redis(), start_redis("--rename-command", "LCS", "")
    blue.client.mset({"a": "ohmytext", "b": "mynewtext"})
    settings = f'{SETTINGS}[assess]\nonly = ["commands.unknown"]\n'
    with Live(tmp_path / "live", blue.url, green.url, settings, assess=True) as live:
        live.sync("--quiet")
        live.wait_until_clean()
        # Nobody used it when the sync was assessed; the gate looks again.
        blue.client.lcs("a", "b")
        assert_closed(live, "assessment", "commands.unknown (lcs)")
        waive = ("assess", "waive", "commands.unknown", "--why", "retired", "--until", "1d")
        assert live.run(*waive).code == 4
        assert live.run("assess").code == 1
        assert live.run(*waive).code == 0
        shown = gate(live.run("cutover", "--dry-run", "--json").json(), "assessment")
        assert shown["passed"] is True
        assert "commands.unknown (lcs) waived" in str(shown["value"])
        assert live.run("assess", "unwaive", "commands.unknown").code == 0
        assert gate(live.run("cutover", "--dry-run", "--json").json(), "assessment")["passed"] is False


@pytest.mark.dragonfly
def test_applications_that_were_rolled_back_can_be_cut_over_once_more(
    start_redis: StartServer, start_dragonfly: StartServer, tmp_path: Path
) -> None:
    blue, green = start_redis(), start_dragonfly()
    blue.client.mset({f"k:{number}": number for number in range(100)})
    with Live(tmp_path / "live", blue.url, green.url, SETTINGS, assess=True) as live:
        live.sync("--quiet")
        live.wait_until_clean()
        for number in range(2):
            moved = live.run("cutover", "--yes", "--json")
            assert moved.code == 0, moved.err
            green.client.set("served by", f"green {number}")
            back = live.run("rollback", "--yes", "--json")
            assert back.code == 0, back.err
            assert blue.client.get("served by") == b"green %d" % number
            # The fence stands on green now, and the gate sees past it without leaving anything there.
            live.wait_until_clean()
            users = green.client.acl_users()
            planned = live.run("cutover", "--dry-run", "--json")
            assert gate(planned.json(), "assessment")["passed"] is True
            assert green.client.acl_users() == users


@deep
def test_a_verdict_that_is_too_old_closes_its_gate(live: Live) -> None:
    configure(live, "cutover", "max_verdict_age_seconds = 0.001")
    assert_closed(live, "verdict", "clean")


@deep
def test_a_key_that_cannot_be_made_equal_closes_the_verdict(start_redis: StartServer, tmp_path: Path) -> None:
    blue, green = start_redis(), start_redis("--proto-max-bulk-len", "1mb")
    with Live(tmp_path / "live", blue.url, green.url, SETTINGS) as live:
        blue.client.set("small", 1)
        live.sync("--quiet")
        live.wait_until_clean()
        blue.client.set("large", b"x" * 2_000_000)
        live.wait_until(lambda: bool((live.board() or {}).get("stuck")), "a stuck key", 40.0)
        assert_closed(live, "verdict", "1 key differing")


@deep
def test_changes_that_are_not_carried_over_close_the_lag(live: Live, servers: tuple[Store, Store]) -> None:
    configure(live, "cutover", "max_lag_keys = 0")
    # A paused run takes changes in, and carries nothing over.
    assert live.run("runs", "pause", "latest").code == 0
    servers[0].client.set("k:1", "changed")
    live.wait_until(lambda: bool((live.board() or {}).get("dirty")), "a dirty key")
    assert_closed(live, "lag", "1 key,")


@deep
def test_green_without_room_closes_the_headroom(live: Live, servers: tuple[Store, Store]) -> None:
    green = servers[1]
    green.client.config_set("maxmemory", int(green.client.info("memory")["used_memory"] * 1.02))
    assert_closed(live, "headroom", "% free")


@deep
def test_clocks_apart_close_the_clock(live: Live) -> None:
    configure(live, "cutover", "max_clock_skew_ms = 0")
    assert_closed(live, "clock", "ms")


def test_a_fence_that_stands_already_closes_the_fence(live: Live, servers: tuple[Store, Store]) -> None:
    servers[0].client.acl_setuser("greenfly-fence", enabled=False)
    assert_closed(live, "fence", "blue is fenced")


def test_blue_that_allows_no_fence_closes_the_fence_and_the_pause(
    start_redis: StartServer, tmp_path: Path
) -> None:
    blue, green = start_redis(), start_redis()
    blue.client.acl_setuser(
        "mover",
        enabled=True,
        passwords=["+secret"],
        keys=["*"],
        channels=["*"],
        categories=["+@all"],
        commands=["-acl", "-config"],
    )
    address = blue.url.removeprefix("redis://")
    with Live(tmp_path / "live", f"redis://mover:secret@{address}", green.url, SETTINGS) as live:
        blue.client.set("a", 1)
        live.sync("--quiet")
        live.wait_until_clean()
        assert_closed(live, "fence", "not possible")


@deep
def test_blue_that_is_full_closes_the_way_back(live: Live, servers: tuple[Store, Store]) -> None:
    blue = servers[0]
    blue.client.config_set("maxmemory", int(blue.client.info("memory")["used_memory"] * 1.01))
    assert_closed(live, "rollback", "1 problem")


@deep
def test_rules_that_have_no_way_back_close_the_way_back(start_redis: StartServer, tmp_path: Path) -> None:
    blue, green = start_redis(), start_redis()
    blue.client.set("a:1", 1)
    rules = SETTINGS + '[rules]\nexclude = ["b:*"]\n'
    with Live(tmp_path / "live", blue.url, green.url, rules) as live:
        live.sync("--quiet")
        live.wait_until_clean()
        assert_closed(live, "rollback", "1 problem")


@deep
def test_an_environment_that_says_green_already_closes_its_gate(
    live: Live, servers: tuple[Store, Store]
) -> None:
    with live.env_file.open("a") as file:
        file.write(f"DRAGONFLY_URL={servers[1].url}\n")
    assert_closed(live, "environment", "green already")


def test_an_environment_that_cannot_be_written_closes_its_gate(live: Live) -> None:
    inside = live.folder / "app"
    inside.mkdir()
    live.env_file.rename(inside / "app.env")
    live.env_file.symlink_to("/proc/version")
    done = live.run("cutover", "--dry-run", "--json")
    assert done.code != 0
    assert "DRAGONFLY_URL" not in (inside / "app.env").read_text()


def test_nobody_who_follows_closes_the_sync(live: Live) -> None:
    sync = live.processes[0]
    sync.kill()
    sync.wait()
    time.sleep(5.5)
    assert_closed(live, "sync", "ago")


@deep
def test_a_sync_process_that_stands_still_closes_the_sync(live: Live) -> None:
    sync = live.processes[0]
    os.kill(sync.pid, signal.SIGSTOP)
    try:
        time.sleep(5.5)
        assert_closed(live, "sync", "ago")
    finally:
        os.kill(sync.pid, signal.SIGCONT)


# -- approvals ---------------------------------------------------------------------------------------------------------


def approve(live: Live, by: str, *arguments: str) -> int:
    """`greenfly approve` as somebody; its exit code."""
    return live.run("approve", "--as", by, "--json", *arguments).code


@pytest.fixture
def needs_two(live: Live) -> Live:
    """Two people must agree."""
    configure(live, "cutover", "approvals = 2")
    return live


def test_a_cutover_waits_for_as_many_people_as_are_needed(needs_two: Live) -> None:
    live = needs_two
    assert_closed(live, "approvals", "none")
    assert approve(live, "ada", "--request") == 0
    assert approve(live, "ada") == 4
    assert approve(live, "grace") == 0
    assert approve(live, "grace") == 0
    assert_closed(live, "approvals", "grace")
    assert approve(live, "edsger") == 0
    planned = live.run("cutover", "--dry-run", "--json")
    assert gate(planned.json(), "approvals")["passed"] is True


@deep
def test_a_rejection_voids_what_was_approved(needs_two: Live) -> None:
    live = needs_two
    for name in ("grace", "edsger"):
        assert approve(live, name) == 0
    assert approve(live, "barbara", "--reject", "--comment", "not on a Friday") == 0
    assert_closed(live, "approvals", "rejected by barbara")
    assert approve(live, "grace") == 0
    assert_closed(live, "approvals", "grace")


@deep
def test_breaking_the_glass_needs_a_reason_and_passes_alone(needs_two: Live) -> None:
    live = needs_two
    assert approve(live, "barbara", "--reject") == 2
    assert approve(live, "barbara", "--reject", "--comment", "not on a Friday") == 0
    assert approve(live, "ada", "--break-glass") == 2
    assert approve(live, "ada", "--break-glass", "--comment", "blue is dying") == 0
    planned = live.run("cutover", "--dry-run", "--json")
    shown = gate(planned.json(), "approvals")
    assert (shown["passed"], "ada" in str(shown["value"])) == (True, True)
    assert live.events("approval.break-glass")[0]["comment"] == "blue is dying"


@deep
def test_whoever_cuts_over_without_having_asked_cannot_be_the_one_who_approves(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(live, "cutover", "approvals = 1")
    monkeypatch.setenv("GREENFLY_OPERATOR", "ada")
    assert live.run("approve", "--json").code == 0
    assert_closed(live, "approvals", "none")
    assert approve(live, "grace") == 0
    assert live.run("cutover", "--yes", "--json").code == 0


@deep
def test_approvals_are_used_up_by_a_cutover(live: Live) -> None:
    configure(live, "cutover", "approvals = 1")
    assert approve(live, "ada", "--request") == 0
    assert approve(live, "grace") == 0
    assert live.run("cutover", "--yes", "--json").code == 0
    assert live.run("rollback", "--yes", "--json").code == 0
    live.wait_until(lambda: (live.board() or {}).get("direction") == "forward", "followed forward")
    assert_closed(live, "approvals", "none")
    said = live.run("approve", "--as", "ada", "--json")
    assert said.code == 0, "whoever requested the last cutover may approve this one"
    assert said.json()["approvals"] == 1
