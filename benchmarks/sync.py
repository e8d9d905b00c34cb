"""How fast changed keys are carried over and proven equal, and what a key costs, side by side.

    python -m benchmarks.sync [--keys 200000] [--changed 100000] [--rate 5000] [--seconds 20] [--profile FILE]

For Redis → Redis, Redis → Dragonfly and Dragonfly → Redis (the fall-back, by MONITOR), in turn: `greenfly sync` is met
when everything has been compared; it is stopped (SIGSTOP), so many keys change, and it goes on (SIGCONT) until none is
dirty and none waits to be compared.  Then the load generator (tests/load) writes at the given rate, and the lag is
sampled.  Compare ratios and CPU per key, not seconds: the machine is shared by the servers, the load and Greenfly.
"""

from __future__ import annotations

import argparse
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.mixed_set import fill
from greenfly.demo.servers import (
    RunningServer,
    find_dragonfly,
    find_redis_server,
    start_dragonfly,
    start_redis,
)
from tests.live import Live
from tests.load.load import Load
from tests.raw import Raw

_SETTINGS = "[throttle]\nenabled = false\n"
_BATCH = 500


@dataclass(frozen=True, slots=True)
class Drained:
    """A backlog that was carried over and proven."""

    keys: int
    seconds: float
    sync_cpu: float
    source_cpu: float
    target_cpu: float


@dataclass(frozen=True, slots=True)
class Followed:
    """Some time under the load."""

    written_per_second: float
    lag_ms: Sequence[int]
    dirty: Sequence[int]
    unproven: Sequence[int]
    sync_cpu: float
    """CPU seconds per second."""
    settled_after: float
    """Seconds from the last write until nothing was dirty and nothing waited to be compared."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One pair of servers."""

    pair: str
    drained: Drained
    followed: Followed


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Changed keys carried over and proven.")
    parser.add_argument("--keys", type=int, default=200_000)
    parser.add_argument("--changed", type=int, default=100_000)
    parser.add_argument("--rate", type=float, default=5000.0, help="units per second of the load")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--pairs", default="rr,rd,dr", help="of rr, rd, dr: r for Redis, d for Dragonfly")
    parser.add_argument(
        "--profile", type=Path, help="py-spy's raw profile of each drained backlog goes to FILE.<pair>"
    )
    arguments = parser.parse_args()
    redis, dragonfly = find_redis_server(), find_dragonfly()
    if redis is None:
        sys.exit("redis-server is not on PATH.")

    def start(letter: str, name: str, stack: ExitStack) -> RunningServer:
        if letter == "r":
            return stack.enter_context(start_redis(redis, name=name))
        if dragonfly is None:
            sys.exit("dragonfly is not on PATH.")
        return stack.enter_context(start_dragonfly(dragonfly, name=name))

    measured = []
    for pair in arguments.pairs.split(","):
        with ExitStack() as stack:
            source, target = start(pair[0], "source", stack), start(pair[1], "target", stack)
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            profile = arguments.profile and arguments.profile.with_suffix(f".{pair}")
            found = _measure(source, target, folder, arguments, profile)
            print(f"{found.pair} done", file=sys.stderr)
            measured.append(found)
    _print(measured)


def _measure(
    source: RunningServer,
    target: RunningServer,
    folder: Path,
    arguments: argparse.Namespace,
    profile: Path | None,
) -> Measured:
    fill(source.url, arguments.keys)
    with Live(folder / "live", source.url, target.url, _SETTINGS) as live:
        sync = live.sync()
        live.wait_until_clean(600)
        drained = _drain(live, sync, source, target, arguments.changed, profile)
        followed = _follow(live, sync, folder, arguments.rate, arguments.seconds)
        if live.run("runs", "stop", "latest").code != 0 or sync.wait(120) != 0:
            sys.exit(f"the sync did not end well: {live.log()}")
    return Measured(f"{source.engine.capitalize()} → {target.engine.capitalize()}", drained, followed)


def _drain(
    live: Live,
    sync: subprocess.Popen[bytes],
    source: RunningServer,
    target: RunningServer,
    changed: int,
    profile: Path | None,
) -> Drained:
    clocks = [_cpu(pid) for pid in (sync.pid, source.pid, target.pid)]
    sync.send_signal(signal.SIGSTOP)
    with Raw(source.url) as server:
        names = sorted(server.keys())[:changed]
        for begin in range(0, len(names), _BATCH):
            server.many([(b"PEXPIRE", name, 100_000_000 + begin) for name in names[begin : begin + _BATCH]])
    before = [clock() for clock in clocks]
    began = time.monotonic()
    sync.send_signal(signal.SIGCONT)
    spy = None
    if profile is not None:
        spy = subprocess.Popen(
            [
                "py-spy",
                "record",
                "-p",
                str(sync.pid),
                "-d",
                "600",
                "-r",
                "200",
                "-f",
                "raw",
                "-o",
                str(profile),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    live.wait_until(lambda: _open(live) > 0, "dirty keys", 60)
    live.wait_until(lambda: _open(live) == 0, "everything proven", 600)
    seconds = time.monotonic() - began
    if spy is not None:
        spy.send_signal(signal.SIGINT)
        spy.wait()
    used = [clock() - was for clock, was in zip(clocks, before, strict=True)]
    return Drained(len(names), seconds, *used)


def _follow(live: Live, sync: subprocess.Popen[bytes], folder: Path, rate: float, seconds: float) -> Followed:
    clock = _cpu(sync.pid)
    with Load(live.env_file, folder / "logs", rate=rate, probe_hz=0) as load:
        load.wait_for(int(rate))
        before, began, cpu = load.count().acknowledged, time.monotonic(), clock()
        lag, dirty, unproven = [], [], []
        while time.monotonic() - began < seconds:
            board = live.board()
            if board is not None:
                lag.append(int(str(board["lag_ms"])))
                dirty.append(int(str(board["dirty"])))
                unproven.append(int(str(board["unproven"])))
            time.sleep(0.1)
        took, used = time.monotonic() - began, clock() - cpu
        written = (load.count().acknowledged - before) / took
        load.stop()
    stopped = time.monotonic()
    time.sleep(0.3)
    live.wait_until(lambda: _open(live) == 0, "everything proven", 600)
    return Followed(written, lag, dirty, unproven, used / took, time.monotonic() - stopped)


def _open(live: Live) -> int:
    board = live.board()
    return int(str(board["dirty"])) + int(str(board["unproven"])) if board is not None else 0


def _cpu(pid: int | None) -> Callable[[], float]:
    """CPU seconds that the process has used so far."""
    process = psutil.Process(pid)

    def used() -> float:
        times = process.cpu_times()
        return times.user + times.system

    return used


def _print(measured: Sequence[Measured]) -> None:
    base = measured[0].drained
    print(f"\n{'backlog carried and proven':<22} keys/s   ratio   CPU per key: sync   source   target")
    for found in measured:
        d = found.drained
        ratio = (d.keys / d.seconds) / (base.keys / base.seconds)
        per_key = [f"{1e6 * cpu / d.keys:6.0f} µs" for cpu in (d.sync_cpu, d.source_cpu, d.target_cpu)]
        print(f"{found.pair:<26} {d.keys / d.seconds:6,.0f}   {ratio:5.2f}        {'  '.join(per_key)}")
    print(
        f"\n{'under the load':<22} writes/s   lag ms: median  95 %   max   dirty max   unproven max   CPU   settled"
    )
    for found in measured:
        f = found.followed
        lag = sorted(f.lag_ms)
        print(
            f"{found.pair:<24} {f.written_per_second:6,.0f}          {statistics.median(lag):6.0f} "
            f"{lag[int(len(lag) * 0.95)]:6.0f} {lag[-1]:6.0f}   {max(f.dirty):9,}   {max(f.unproven):12,}   "
            f"{100 * f.sync_cpu:3.0f} %   {f.settled_after:4.1f} s"
        )


if __name__ == "__main__":
    main()
