"""Runs one phase of the engine in a process of its own and prints what it cost, as JSON.

Started by :mod:`benchmarks.copy_verify`; a process of its own so that its CPU and peak memory are the phase's alone.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from pathlib import Path

import psutil

from integrity.ledger import open_ledger
from integrity.ledger.models import RunKind
from integrity.migration import Run
from integrity.phases.servers import Servers
from integrity.progress import Silent
from integrity.settings import load_settings


def main() -> None:
    """Parse the arguments, run, print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("phase", choices=["stream", "verify", "snapshot"])
    parser.add_argument("--source", required=True)
    parser.add_argument("--target", required=True)
    parser.add_argument("--source-pid", type=int, required=True)
    parser.add_argument("--target-pid", type=int, required=True)
    parser.add_argument("--state-dir", type=Path, required=True)
    parser.add_argument("--no-probe", action="store_true", help="do not ask for the size of each key")
    parser.add_argument("--workers", type=int, default=1)
    arguments = parser.parse_args()
    settings = load_settings(
        {
            "source": {"url": arguments.source},
            "target": {"url": arguments.target},
            "state_dir": arguments.state_dir,
            "copy": {"probe_sizes": not arguments.no_probe},
            "workers": arguments.workers,
        },
        environ={},
    ).settings
    ledger = open_ledger(settings)
    kind = RunKind.MIGRATE if arguments.phase == "stream" else RunKind.VERIFY
    run = Run.start(settings, ledger, kind, Silent())
    servers = [psutil.Process(arguments.source_pid), psutil.Process(arguments.target_pid)]
    with run.recorded():
        found = run.check()
        cpu_before, process_before, started = (
            [_cpu(s) for s in servers],
            time.process_time(),
            time.monotonic(),
        )
        _phase(run, arguments.phase, found)
        seconds = time.monotonic() - started
        workers = resource.getrusage(resource.RUSAGE_CHILDREN)
        client = time.process_time() - process_before + workers.ru_utime + workers.ru_stime
        source, target = (_cpu(s) - before for s, before in zip(servers, cpu_before, strict=True))
    phase = next(p for p in ledger.phases(run.id) if p.name.value == arguments.phase)
    verdict = ledger.find_run(run.id).verdict
    json.dump(
        {
            "keys": phase.keys,
            "seconds": seconds,
            "client_cpu": client,
            "source_cpu": source,
            "target_cpu": target,
            "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            "verdict": verdict.value if verdict else None,
        },
        sys.stdout,
    )


def _phase(run: Run, name: str, servers: Servers) -> None:
    if name == "stream":
        run.stream(servers)
    elif name == "verify":
        run.verify(servers)
    else:
        run.snapshot(servers.source, servers.source_identity, servers.databases)


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


if __name__ == "__main__":
    main()
