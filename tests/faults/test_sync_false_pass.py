"""What a sync must not take for equal: servers that changed behind its back, and changes that nobody announced."""

from __future__ import annotations

from pathlib import Path

import pytest

from greenfly.demo.dataset import fill
from tests.faults.sync_move import (
    QUICK,
    StartRestartable,
    assert_same,
    deep,
    ended,
    gaps,
    restartable,
    short_lease,
    stopped,
    wait_until_gaps_are_closed,
)
from tests.live import Live
from tests.servers import Store

__all__ = ["restartable", "short_lease"]


def size(store: Store) -> int:
    return int(store.client.dbsize())


def test_a_target_that_restarts_empty_while_nothing_changes_is_filled_again(
    blue: Store, restartable: StartRestartable, tmp_path: Path
) -> None:
    green = restartable()
    blue.client.mset({f"k{n}": "v" for n in range(500)})
    with Live(tmp_path, blue.url, green.url, QUICK) as live:
        sync = live.sync()
        live.wait_until_clean()
        green.restart()
        wait_until_gaps_are_closed(live, 1)
        assert_same(blue.url, green.url)
        assert stopped(live, sync).verdict == "PASS"
        assert len(gaps(live)) == 1


@deep
def test_a_sync_that_is_stopped_right_after_its_target_restarted_does_not_pass(
    blue: Store, restartable: StartRestartable, tmp_path: Path
) -> None:
    """However the stop and the watch meet, PASS is said only of what is there."""
    green = restartable()
    blue.client.mset({f"k{n}": "v" for n in range(500)})
    with Live(tmp_path, blue.url, green.url, QUICK) as live:
        sync = live.sync()
        live.wait_until_clean()
        green.restart()
        done = stopped(live, sync)
        if done.verdict == "PASS":
            assert_same(blue.url, green.url)
        else:
            assert (done.code, done.verdict) == (3, "INCONCLUSIVE")


def test_without_a_feed_a_stop_compares_once_more(blue: Store, green_redis: Store, tmp_path: Path) -> None:
    blue.client.mset({f"k{n}": "v" for n in range(500)})
    with Live(
        tmp_path, blue.url, green_redis.url, QUICK + "[sync]\nfeed = 'rounds'\nround_seconds = 3600\n"
    ) as live:
        sync = live.sync()
        live.wait_until_clean()
        blue.client.set("k7", "changed")
        blue.client.delete("k8")
        done = stopped(live, sync)
        assert (done.code, done.verdict) == (0, "PASS")
        assert_same(blue.url, green_redis.url)


def test_rounds_converge_and_until_equal_ends(blue: Store, green_redis: Store, tmp_path: Path) -> None:
    fill(blue.url, 3000, seed=3)
    with Live(tmp_path, blue.url, green_redis.url, QUICK + "[sync]\nround_seconds = 0.2\n") as live:
        sync = live.sync("--feed", "rounds", "--until-equal")
        live.wait_until(lambda: live.board() is not None, "the beginning")
        blue.client.flushall()
        fill(blue.url, 2500, seed=5)
        assert ended(live, sync).verdict == "PASS"
        assert_same(blue.url, green_redis.url)


def test_a_key_of_the_target_that_nothing_can_have_become_is_no_pass(
    blue: Store, green_redis: Store, tmp_path: Path
) -> None:
    """Keys beginning with ``a:`` are renamed, so nothing on the source explains one on the target."""
    blue.client.mset({f"a:{n}": "v" for n in range(100)})
    green_redis.client.set("a:stranger", "v")
    with Live(tmp_path, blue.url, green_redis.url, QUICK) as live:
        arguments = ("--rename", "a:=b:", "--conflict", "replace")
        done = live.run("sync", *arguments, "--until-equal")
        assert done.code == 1, done.err
        (found,) = live.rows("SELECT finding_class, key FROM finding WHERE state = 'open'")
        assert found == ("extra", b"a:stranger")
        assert green_redis.client.exists("a:stranger")


@deep
def test_a_finding_is_settled_once_its_cause_is_gone(blue: Store, green_redis: Store, tmp_path: Path) -> None:
    blue.client.mset({f"a:{n}": "v" for n in range(100)})
    green_redis.client.set("a:stranger", "v")
    settings = QUICK + "[sync]\ncompare_seconds = 0.5\n"
    with Live(tmp_path, blue.url, green_redis.url, settings) as live:
        sync = live.sync("--rename", "a:=b:", "--conflict", "replace")
        live.wait_until_clean()
        assert live.rows("SELECT key FROM finding WHERE state = 'open'") == [(b"a:stranger",)]
        green_redis.client.delete("a:stranger")
        live.wait_until(
            lambda: not live.rows("SELECT key FROM finding WHERE state = 'open'"), "the finding settled"
        )
        assert stopped(live, sync).verdict == "PASS"


@pytest.mark.parametrize("keys", [pytest.param(40, marks=deep), 1500])
def test_a_source_that_restarts_empty_is_refused_and_the_target_untouched(
    keys: int, restartable: StartRestartable, green_redis: Store, tmp_path: Path
) -> None:
    blue = restartable()
    blue.store.client.mset({f"k{n}": "v" for n in range(keys)})
    with Live(tmp_path, blue.url, green_redis.url, QUICK) as live:
        sync = live.sync()
        live.wait_until_clean()
        blue.restart()
        done = ended(live, sync)
        assert (done.code, done.verdict) == (4, "INCONCLUSIVE")
        assert blue.url.removeprefix("redis://") in done.log
        assert size(green_redis) == keys
        resumed = live.run("sync", "--resume")
        assert resumed.code == 4, resumed.err
        assert size(green_redis) == keys


def test_a_source_that_lost_its_data_while_nobody_followed_is_refused(
    restartable: StartRestartable, green_redis: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after the crash of a machine that runs both: the service manager starts an empty server, and the sync."""
    blue = restartable()
    blue.store.client.mset({f"k{n}": "v" for n in range(1500)})
    with Live(tmp_path, blue.url, green_redis.url, QUICK) as live:
        sync = live.sync()
        live.wait_until_clean()
        sync.kill()
        sync.wait()
        blue.restart()
        live.wait_until(
            lambda: "accept_shrunk_source" in live.run("sync", "--resume-if-any").err, "the refusal", 20
        )
        assert size(green_redis) == 1500
        monkeypatch.setenv("GREENFLY_SYNC__ACCEPT_SHRUNK_SOURCE", "true")
        meant = live.run("sync", "--resume", "--until-equal")
        assert meant.code == 3, meant.err  # Nothing was compared: the source is empty.
        assert size(green_redis) == 0


def test_servers_that_were_mixed_up_are_refused(blue: Store, green_redis: Store, tmp_path: Path) -> None:
    green_redis.client.mset({f"k{n}": "v" for n in range(20)})
    with Live(tmp_path, blue.url, green_redis.url, QUICK) as live:
        done = live.run("sync", "--conflict", "replace", "--until-equal")
        assert done.code == 4, done.err
        assert size(green_redis) == 20
