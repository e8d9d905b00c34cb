"""The assessment beside one verify pass over the same keys.

    python -m benchmarks.assess [--keys 1000000] [--rounds 3]

A Redis with the mixed set is copied into a second one, and into a real Dragonfly where one is on PATH.  Every round
then takes, in turn, a full census, a sampled one, all checks in sampled mode, and a verify pass; each is a process of
its own.  Printed are the medians; compare ratios and CPU per key, not seconds.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass

import psutil

from benchmarks.mixed_set import fill
from greenfly.demo.servers import (
    RunningServer,
    find_dragonfly,
    find_redis_server,
    start_dragonfly,
    start_redis,
)
from integrity.assess.census import take_census
from integrity.assess.registry import all_checks
from integrity.assess.runner import make_checks
from integrity.assess.subject import Subject
from integrity.endpoint import Endpoint
from integrity.progress import Silent
from integrity.settings import load_settings
from integrity.strategy import Strategy

_STEPS = {
    "full": "census, every key",
    "sampled": "census, sampled",
    "checks": "all checks, sampled",
    "verify": "verify pass",
}


@dataclass(frozen=True, slots=True)
class Sample:
    """One measured step."""

    keys: int
    seconds: float
    client_cpu: float
    source_cpu: float
    peak_rss_mib: float


def main() -> None:
    """Measure and print; or, as a child, do one step."""
    parser = argparse.ArgumentParser(description="The assessment beside a verify pass.")
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--step", choices=["full", "sampled", "checks"], help=argparse.SUPPRESS)
    parser.add_argument("--source", default="", help=argparse.SUPPRESS)
    parser.add_argument("--target", default="", help=argparse.SUPPRESS)
    parser.add_argument("--source-pid", type=int, default=0, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step:
        _step(arguments.step, arguments.source, arguments.target, arguments.source_pid)
    else:
        _measure(arguments.keys, arguments.rounds)


def _measure(keys: int, rounds: int) -> None:
    redis = find_redis_server()
    if redis is None:
        sys.exit("redis-server is not on PATH.")
    dragonfly = find_dragonfly()
    samples: dict[str, list[Sample]] = {}
    with ExitStack() as stack:
        blue = stack.enter_context(start_redis(redis, name="blue"))
        print(f"{blue.title}; filling {keys:,} keys …", file=sys.stderr)
        fill(blue.url, keys)
        greens = {"Redis": stack.enter_context(start_redis(redis, name="green"))}
        if dragonfly is not None:
            greens["Dragonfly"] = stack.enter_context(
                start_dragonfly(dragonfly, "--maxmemory", "2gb", name="green")
            )
        for green in greens.values():
            _phase("stream", blue, green)
        for number in range(rounds):
            print(f"round {number + 1} of {rounds}", file=sys.stderr)
            for step in ("full", "sampled"):
                samples.setdefault(_STEPS[step], []).append(_child(step, blue, greens["Redis"]))
            for engine, green in greens.items():
                named = {step: f"{_STEPS[step]}, Redis and {engine}" for step in ("checks", "verify")}
                samples.setdefault(named["checks"], []).append(_child("checks", blue, green))
                samples.setdefault(named["verify"], []).append(_phase("verify", blue, green))
    _print(samples, keys)


def _child(step: str, blue: RunningServer, green: RunningServer) -> Sample:
    servers = ["--source", blue.url, "--target", green.url, "--source-pid", str(blue.pid)]
    command = [sys.executable, "-m", "benchmarks.assess", "--step", step, *servers]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return Sample(**json.loads(done.stdout))


def _phase(phase: str, blue: RunningServer, green: RunningServer) -> Sample:
    servers = ["--source", blue.url, "--target", green.url]
    servers += ["--source-pid", str(blue.pid), "--target-pid", str(green.pid)]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "benchmarks.one_phase", phase, *servers, "--state-dir", folder]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    facts = json.loads(done.stdout)
    if phase == "verify" and facts["verdict"] != "PASS":
        sys.exit(f"verify said {facts['verdict']}")
    return Sample(
        facts["keys"], facts["seconds"], facts["client_cpu"], facts["source_cpu"], facts["peak_rss_mib"]
    )


def _step(step: str, source_url: str, target_url: str, source_pid: int) -> None:
    mode = "full" if step == "full" else "sampled"
    settings = load_settings(
        {"source": {"url": source_url}, "target": {"url": target_url}, "assess": {"mode": mode}}, environ={}
    ).settings
    source = Endpoint.from_settings("source", settings.source)
    target = Endpoint.from_settings("target", settings.target)
    server = psutil.Process(source_pid)
    busy, cpu, began = _cpu(server), time.process_time(), time.monotonic()
    identity = source.identify()
    if step == "checks":
        subject = Subject(
            settings,
            source,
            target,
            identity,
            target.identify(),
            Strategy.COPY,
            tuple(identity.databases),
            Silent(),
        )
        make_checks(subject, all_checks())
        census = subject.census
    else:
        census = take_census(source, identity, tuple(identity.databases), settings, Silent())
    sample = {
        "keys": census.keys_looked_at,
        "seconds": time.monotonic() - began,
        "client_cpu": time.process_time() - cpu,
        "source_cpu": _cpu(server) - busy,
        "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    json.dump(sample, sys.stdout)


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _print(samples: dict[str, list[Sample]], keys: int) -> None:
    rounds = len(next(iter(samples.values())))
    print(f"\n{keys:,} mixed keys, medians of {rounds} rounds, {psutil.cpu_count()} cores\n")
    print(f"{'':<42}{'seconds':>9}{'keys':>11}{'keys/s':>10}{'CPU µs per key':>22}{'peak':>8}")
    print(f"{'':<42}{'':>9}{'':>11}{'':>10}{'client':>12}{'source':>10}{'MiB':>8}")
    for name, taken in samples.items():
        looked_at = round(statistics.median(s.keys for s in taken))
        seconds = statistics.median(s.seconds for s in taken)
        client, source = (
            statistics.median(getattr(s, field) / s.keys * 1e6 for s in taken)
            for field in ("client_cpu", "source_cpu")
        )
        peak = max(s.peak_rss_mib for s in taken)
        print(
            f"{name:<42}{seconds:>9.2f}{looked_at:>11,}{looked_at / seconds:>10,.0f}{client:>12.2f}{source:>10.2f}"
            f"{peak:>8.0f}"
        )


if __name__ == "__main__":
    main()
