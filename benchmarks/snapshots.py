"""Snapshots of values of hundreds of megabytes: is memory bounded, and is the source left alone?

    python -m benchmarks.snapshots [--scale 1.0] [--encrypt]
    python -m benchmarks.snapshots --methods 300000

The values of :mod:`benchmarks.big_values` but the stream (which is read by DUMP, and whole), taken, verified and
restored into a second Redis and, where one is on PATH, into a real Dragonfly.  Each step is a process of its own.
Printed are its time and peak memory, the source's slowest commands (its own SLOWLOG) and how long a PING waited there;
then whether redis-check-rdb passes the file and how long a new Redis takes to load it.

``--methods`` compares the two ways to take one, by SCAN and by replication, of that many keys of the mixed set: how
long a PING waits at the source meanwhile, and how busy its main thread is.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import redis

from benchmarks.big_values import Waits, load
from benchmarks.mixed_set import fill
from greenfly.demo.servers import (
    RunningServer,
    find_dragonfly,
    find_redis_server,
    start_dragonfly,
    start_redis,
)
from integrity.endpoint import Endpoint
from integrity.progress import Silent
from integrity.settings import load_settings
from integrity.snapshot.by_replication import ReplicationTaker
from integrity.snapshot.check import inspect_snapshot
from integrity.snapshot.create import SnapshotTaker
from integrity.snapshot.restored import restore_snapshot
from integrity.snapshot.sealing import generate_key, load_keys

_SLOW_MICROSECONDS = 1000
_FACTS = ("wall", "peak_rss_mib")


def main() -> None:
    """Load, measure, print; or, as a child, do one step."""
    parser = argparse.ArgumentParser(description="Snapshots of values of hundreds of megabytes.")
    parser.add_argument("--scale", type=float, default=1.0, help="fraction of the sizes")
    parser.add_argument("--encrypt", action="store_true", help="encrypted snapshots")
    parser.add_argument("--methods", type=int, metavar="KEYS", help="scan and replication side by side")
    parser.add_argument("--step", choices=["take", "receive", "verify", "restore"], help=argparse.SUPPRESS)
    parser.add_argument("--url", default="", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--recipient", default="", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step:
        _step(arguments.step, arguments.url, arguments.folder, arguments.recipient)
    elif arguments.methods:
        _compare_methods(arguments.methods)
    else:
        _measure(arguments.scale, encrypt=arguments.encrypt)


def _measure(scale: float, *, encrypt: bool) -> None:
    program = find_redis_server()
    if program is None:
        sys.exit("redis-server is not on PATH.")
    dragonfly = find_dragonfly()
    with ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        blue = stack.enter_context(start_redis(program, name="blue"))
        print(f"{blue.title}; loading …", file=sys.stderr)
        with redis.Redis.from_url(blue.url) as client:
            load(client, scale)
            client.delete("big:stream")
            client.config_set("slowlog-log-slower-than", _SLOW_MICROSECONDS)
            client.config_set("slowlog-max-len", 100_000)
        environment = dict(os.environ)
        recipient = ""
        if encrypt:
            recipient = generate_key(work / "key")
            environment["GREENFLY_SNAPSHOT__IDENTITY_FILE"] = str(work / "key")
        folder = work / "taken"
        waits = Waits(blue.url)
        with redis.Redis.from_url(blue.url) as client:
            client.slowlog_reset()
            waits.start()
            _run("take", blue.url, folder, recipient, environment)
            waits.stop()
            _print_slowest(client)
        print(f"          PING waited at the source: {waits.shown()}")
        size = sum(path.stat().st_size for path in folder.iterdir()) / 2**20
        print(f"          the folder has {size:,.0f} MiB")
        _run("verify", "", folder, recipient, environment)
        with start_redis(program, name="green") as green:
            _run("restore", green.url, folder, recipient, environment)
        if dragonfly is not None:
            with start_dragonfly(dragonfly, "--maxmemory", "8gb", name="green") as green:
                _run("restore", green.url, folder, recipient, environment)
        if not encrypt:
            _load_file(program, folder, blue)


def _compare_methods(keys: int) -> None:
    program = find_redis_server()
    if program is None:
        sys.exit("redis-server is not on PATH.")
    with ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        blue = stack.enter_context(start_redis(program, "--repl-diskless-sync-delay", "0", name="blue"))
        print(f"{blue.title}; {keys:,} keys of the mixed set; repl-diskless-sync-delay 0")
        fill(blue.url, keys)
        client = stack.enter_context(redis.Redis.from_url(blue.url))
        _watched("nothing", blue.url, client, lambda: time.sleep(5))
        for step in ("take", "receive"):
            _watched(
                "scan" if step == "take" else "replication",
                blue.url,
                client,
                partial(_run, step, blue.url, work / step, "", os.environ),
            )


def _watched(name: str, url: str, client: redis.Redis, work: Callable[[], None]) -> None:
    """Run *work*, and print what it was like for the source."""
    waits, before, started = Waits(url), _main_thread_seconds(client), time.monotonic()
    waits.start()
    work()
    waits.stop()
    seconds = time.monotonic() - started
    busy = _main_thread_seconds(client) - before
    print(f"  {name:<12} PING {waits.shown()}   main thread busy {busy:.1f} of {seconds:.1f} s")


def _main_thread_seconds(client: redis.Redis) -> float:
    cpu = client.info("cpu")
    return float(cpu["used_cpu_user_main_thread"]) + float(cpu["used_cpu_sys_main_thread"])


def _run(step: str, url: str, folder: Path, recipient: str, environment: Mapping[str, str]) -> None:
    command = [sys.executable, "-m", "benchmarks.snapshots", "--step", step]
    command += ["--url", url, "--folder", str(folder), "--recipient", recipient]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    facts = json.loads(done.stdout)
    rest = "   ".join(f"{name} {value}" for name, value in facts.items() if name not in _FACTS)
    print(f"  {step:<7} {facts['wall']:6.1f} s   peak {facts['peak_rss_mib']:4.0f} MiB   {rest}")


def _step(step: str, url: str, folder: Path, recipient: str) -> None:
    role = "source" if step in {"take", "receive"} else "target"
    overrides = {role: {"url": url}} if url else {}
    settings = load_settings(overrides).settings
    started = time.monotonic()
    facts: dict[str, object] = {}
    if step == "take":
        source = Endpoint.from_settings("source", settings.source)
        taken = SnapshotTaker(
            source,
            source.identify(),
            folder,
            batch_keys=settings.snapshot.batch_keys,
            encrypt_to=[recipient] if recipient else [],
            big_values=settings.big_values,
            on_progress=lambda keys, size: None,
        ).take([0])
        facts = {"keys": taken.totals.keys, "in pieces": taken.totals.in_pieces}
    elif step == "receive":
        source = Endpoint.from_settings("source", settings.source)
        taker = ReplicationTaker(source, source.identify(), folder, on_progress=lambda keys, size: None)
        facts = {"keys": taker.take().totals.keys}
        if taker.received is not None:
            facts |= {"received in": f"{taker.received.seconds:.1f} s"}
    elif step == "verify":
        found = inspect_snapshot(folder, load_keys(settings.snapshot))
        facts = {"keys": found.keys, "problems": len(found.problems)}
    else:
        outcome = restore_snapshot(settings, folder, None, Silent())
        facts = {
            "to": outcome.target_engine,
            "in pieces": outcome.totals.in_pieces,
            "verdict": outcome.verdict.value,
        }
    facts["wall"] = time.monotonic() - started
    facts["peak_rss_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    json.dump(facts, sys.stdout)


def _print_slowest(client: redis.Redis) -> None:
    worst: dict[str, int] = {}
    for entry in client.slowlog_get(100_000):
        name = entry["command"].split(b" ", 1)[0].decode()
        worst[name] = max(worst.get(name, 0), entry["duration"])
    slowest = sorted(worst.items(), key=lambda item: -item[1])[:6]
    named = ", ".join(f"{name} {us / 1000:.1f} ms" for name, us in slowest)
    print(f"          slowest commands at the source: {named or 'none over 1 ms'}")


def _load_file(program: Path, folder: Path, blue: RunningServer) -> None:
    checker = shutil.which("redis-check-rdb")
    if checker is not None:
        done = subprocess.run([checker, str(folder / "dump.rdb")], capture_output=True, check=False)
        print(f"  redis-check-rdb: {'OK' if done.returncode == 0 else 'REFUSED'}")
    started = time.monotonic()
    with (
        start_redis(program, "--dir", str(folder), "--dbfilename", "dump.rdb", name="loaded") as loaded,
        redis.Redis.from_url(loaded.url) as client,
        redis.Redis.from_url(blue.url) as source,
    ):
        while client.info("persistence")["loading"]:
            time.sleep(0.1)
        seconds = time.monotonic() - started
        print(f"  a new Redis loads it in {seconds:.1f} s: {client.dbsize()} of {source.dbsize()} keys")


if __name__ == "__main__":
    main()
