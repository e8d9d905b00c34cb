"""One Dask worker process against several: the migrate flow on a real Prefect server, its ranges as tasks on Dask.

Started by ``python -m benchmarks.workers --dask``.  The keyspace is cut alike for one worker and for several, so that
nothing but their number differs.  The first run of each cluster warms its workers up and does not count.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import psutil

from benchmarks.distance import at_distance
from greenfly.demo.process import end_process
from greenfly.demo.servers import RunningServer, find_redis_server, start_redis
from greenfly.orchestrator import local_server

_PHASES: Final = ("stream", "verify")


def measure_on_dask(blue: RunningServer, keys: int, workers: int, rounds: int, distance: float) -> None:
    """Measure and print."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        source = stack.enter_context(at_distance(blue.url, distance)) if distance else blue.url
        stack.enter_context(local_server(folder))
        taken: dict[tuple[str, int], list[float]] = {}
        for count in (1, workers):
            with _cluster(folder / f"dask-{count}", count) as (scheduler, config):
                for turn in range(rounds + 1):
                    for phase, rate in _run(config, scheduler, source, workers, distance).items():
                        if turn:
                            taken.setdefault((phase, count), []).append(rate)
    load = os.getloadavg()[0]
    print(
        f"{keys:,} mixed keys, Dask, medians of {rounds} rounds, {psutil.cpu_count()} cores, "
        f"{distance:g} ms away, load average {load:.1f}"
    )
    for phase in _PHASES:
        one = statistics.median(taken[phase, 1])
        for count in (1, workers):
            rate = statistics.median(taken[phase, count])
            print(
                f"  {phase:<7} {count} worker{'s' if count > 1 else ' '}  {rate:>9,.0f} keys/s  {rate / one:.2f} ×"
            )


def _run(config: Path, scheduler: str, source: str, workers: int, distance: float) -> Mapping[str, float]:
    """Keys per second of each phase."""
    program = find_redis_server()
    assert program is not None
    with ExitStack() as stack:
        green = stack.enter_context(start_redis(program, name="green"))
        target = stack.enter_context(at_distance(green.url, distance)) if distance else green.url
        state = stack.enter_context(tempfile.TemporaryDirectory())
        config.write_text(
            f'workers = {workers}\nstate_dir = "{state}"\n[source]\nurl = "{source}"\n[target]\nurl = "{target}"\n'
            "[snapshot]\nenabled = false\n[assess]\nenabled = false\n[throttle]\nenabled = false\n"
            f'[flows]\nrunner = "dask"\ndask_scheduler = "{scheduler}"\n'
        )
        done = subprocess.run(
            [sys.executable, "-m", "greenfly", "flow", "migrate", "--json"],
            env=os.environ | {"GREENFLY_CONFIG": str(config)},
            check=False,
            capture_output=True,
            text=True,
        )
    outcome = json.loads(done.stdout)
    assert outcome.get("verdict") == "PASS", done.stderr
    return {
        phase["name"]: phase["keys"] / phase["detail"]["seconds"]
        for phase in outcome["phases"]
        if phase["name"] in _PHASES
    }


@contextmanager
def _cluster(folder: Path, workers: int) -> Iterator[tuple[str, Path]]:
    """The scheduler's address, and the ``greenfly.toml`` that every worker reads for every range."""
    folder.mkdir()
    config, told = folder / "greenfly.toml", folder / "scheduler.json"
    config.write_text("")
    files = ("--scheduler-file", str(told))
    options = ("--host", "127.0.0.1", "--nthreads", "1", "--no-nanny", "--no-dashboard")
    commands: list[tuple[str, ...]] = [
        ("scheduler", "--host", "127.0.0.1", "--port", "0", *files, "--no-dashboard")
    ]
    commands += [("worker", *files, *options) for _ in range(workers)]
    with ExitStack() as stack:
        log = stack.enter_context((folder / "log").open("wb"))
        for command in commands:
            process = subprocess.Popen(
                [sys.executable, "-m", "dask", *command],
                stdout=log,
                stderr=log,
                env=os.environ | {"GREENFLY_CONFIG": str(config)},
                start_new_session=True,
            )
            stack.callback(end_process, process)
            while not (told.exists() and told.read_text()):
                time.sleep(0.1)
        yield str(json.loads(told.read_text())["address"]), config
