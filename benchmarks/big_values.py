"""Values of hundreds of megabytes: is memory bounded, and is the source left alone?

    python -m benchmarks.big_values [--scale 1.0]

One string of 300 MiB, a sorted set of 5,000,000 members, a hash of 2,000,000 fields, a set and a list of 2,000,000
elements and a stream of 1,000,000 entries, copied and verified from Redis into a second Redis and, where one is on
PATH, into a real Dragonfly.  Printed are the peak memory of the process, the source's slowest commands (its own
SLOWLOG, so without waiting), how long a PING had to wait at each server, and, for comparison, how long one DUMP of the
same values stops the source.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack

import redis

from greenfly.demo.servers import (
    RunningServer,
    find_dragonfly,
    find_redis_server,
    start_dragonfly,
    start_redis,
)

_BATCH = 10_000
_SLOW_MICROSECONDS = 1000


def main() -> None:
    """Load, measure, print."""
    parser = argparse.ArgumentParser(description="Values of hundreds of megabytes.")
    parser.add_argument("--scale", type=float, default=1.0, help="fraction of the sizes above")
    parser.add_argument("--dump", action="store_true", help="also measure one DUMP of each value")
    arguments = parser.parse_args()
    program = find_redis_server()
    if program is None:
        sys.exit("redis-server is not on PATH.")
    dragonfly = find_dragonfly()
    with ExitStack() as stack:
        blue = stack.enter_context(start_redis(program, name="blue"))
        print(f"{blue.title}; loading …", file=sys.stderr)
        with redis.Redis.from_url(blue.url) as client:
            load(client, arguments.scale)
            client.config_set("slowlog-log-slower-than", _SLOW_MICROSECONDS)
            client.config_set("slowlog-max-len", 100_000)
        with start_redis(program, name="green") as green:
            _measure(blue, green)
        if dragonfly is not None:
            with start_dragonfly(dragonfly, "--maxmemory", "8gb", name="green") as green:
                _measure(blue, green)
        if arguments.dump:
            _dump(blue)


def load(client: redis.Redis, scale: float) -> None:
    """Write the big values, and 10,000 small ones around them."""
    pipe = client.pipeline(transaction=False)
    for number in range(10_000):
        pipe.set(f"small:{number}", f"value {number}")
    pipe.execute()
    megabyte = bytes(range(256)) * 4096
    for _ in range(int(300 * scale)):
        client.append("big:string", megabyte)
    for start in range(0, int(5_000_000 * scale), _BATCH):
        client.zadd("big:zset", {f"member:{i}": i * 0.37 for i in range(start, start + _BATCH)})
    for start in range(0, int(2_000_000 * scale), _BATCH):
        numbers = range(start, start + _BATCH)
        client.hset("big:hash", mapping={f"field:{i}": f"value {i}" for i in numbers})
        client.sadd("big:set", *[f"member:{i}" for i in numbers])
        client.rpush("big:list", *[f"element {i}" for i in numbers])
    for start in range(0, int(1_000_000 * scale), _BATCH):
        for i in range(start, start + _BATCH):
            pipe.xadd("big:stream", {"number": i, "text": f"entry {i}"}, id=f"{i + 1}-1")
        pipe.execute()
    client.xgroup_create("big:stream", "workers", id="0")
    client.xreadgroup("workers", "one", {"big:stream": ">"}, count=50_000)


def _measure(blue: RunningServer, green: RunningServer) -> None:
    print(f"\n{blue.title} → {green.title}")
    for phase in ("stream", "verify"):
        with redis.Redis.from_url(blue.url) as client, tempfile.TemporaryDirectory() as folder:
            client.slowlog_reset()
            waits = {"source": Waits(blue.url), "target": Waits(green.url)}
            for wait in waits.values():
                wait.start()
            command = [sys.executable, "-m", "benchmarks.one_phase", phase]
            command += ["--source", blue.url, "--target", green.url, "--state-dir", folder]
            command += ["--source-pid", str(blue.pid), "--target-pid", str(green.pid)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            for wait in waits.values():
                wait.stop()
            facts = json.loads(done.stdout)
            slow = client.slowlog_get(100_000)
        print(
            f"  {phase:<7} {facts['seconds']:6.1f} s   peak {facts['peak_rss_mib']:4.0f} MiB   "
            f"client CPU {facts['client_cpu']:.1f} s" + (f"   {facts['verdict']}" if facts["verdict"] else "")
        )
        for role, wait in waits.items():
            print(f"          PING waited at the {role}: {wait.shown()}")
        worst: dict[str, int] = {}
        for entry in slow:
            name = entry["command"].split(b" ", 1)[0].decode()
            worst[name] = max(worst.get(name, 0), entry["duration"])
        named = ", ".join(
            f"{n} {us / 1000:.1f} ms" for n, us in sorted(worst.items(), key=lambda i: -i[1])[:6]
        )
        print(f"          slowest commands at the source: {named or 'none over 1 ms'}")


class Waits:
    """How long a PING waits at a server, asked every few milliseconds from a thread of its own."""

    def __init__(self, url: str) -> None:
        self._client = redis.Redis.from_url(url, socket_timeout=120)
        self._taken: list[float] = []
        self._going = True
        self._thread = threading.Thread(target=self._ask, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End."""
        self._going = False
        self._thread.join()
        self._client.close()

    def _ask(self) -> None:
        while self._going:
            began = time.monotonic()
            self._client.ping()
            self._taken.append(time.monotonic() - began)
            time.sleep(0.002)

    def shown(self) -> str:
        """Median, 99th percentile and maximum in milliseconds."""
        taken = sorted(self._taken)
        p50, p99 = taken[len(taken) // 2], taken[len(taken) * 99 // 100]
        return f"p50 {p50 * 1000:.1f}, p99 {p99 * 1000:.1f}, max {taken[-1] * 1000:.1f} ms"


def _dump(blue: RunningServer) -> None:
    print(f"\nOne DUMP at {blue.title}")
    with redis.Redis.from_url(blue.url, socket_timeout=120) as client:
        for key in client.scan_iter(match="big:*"):
            client.slowlog_reset()
            size = len(client.dump(key) or b"")
            entries = [e for e in client.slowlog_get(10) if e["command"].startswith(b"DUMP")]
            took = entries[0]["duration"] / 1000 if entries else 0.0
            print(f"  {key.decode():<12} {size / 2**20:7.1f} MiB   stopped the server for {took:8.1f} ms")


if __name__ == "__main__":
    main()
