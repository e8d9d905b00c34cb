"""What a billion keys would take: a model, beside what was measured at sizes that fit on one machine.

    python -m benchmarks.scale_model [--sizes 100000,300000,1000000] [--workers 16] [--masters 8] [--keys 1000000000]

CPU per key and bytes per key are fitted to the two smallest sizes (a constant and a slope) and checked against the
largest.  The extrapolation gives every worker, master and target thread a core of its own; what the machine of the
measurement shared does not matter to it, because it rests on CPU seconds and not on how long anything took.
"""

from __future__ import annotations

import argparse
import json
import os
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import redis

from benchmarks.mixed_set import fill
from greenfly.demo.servers import RunningServer, find_redis_server, start_redis
from integrity.ledger import open_ledger
from integrity.settings import load_settings
from reports import write_report

_PHASES: Final = ("stream", "verify")
_COSTS: Final = ("client_cpu", "source_cpu", "target_cpu", "source_net", "target_net")
_DAMAGED: Final = 5_000
_PAGE_KEYS: Final = 1_000
"""Keys of a page: each is followed by one update of a checkpoint."""


@dataclass(frozen=True, slots=True)
class Point:
    """What one phase took at one size."""

    keys: int
    seconds: float
    peak_rss_mib: float
    costs: Mapping[str, float]
    """CPU in seconds, network in bytes."""


@dataclass(frozen=True, slots=True)
class Line:
    """A cost of so much, and so much for each key."""

    constant: float
    slope: float

    @classmethod
    def through(cls, one: tuple[int, float], other: tuple[int, float]) -> Line:
        """The line through two points."""
        slope = (other[1] - one[1]) / (other[0] - one[0])
        return cls(one[1] - slope * one[0], slope)

    def at(self, keys: int) -> float:
        """The cost of so many keys."""
        return self.constant + self.slope * keys


def main() -> None:
    """Measure, fit, check, extrapolate, print."""
    parser = argparse.ArgumentParser(description="What a billion keys would take.")
    parser.add_argument("--sizes", default="100000,300000,1000000")
    parser.add_argument("--keys", type=int, default=1_000_000_000)
    parser.add_argument("--workers", type=int, default=16)
    parser.add_argument("--masters", type=int, default=8, help="of the source, each with a core of its own")
    parser.add_argument("--threads", type=int, default=8, help="of the target")
    arguments = parser.parse_args()
    sizes = [int(size) for size in arguments.sizes.split(",")]
    program = find_redis_server()
    if program is None or len(sizes) < 3:
        sys.exit("It needs redis-server on PATH, and three sizes.")
    points: dict[str, list[Point]] = {phase: [] for phase in _PHASES}
    ledgers: list[int] = []
    for keys in sizes:
        with (
            tempfile.TemporaryDirectory() as folder,
            start_redis(program, name="blue") as blue,
            start_redis(program, name="green") as green,
        ):
            fill(blue.url, keys)
            for phase in _PHASES:
                points[phase].append(_measure(phase, blue, green, Path(folder)))
            ledgers.append(_size_of(Path(folder)))
            if keys == sizes[0]:
                findings = _findings(blue, green, Path(folder))
    lines = {
        (phase, cost): Line.through(*((p.keys, p.costs[cost]) for p in points[phase][:2]))
        for phase in _PHASES
        for cost in _COSTS
    }
    print(f"one worker, Redis to Redis, {os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f}\n")
    _print_measured(points, lines)
    print(f"\nledger after copy and comparison: {', '.join(f'{size / 1024:,.0f} KiB' for size in ledgers)}")
    print("\n".join(f"{name}: {value}" for name, value in findings.items()))
    _print_model(lines, arguments.keys, arguments.workers, arguments.masters, arguments.threads)


def _measure(phase: str, blue: RunningServer, green: RunningServer, folder: Path) -> Point:
    before = [_net(server) for server in (blue, green)]
    command = [
        sys.executable,
        "-m",
        "benchmarks.one_phase",
        phase,
        "--source",
        blue.url,
        "--target",
        green.url,
    ]
    command += ["--source-pid", str(blue.pid), "--target-pid", str(green.pid), "--state-dir", str(folder)]
    told = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    source, target = (_net(server) - then for server, then in zip((blue, green), before, strict=True))
    costs = {name: float(told[name]) for name in ("client_cpu", "source_cpu", "target_cpu")}
    costs |= {"source_net": float(source), "target_net": float(target)}
    return Point(int(told["keys"]), float(told["seconds"]), float(told["peak_rss_mib"]), costs)


def _net(server: RunningServer) -> int:
    """Bytes that went into and out of a server since it started."""
    with redis.Redis.from_url(server.url) as client:
        facts = client.info("stats")
    assert isinstance(facts, dict)
    return int(facts["total_net_input_bytes"]) + int(facts["total_net_output_bytes"])


def _size_of(folder: Path) -> int:
    with closing(sqlite3.connect(folder / "ledger.sqlite3")) as ledger:
        ledger.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return int(ledger.execute("PRAGMA page_count").fetchone()[0]) * int(
            ledger.execute("PRAGMA page_size").fetchone()[0]
        )


def _findings(blue: RunningServer, green: RunningServer, folder: Path) -> Mapping[str, str]:
    """What findings cost: ledger, memory of the comparing process, report."""
    plain = _size_of(folder)
    without = _measure("verify", blue, green, folder).peak_rss_mib
    plain, before = _size_of(folder), plain
    with redis.Redis.from_url(green.url) as client:
        for key in list(client.scan_iter(count=1000))[:_DAMAGED]:
            client.delete(key)
    rss = _measure("verify", blue, green, folder).peak_rss_mib
    grown = _size_of(folder) - plain
    settings = load_settings({"state_dir": folder}, environ={}).settings
    with closing(open_ledger(settings)) as ledger:
        run = ledger.find_run("latest").id
        files = write_report(ledger, run, folder / "report")
    html, table = files.html.stat().st_size, files.csv.stat().st_size
    return {
        "one run without findings adds to the ledger": f"{(plain - before) / 1024:,.0f} KiB",
        "one finding adds to the ledger": f"{grown / _DAMAGED:,.0f} bytes",
        "peak memory of a comparison": f"{without:,.0f} MiB, with {_DAMAGED:,} findings {rss:,.0f} MiB",
        f"report of {_DAMAGED:,} findings": f"{html / 1024:,.0f} KiB HTML, {table / _DAMAGED:,.0f} bytes of CSV each",
    }


def _print_measured(points: Mapping[str, Sequence[Point]], lines: Mapping[tuple[str, str], Line]) -> None:
    for phase in _PHASES:
        for point in points[phase]:
            cpu = sum(point.costs[cost] for cost in _COSTS[:3])
            print(
                f"{phase:<7}{point.keys:>12,} keys {point.seconds:>7.1f} s {point.keys / point.seconds:>9,.0f} keys/s"
                f"  cores busy {cpu / point.seconds:.2f}  peak {point.peak_rss_mib:.0f} MiB"
            )
            for cost in _COSTS:
                model, unit, scale = lines[phase, cost].at(point.keys), "bytes", 1.0
                if cost.endswith("cpu"):
                    unit, scale = "µs", 1e6
                measured = point.costs[cost]
                print(
                    f"         {cost:<11}{measured * scale / point.keys:>9.2f} {unit}/key"
                    f"   model {model * scale / point.keys:>9.2f}   {100 * (model / measured - 1):>+6.1f} %"
                )


def _print_model(
    lines: Mapping[tuple[str, str], Line], keys: int, workers: int, masters: int, threads: int
) -> None:
    print(f"\n{keys:,} keys, {workers} workers, {masters} masters, a target of {threads} threads:")
    for phase in _PHASES:
        parts = {"client_cpu": workers, "source_cpu": masters, "target_cpu": threads}
        needed = {cost: lines[phase, cost].at(keys) / cores for cost, cores in parts.items()}
        limit = max(needed, key=lambda cost: needed[cost])
        seconds = needed[limit]
        net = sum(lines[phase, cost].at(keys) for cost in ("source_net", "target_net"))
        ranges = 1 << (min(4 * workers, keys // 20_000).bit_length() - 1)
        print(
            f"  {phase:<7} {seconds / 60:>7.1f} min ({limit} limits; "
            + ", ".join(f"{cost} {value / 60:.1f}" for cost, value in needed.items())
            + f")\n          {keys / seconds:,.0f} keys/s, {net / 1e9:,.0f} GB over the net, "
            f"{net * 8 / seconds / 1e9:.2f} Gbit/s, {ranges} ranges of {keys / ranges:,.0f} keys, "
            f"{keys / _PAGE_KEYS / seconds:,.0f} checkpoints/s"
        )


if __name__ == "__main__":
    main()
