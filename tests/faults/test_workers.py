"""Several processes share one run: they come to the same as one, and any of them may die."""

from __future__ import annotations

import os
import signal
import subprocess
from time import monotonic, sleep
from typing import Final

import psutil
import pytest

from tests.cli import CompletedRun, Greenfly
from tests.faults.aftermath import assert_closed, assert_same
from tests.faults.midway import LEASE, at_most, checkpointed, ended, events, start_in_the_middle
from tests.inprocess import between, run_here
from tests.runs import detail
from tests.servers import Store

KEYS: Final = 45_000
"""Two ranges of a database, of which one holds 20,000 at least."""
# The server makes the keys itself, which takes a second where sending them would take ten.
MAKE_KEYS: Final = """
for n = tonumber(ARGV[1]), tonumber(ARGV[2]) do
  local key = 'key:' .. n
  local kind = n % 10
  if kind < 5 then redis.call('SET', key, 'value ' .. n)
  elseif kind < 6 then redis.call('SET', key, n, 'PX', 3600000 + n * 1000)
  elseif kind < 7 then redis.call('HSET', key, 'a', n, 'b', 'x')
  elseif kind < 8 then redis.call('RPUSH', key, n, n + 1, n + 2)
  elseif kind < 9 then redis.call('ZADD', key, n / 7, 'm', n, 'n')
  else redis.call('SADD', key, n, 'x') end
end
"""


def make_keys(store: Store, count: int, databases: tuple[int, ...] = (0,)) -> None:
    for database in databases:
        for first in range(1, count + 1, 20_000):
            last = min(first + 19_999, count)
            if store.engine == "dragonfly":
                send_keys(store, database, first, last)
            else:
                store.database(database).eval(MAKE_KEYS, 0, str(first), str(last))


def send_keys(store: Store, database: int, first: int, last: int) -> None:
    pipeline = store.database(database).pipeline(transaction=False)
    for n in range(first, last + 1):
        if n % 5:
            pipeline.set(f"key:{n}", f"value {n}")
        else:
            pipeline.rpush(f"key:{n}", n, n + 1)
    pipeline.execute()


def workers_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The worker processes of a run, oldest first."""
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            if any("multiprocessing-fork" in part for part in child.cmdline()):
                found.append(child)
        except psutil.NoSuchProcess:
            continue
    return sorted(found, key=lambda child: child.pid)


def gone(processes: list[psutil.Process], seconds: float) -> bool:
    """Whether all of them end within that time."""
    return not psutil.wait_procs(processes, timeout=seconds)[1]


# -- the same as one ---------------------------------------------------------------------------------------------------


def figures(run: CompletedRun) -> dict[str, object]:
    names = {
        "stream": ("written", "skipped", "refused", "vanished", "excluded"),
        "verify": ("compared", "equal", "target_scanned", "extra", "fingerprints", "excluded"),
    }
    return {name: detail(run, phase, name) for phase, some in names.items() for name in some}


def test_two_and_three_workers_come_to_the_same_as_one(blue: Store, green: Store, greenfly: Greenfly) -> None:
    make_keys(blue, KEYS, (0, 3))
    told = {}
    for workers in ("1", "2", "3"):
        green.client.flushall()
        run = greenfly(
            "migrate", *between(blue.url, green.url), "--no-snapshot", "--json", "--workers", workers
        )
        assert (run.exit_code, run.at("verdict")) == (0, "PASS"), run.stderr
        told[workers] = figures(run)

    assert told["1"]["compared"] == told["1"]["equal"] == told["1"]["target_scanned"] == 2 * KEYS
    assert told["2"] == told["3"] == told["1"]
    assert_same(blue.url, green.url)


def test_workers_find_the_same_differences_as_one(blue: Store, green: Store, greenfly: Greenfly) -> None:
    for store in (blue, green):
        send_keys(store, 0, 1, KEYS)
    for n in range(1, KEYS, 997):
        green.client.delete(f"key:{n}")
        green.client.set(f"only green:{n}", n)
        green.client.set(f"key:{n + 1}", "damaged")
    servers = between(blue.url, green.url)

    one, three = (greenfly("verify", *servers, "--json", "--workers", workers) for workers in ("1", "3"))

    assert one.exit_code == three.exit_code == 1
    assert one.at("findings", "open") == three.at("findings", "open")
    assert detail(one, "verify", "fingerprints") == detail(three, "verify", "fingerprints")
    assert detail(one, "verify", "compared") == detail(three, "verify", "compared")


@pytest.mark.dragonfly
def test_workers_read_dragonfly_by_its_shards(
    green_dragonfly: Store, blue: Store, greenfly: Greenfly
) -> None:
    make_keys(green_dragonfly, KEYS, (0, 1))

    run = greenfly(
        *("migrate", *between(green_dragonfly.url, blue.url), "--no-snapshot", "--json", "--workers", "2")
    )

    assert (run.exit_code, run.at("verdict")) == (0, "PASS"), run.stderr
    assert detail(run, "verify", "equal") == 2 * KEYS
    assert_same(green_dragonfly.url, blue.url)


# -- processes that die ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", ["stream", "verify"])
def test_a_worker_that_is_killed_is_replaced_and_nothing_is_missing(
    blue: Store, green: Store, greenfly: Greenfly, phase: str
) -> None:
    make_keys(blue, KEYS)
    copied_by: str | None = None
    if phase == "verify":
        copied = run_here(greenfly, "migrate", *between(blue.url, green.url), "--no-snapshot", "--json")
        copied_by = str(copied.at("run"))
        command = ["verify", *between(blue.url, green.url)]
    else:
        command = ["migrate", *between(blue.url, green.url), "--no-snapshot"]
    # Slow enough to be killed in the middle.
    env = at_most(20_000)
    process = start_in_the_middle(
        greenfly, *command, "--workers", "2", env=env, phase=phase, besides=copied_by
    )
    workers = workers_of(process)
    assert len(workers) == 2

    workers[1].kill()
    run = ended(process)

    assert (run.exit_code, run.at("verdict")) == (0, "PASS"), run.stderr
    assert "died" in run.stderr
    assert events(greenfly, str(run.at("run")), "worker.lost") == 1
    assert (detail(run, "verify", "compared"), detail(run, "verify", "equal")) == (KEYS, KEYS)
    assert_same(blue.url, green.url)


def test_workers_that_die_again_and_again_end_the_run_which_can_be_resumed(
    blue: Store, green_redis: Store, greenfly: Greenfly
) -> None:
    make_keys(blue, KEYS)
    servers = between(blue.url, green_redis.url)
    env = at_most(5_000)
    process = start_in_the_middle(
        greenfly, "migrate", *servers, "--no-snapshot", "--workers", "2", env=env, keys=1_000
    )

    killed: set[int] = set()
    deadline = monotonic() + 60
    while process.poll() is None and monotonic() < deadline:
        for worker in workers_of(process):
            if worker.pid not in killed:
                killed.add(worker.pid)
                worker.kill()
        sleep(0.05)
    run = ended(process)

    assert (run.exit_code, run.at("error", "kind")) == (30, "OrchestratorFailed"), run.stderr
    assert len(killed) >= 4
    assert_closed(greenfly)
    resumed = greenfly("migrate", *servers, "--no-snapshot", "--json", "--resume", env=LEASE)
    assert (resumed.exit_code, resumed.at("verdict")) == (0, "PASS"), resumed.stderr
    assert_same(blue.url, green_redis.url)


@pytest.mark.parametrize(("before", "after"), [("2", "3"), ("3", "1"), ("1", "2")])
def test_workers_end_with_the_process_that_owns_the_run_and_others_go_on(
    blue: Store, green_redis: Store, greenfly: Greenfly, before: str, after: str
) -> None:
    green = green_redis
    make_keys(blue, KEYS)
    servers = between(blue.url, green.url)
    env = at_most(20_000)
    process = start_in_the_middle(
        greenfly, "migrate", *servers, "--no-snapshot", "--workers", before, env=env
    )
    workers = workers_of(process)
    assert len(workers) == (0 if before == "1" else min(int(before), 2))

    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=10)

    assert gone(workers, 5.0), "no worker goes on writing for a run that nobody owns"
    copied = checkpointed(greenfly)
    sleep(float(LEASE["GREENFLY_LEASE_SECONDS"]))
    assert checkpointed(greenfly) == copied
    run = greenfly("migrate", *servers, "--no-snapshot", "--json", "--resume", "--workers", after, env=LEASE)
    assert (run.exit_code, run.at("verdict")) == (0, "PASS"), run.stderr
    assert detail(run, "verify", "equal") == KEYS
    assert_same(blue.url, green.url)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_a_signal_ends_the_workers_too(
    blue: Store, green_redis: Store, greenfly: Greenfly, number: signal.Signals
) -> None:
    make_keys(blue, KEYS)
    env = at_most(10_000)
    servers = between(blue.url, green_redis.url)
    process = start_in_the_middle(greenfly, "migrate", *servers, "--no-snapshot", "--workers", "2", env=env)
    workers = workers_of(process)

    # As a terminal does it: to the whole group.
    os.killpg(process.pid, number)
    run = ended(process)

    assert run.exit_code == 128 + number, run.stderr
    assert "Traceback" not in run.stderr
    assert gone(workers, 5.0)
    assert_closed(greenfly, state="interrupted")
    resumed = run_here(greenfly, "migrate", *servers, "--no-snapshot", "--json", "--resume")
    assert (resumed.exit_code, resumed.at("verdict")) == (0, "PASS"), resumed.stderr
    assert_same(blue.url, green_redis.url)
