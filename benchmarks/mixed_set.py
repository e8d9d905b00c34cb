"""The mixed set of every measurement: 70 % strings of 32–256 bytes, hashes, lists, sets, zsets; 30 % expire.

Written with raw pipelined commands, because filling is not what is measured.
"""

from __future__ import annotations

import time
from random import Random

from integrity.address import parse_address
from integrity.errors import ProtocolError
from integrity.replies import ErrorReply
from integrity.wire import Connection, Target, pack

_BATCH = 500


def fill(url: str, keys: int, seed: int = 7) -> None:
    """Write *keys* keys into database 0 of an empty server."""
    rng = Random(seed)
    noise = rng.randbytes(1 << 16)
    now_ms = int(time.time() * 1000)
    with Connection(Target("source", parse_address(url, "benchmark")), name="benchmark") as connection:
        commands: list[bytes] = []
        for number in range(keys):
            commands += _key(rng, noise, number, now_ms)
            if len(commands) >= _BATCH or number == keys - 1:
                for reply in connection.exchange(commands):
                    if isinstance(reply, ErrorReply):
                        raise ProtocolError("source", url, f"filling failed ({reply}).")
                commands.clear()


def _text(rng: Random, noise: bytes, low: int, high: int) -> bytes:
    length = rng.randint(low, high)
    start = rng.randrange(len(noise) - length)
    return noise[start : start + length]


def _key(rng: Random, noise: bytes, number: int, now_ms: int) -> list[bytes]:
    kind = rng.random()
    name = b"bench:%d:%d" % (number % 977, number)
    if kind < 0.70:
        commands = [pack(b"SET", name, _text(rng, noise, 32, 256))]
    elif kind < 0.80:
        pairs = [
            part for i in range(rng.randint(5, 15)) for part in (b"field:%d" % i, _text(rng, noise, 8, 40))
        ]
        commands = [pack(b"HSET", name, *pairs)]
    elif kind < 0.87:
        commands = [pack(b"RPUSH", name, *(_text(rng, noise, 8, 40) for _ in range(rng.randint(5, 20))))]
    elif kind < 0.94:
        commands = [
            pack(b"SADD", name, *(b"member:%d" % rng.randrange(10**6) for _ in range(rng.randint(5, 20))))
        ]
    else:
        pairs = [p for i in range(rng.randint(5, 20)) for p in (repr(rng.random()).encode(), b"m:%d" % i)]
        commands = [pack(b"ZADD", name, *pairs)]
    if rng.random() < 0.30:
        commands.append(pack(b"PEXPIREAT", name, b"%d" % (now_ms + rng.randint(10**7, 10**9))))
    return commands
