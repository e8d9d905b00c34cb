"""One worker process against several, over the same source and target, in one run on one machine.

    python -m benchmarks.workers [--keys 1000000] [--workers 2] [--rounds 3] [--distance 10] [--dask]

Source, target and every worker want a core of their own; with fewer cores than processes they share, and the machine
is what limits.  Printed are the medians and how many cores were busy, by which to judge that.  With ``--distance``
both servers are that many milliseconds away in each direction, so that it is the line that one worker waits for.
With ``--dask`` the workers are processes of a Dask cluster, and ranges are Prefect tasks (:mod:`benchmarks.on_dask`).
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from contextlib import ExitStack

import psutil

from benchmarks.distance import at_distance
from benchmarks.mixed_set import fill
from benchmarks.on_dask import measure_on_dask
from greenfly.demo.servers import RunningServer, find_redis_server, start_redis


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="One worker process against several.")
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--distance", type=float, default=0.0, help="milliseconds, in each direction")
    parser.add_argument(
        "--dask", action="store_true", help="Dask workers instead of the owner's own processes"
    )
    arguments = parser.parse_args()
    program = find_redis_server()
    if program is None:
        sys.exit("redis-server is not on PATH.")
    taken: dict[tuple[str, int], list[dict[str, float]]] = {}
    with start_redis(program, name="blue") as blue:
        fill(blue.url, arguments.keys)
        if arguments.dask:
            measure_on_dask(blue, arguments.keys, arguments.workers, arguments.rounds, arguments.distance)
            return
        for _ in range(arguments.rounds):
            for workers in (1, arguments.workers):
                with start_redis(program, name="green") as green:
                    for phase in ("stream", "verify"):
                        sample = _measure(phase, blue, green, workers, arguments.distance)
                        taken.setdefault((phase, workers), []).append(sample)
    print(f"{arguments.keys:,} mixed keys, medians of {arguments.rounds} rounds, {psutil.cpu_count()} cores")
    for phase in ("stream", "verify"):
        rates = {
            workers: statistics.median(s["keys"] / s["seconds"] for s in taken[phase, workers])
            for workers in (1, arguments.workers)
        }
        for workers, rate in rates.items():
            cores = statistics.median(
                (s["client_cpu"] + s["source_cpu"] + s["target_cpu"]) / s["seconds"]
                for s in taken[phase, workers]
            )
            print(
                f"  {phase:<7} {workers} worker{'s' if workers > 1 else ' '}  {rate:>9,.0f} keys/s  "
                f"{rate / rates[1]:.2f} ×   cores busy {cores:.2f}"
            )


def _measure(
    phase: str, blue: RunningServer, green: RunningServer, workers: int, distance: float
) -> dict[str, float]:
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        source, target = blue.url, green.url
        if distance:
            source = stack.enter_context(at_distance(source, distance))
            target = stack.enter_context(at_distance(target, distance))
        command = [sys.executable, "-m", "benchmarks.one_phase", phase, "--source", source]
        command += ["--target", target, "--source-pid", str(blue.pid), "--target-pid", str(green.pid)]
        command += ["--state-dir", folder, "--workers", str(workers)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    facts: dict[str, float] = json.loads(done.stdout)
    return facts


if __name__ == "__main__":
    main()
