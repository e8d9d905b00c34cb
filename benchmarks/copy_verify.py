"""Copy and verify beside ``MIGRATE … KEYS``, in one run on one machine.

    python -m benchmarks.copy_verify [--keys 1000000] [--rounds 3]

Every round measures, in turn: MIGRATE of 1,000 keys at a time over one connection (Redis to Redis), Greenfly's copy
into a second Redis and its verify, and the same into a real Dragonfly where one is on PATH.  Printed are the medians;
compare ratios and CPU per key, not seconds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
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
from integrity.address import parse_address
from integrity.keyspace import scan_command, scan_reply
from integrity.replies import ErrorReply
from integrity.wire import Connection, Target, pack


@dataclass(frozen=True, slots=True)
class Sample:
    """One measured pass."""

    keys: int
    seconds: float
    client_cpu: float
    source_cpu: float
    target_cpu: float
    peak_rss_mib: float


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Copy and verify beside MIGRATE.")
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="also write every sample here")
    arguments = parser.parse_args()
    redis = find_redis_server()
    if redis is None:
        sys.exit("redis-server is not on PATH.")
    dragonfly = find_dragonfly()
    samples: dict[str, list[Sample]] = {}
    with ExitStack() as stack:
        blue = stack.enter_context(start_redis(redis, name="blue"))
        print(f"{blue.title}; filling {arguments.keys:,} keys …", file=sys.stderr)
        fill(blue.url, arguments.keys)
        for number in range(arguments.rounds):
            print(f"round {number + 1} of {arguments.rounds}", file=sys.stderr)
            with start_redis(redis, name="green") as green:
                samples.setdefault("MIGRATE … KEYS ×1000, Redis → Redis", []).append(_migrate(blue, green))
            with start_redis(redis, name="green") as green:
                for name, sample in _greenfly(blue, green, "Redis"):
                    samples.setdefault(name, []).append(sample)
            with start_redis(redis, name="green") as green:
                for name, sample in _greenfly(blue, green, "Redis", probe=False):
                    samples.setdefault(name, []).append(sample)
            if dragonfly is not None:
                with start_dragonfly(dragonfly, "--maxmemory", "4gb", name="green") as green:
                    for name, sample in _greenfly(blue, green, "Dragonfly"):
                        samples.setdefault(name, []).append(sample)
    _print(samples, arguments.keys)
    if arguments.json:
        table = {name: [asdict(sample) for sample in taken] for name, taken in samples.items()}
        arguments.json.write_text(json.dumps(table, indent=2))


def _greenfly(
    blue: RunningServer, green: RunningServer, engine: str, *, probe: bool = True
) -> Iterator[tuple[str, Sample]]:
    phases: list[tuple[str, str, list[str]]] = [("stream", "copy", []), ("verify", "verify", [])]
    if not probe:
        phases = [("stream", "copy without size probe", ["--no-probe"])]
    for phase, title, extra in phases:
        with tempfile.TemporaryDirectory() as folder:
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
            command += [
                "--source-pid",
                str(blue.pid),
                "--target-pid",
                str(green.pid),
                "--state-dir",
                folder,
                *extra,
            ]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
        facts = json.loads(done.stdout)
        if phase == "verify" and facts["verdict"] != "PASS":
            sys.exit(f"verify said {facts['verdict']}")
        facts.pop("verdict")
        yield f"Greenfly {title}, Redis → {engine}", Sample(**facts)


def _migrate(blue: RunningServer, green: RunningServer) -> Sample:
    """MIGRATE … COPY REPLACE KEYS, 1,000 keys at a time, driven over one raw connection."""
    host, port = "127.0.0.1", str(parse_address(green.url, "green").port)
    servers = [psutil.Process(blue.pid), psutil.Process(green.pid)]
    before = [_cpu(s) for s in servers]
    cpu, started, keys = time.process_time(), time.monotonic(), 0
    with Connection(
        Target("source", parse_address(blue.url, "blue"), io_timeout=120), name="benchmark"
    ) as connection:
        cursor = -1
        while cursor:
            connection.send(scan_command(max(cursor, 0), 1000))
            cursor, page = scan_reply(connection, connection.receive())
            if page:
                tail = [b"COPY", b"REPLACE", b"KEYS", *page]
                reply = connection.exchange(
                    [pack(b"MIGRATE", host.encode(), port.encode(), b"", b"0", b"60000", *tail)]
                )[0]
                if isinstance(reply, ErrorReply):
                    sys.exit(f"MIGRATE failed: {reply}")
                keys += len(page)
    seconds = time.monotonic() - started
    source, target = (_cpu(s) - b for s, b in zip(servers, before, strict=True))
    return Sample(keys, seconds, time.process_time() - cpu, source, target, 0.0)


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _print(samples: dict[str, list[Sample]], keys: int) -> None:
    base = statistics.median(s.keys / s.seconds for s in next(iter(samples.values())))
    print(
        f"\n{keys:,} mixed keys, medians of {len(next(iter(samples.values())))} rounds, {psutil.cpu_count()} cores\n"
    )
    print(f"{'':<54}{'keys/s':>10}{'× MIGRATE':>11}{'CPU µs per key':>32}{'peak':>10}")
    print(f"{'':<54}{'':>10}{'':>11}{'client':>12}{'source':>10}{'target':>10}{'MiB':>10}")
    for name, taken in samples.items():
        rate = statistics.median(s.keys / s.seconds for s in taken)
        client, source, target = (
            statistics.median(getattr(s, field) / s.keys * 1e6 for s in taken)
            for field in ("client_cpu", "source_cpu", "target_cpu")
        )
        peak = max(s.peak_rss_mib for s in taken)
        shown = f"{peak:>10.0f}" if peak else f"{'-':>10}"
        print(
            f"{name:<54}{rate:>10,.0f}{rate / base:>11.2f}{client:>12.2f}{source:>10.2f}{target:>10.2f}{shown}"
        )


if __name__ == "__main__":
    main()
