"""Dragonfly's own replication beside the copy, in one run on one machine.

    python -m benchmarks.native_copy [--keys 300000] [--rounds 3] [--json FILE]

Every round moves the same keys from a Redis into an empty Dragonfly, once by each road, while a client of the source
asks for keys a thousand times a second.  Printed are the medians; compare ratios and CPU per key, not seconds.  The
source waits no time before it sends (``repl-diskless-sync-delay 0``; Redis waits 5 s unless told otherwise), and what
its forked child uses is counted apart, because it keeps another core busy.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Event, Thread
from typing import Final

import psutil

from benchmarks.mixed_set import fill
from greenfly.demo.servers import (
    RunningServer,
    find_dragonfly,
    find_redis_server,
    start_dragonfly,
    start_redis,
)
from integrity.address import parse_address
from integrity.ledger import open_ledger
from integrity.ledger.models import RunKind
from integrity.migration import Run
from integrity.progress import Silent
from integrity.settings import load_settings
from integrity.wire import Connection, Target, pack

_ROADS: Final = ("copy", "native")
_PAUSE_SECONDS: Final = 0.001


@dataclass(frozen=True, slots=True)
class Sample:
    """One road, once."""

    keys: int
    seconds: float
    client_cpu: float
    source_cpu: float
    """Seconds of the server's own process."""
    child_cpu: float
    """Seconds of what it forked."""
    target_cpu: float
    p50_ms: float
    """What a client of the source waited for an answer."""
    p99_ms: float
    worst_ms: float


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Dragonfly's own replication beside the copy.")
    parser.add_argument("--keys", type=int, default=300_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="also write every sample here")
    parser.add_argument("--road", choices=_ROADS, help=argparse.SUPPRESS)
    parser.add_argument("--source", help=argparse.SUPPRESS)
    parser.add_argument("--target", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.road is not None:
        _move(arguments.road, arguments.source, arguments.target)
        return
    redis, dragonfly = find_redis_server(), find_dragonfly()
    if redis is None or dragonfly is None:
        sys.exit("redis-server and dragonfly must be on PATH.")
    samples: dict[str, list[Sample]] = {road: [] for road in _ROADS}
    with ExitStack() as stack:
        delay = ("--repl-diskless-sync-delay", "0")
        blue = stack.enter_context(start_redis(redis, *delay, name="blue"))
        print(f"{blue.title}; filling {arguments.keys:,} keys …", file=sys.stderr)
        fill(blue.url, arguments.keys)
        for number in range(arguments.rounds):
            print(f"round {number + 1} of {arguments.rounds}", file=sys.stderr)
            for road, taken in samples.items():
                with start_dragonfly(dragonfly, "--maxmemory", "4gb", name="green") as green:
                    taken.append(_measure(road, blue, green))
        quiet = _quiet(blue)
    _print(samples, arguments.keys, quiet)
    if arguments.json:
        table = {name: [asdict(sample) for sample in taken] for name, taken in samples.items()}
        arguments.json.write_text(json.dumps(table, indent=2))


def _move(road: str, source: str, target: str) -> None:
    """One road in a process of its own; prints what it took."""
    with tempfile.TemporaryDirectory() as folder:
        settings = load_settings(
            {
                "source": {"url": source},
                "target": {"url": target},
                "state_dir": Path(folder),
                "strategy": road,
            },
            environ={},
        ).settings
        ledger = open_ledger(settings)
        run = Run.start(settings, ledger, RunKind.MIGRATE, Silent())
        with run.recorded():
            servers = run.check()
            cpu, began = time.process_time(), time.monotonic()
            if road == "native":
                run.replicate(servers)
            else:
                run.stream(servers)
            facts = {"began": began, "ended": time.monotonic(), "cpu": time.process_time() - cpu}
        phases = {phase.name.value: phase.keys for phase in ledger.phases(run.id)}
        ledger.close()
    keys = phases.get("replicate", phases.get("stream", 0))
    json.dump(facts | {"keys": keys}, sys.stdout)


def _measure(road: str, blue: RunningServer, green: RunningServer) -> Sample:
    before = [_cpu(blue), _child_cpu(blue), _cpu(green)]
    with _Client(blue.url) as client:
        command = [sys.executable, "-m", "benchmarks.native_copy", "--road", road]
        done = subprocess.run(
            [*command, "--source", blue.url, "--target", green.url],
            check=True,
            capture_output=True,
            text=True,
        )
    facts = json.loads(done.stdout)
    time.sleep(1.0)  # until the source has taken leave of its child
    source, child, target = (
        now - then for now, then in zip([_cpu(blue), _child_cpu(blue), _cpu(green)], before, strict=True)
    )
    # What the client itself costs the source is in both roads alike.
    waited = client.waited(facts["began"], facts["ended"])
    return Sample(
        facts["keys"],
        facts["ended"] - facts["began"],
        facts["cpu"],
        source,
        child,
        target,
        _percentile(waited, 50),
        _percentile(waited, 99),
        max(waited),
    )


class _Client:
    """Asks the source for a key a thousand times a second, and notes how long each answer takes."""

    def __init__(self, url: str) -> None:
        self._target = Target("source", parse_address(url, "benchmark"), io_timeout=120)
        self._over = Event()
        self._noted: list[tuple[float, float]] = []
        self._thread = Thread(target=self._ask, daemon=True)

    def __enter__(self) -> _Client:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def waited(self, began: float, ended: float) -> list[float]:
        """Milliseconds of each question between two moments."""
        return [1000 * took for at, took in self._noted if began <= at <= ended] or [0.0]

    def _ask(self) -> None:
        question = [pack(b"GET", b"bench:0:0")]
        with Connection(self._target, name="benchmark") as connection:
            while not self._over.is_set():
                at = time.monotonic()
                connection.exchange(question)
                self._noted.append((at, time.monotonic() - at))
                time.sleep(_PAUSE_SECONDS)


def _quiet(blue: RunningServer) -> list[float]:
    with _Client(blue.url) as client:
        began = time.monotonic()
        time.sleep(2.0)
    return client.waited(began, time.monotonic())


def _percentile(values: list[float], percent: int) -> float:
    return sorted(values)[min(len(values) - 1, len(values) * percent // 100)]


def _cpu(server: RunningServer) -> float:
    times = psutil.Process(server.pid).cpu_times()
    return float(times.user + times.system)


def _child_cpu(server: RunningServer) -> float:
    times = psutil.Process(server.pid).cpu_times()
    return float(times.children_user + times.children_system)


def _print(samples: dict[str, list[Sample]], keys: int, quiet: list[float]) -> None:
    rounds = len(samples["copy"])
    print(f"\n{keys:,} mixed keys, medians of {rounds} rounds, {psutil.cpu_count()} cores\n")
    print(f"{'':<10}{'keys/s':>10}{'CPU µs per key':>44}{'client of the source, ms':>28}")
    print(
        f"{'':<10}{'':>10}{'greenfly':>11}{'source':>11}{'its child':>11}{'target':>11}"
        f"{'p50':>10}{'p99':>9}{'worst':>9}"
    )
    for road, taken in samples.items():
        rate = statistics.median(sample.keys / sample.seconds for sample in taken)
        cpu = [
            statistics.median(getattr(sample, name) / sample.keys * 1e6 for sample in taken)
            for name in ("client_cpu", "source_cpu", "child_cpu", "target_cpu")
        ]
        waited = [
            statistics.median(getattr(sample, name) for sample in taken)
            for name in ("p50_ms", "p99_ms", "worst_ms")
        ]
        print(
            f"{road:<10}{rate:>10,.0f}"
            + "".join(f"{value:>11.2f}" for value in cpu)
            + f"{waited[0]:>10.2f}{waited[1]:>9.2f}{waited[2]:>9.2f}"
        )
    print(
        f"{'quiet':<10}{'':>54}{_percentile(quiet, 50):>10.2f}{_percentile(quiet, 99):>9.2f}{max(quiet):>9.2f}"
    )


if __name__ == "__main__":
    main()
