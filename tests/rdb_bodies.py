"""Bodies of values as servers wrote them (``rdb_bodies.txt``), and what those servers answered for them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from integrity.replies import Reply


@dataclass(frozen=True, slots=True)
class Written:
    """A body, and what it stands for."""

    name: str
    rdb_type: int
    version: int
    body: bytes
    value: Reply


M65: Final = b"m" * 65
V65: Final = b"v" * 65


def _stream(delivered_ms: int, counts: bool) -> Reply:
    """Of three entries one was deleted, and one is pending.

    :param counts: whether the server keeps counters.
    """
    group: list[Reply] = [b"name", b"g", b"last-delivered-id", b"5-1"]
    group += [b"entries-read", None] if counts else []
    group += [b"pending", [[b"5-1", b"me", delivered_ms, 1]], b"consumers", [[b"name", b"me"]]]
    table: list[Reply] = [b"length", 2, b"last-generated-id", b"6-0"]
    table += [b"max-deleted-entry-id", b"5-3", b"entries-added", 3] if counts else []
    entries: list[Reply] = [[b"5-1", [b"a", b"1"]], [b"6-0", [b"b", b"x", b"c", b"y"]]]
    return [*table, b"entries", entries, b"groups", [group]]


VALUES: Final[dict[str, Reply]] = {
    "packed list": [b"a", b"", b"-1", b"300", b"100000", b"12345678901", b"x" * 70],
    "list of two nodes": [b"a", b"b", b"c", b"y" * 30],
    "16-bit numbers": [b"-300", b"1"],
    "32-bit numbers": [b"1", b"70000"],
    "64-bit numbers": [b"1", b"9223372036854775807"],
    "set": [b"a", b"7"],
    "set, compressed member": [M65, b"7"],
    "packed sorted set": [b"b", b"-2.5", b"a", b"1", b"c", b"inf"],
    "sorted set": [M65, b"1.0", b"b", b"-inf"],
    "packed hash": [b"f", b"v", b"n", b"-1234567"],
    "hash": [b"f", V65, b"n", b"-7"],
    "number of 8 bits": b"-7",
    "number of 16 bits": b"300",
    "number of 32 bits": b"-70000",
    "string": b"12345678901",
    "compressed string": b"abc" * 20,
    "stream of Redis 6.2": _stream(1795663280611, False),
    "packed list of 7.0": [b"a", b"", b"-1", b"300", b"100000", b"12345678901", b"x" * 70],
    "list of two nodes of 7.0": [b"a", b"b", b"c", b"y" * 30],
    "list with a big element": [b"a"],
    "packed sorted set of 7.0": [b"b", b"-2.5", b"a", b"1", b"c", b"inf"],
    "packed hash of 7.0": [b"f", b"v", b"n", b"-1234567"],
    "stream of Redis 7.0": _stream(1795663280865, True),
    "packed set": [b"a", b"7"],
    "packed hash with field expiry": [b"g", b"w", b"f", b"v"],
    "hash with field expiries": [b"h", b"x", b"f", V65, b"g", b"w"],
    "stream of Redis 7.2": _stream(1795663281026, True),
    "hash with field expiries of Valkey": [b"f", V65, b"g", b"w", b"h", b"x"],
    "hash with field expiry of Dragonfly": [b"f", b"v", b"g", b"w"],
    "set with member expiry": [b"m", b"n"],
    "JSON": b'{"a":"x","b":[1.5,null]}',
    "plain list": [b"a", b"7"],
    "scores as text": [b"a", b"-1.0", b"b", b"1.25", b"c", b"inf"],
    "zipmap": [b"foo", b"bar", b"x", b"y"],
    "packed list of before 3.2": [b"a", b"b"],
    "packed hash with field expiry, candidate": [b"g", b"w", b"f", b"v"],
    "hash with field expiries, candidate": [b"f", b"v", b"g", b"w"],
}
"""What the servers answered for each body of ``rdb_bodies.txt``; a form that several servers write is there once."""


def _read(path: Path) -> Iterator[Written]:
    for line in path.read_text("utf-8").splitlines():
        if not line.startswith("#"):
            name, rdb_type, version, body = line.split("; ")
            yield Written(name, int(rdb_type), int(version), bytes.fromhex(body), VALUES[name])


WRITTEN: Final = list(_read(Path(__file__).parent / "rdb_bodies.txt"))
