"""The oracle of the matrix: everything about one key that typed commands can tell, and how two such readings differ.

It shares no code with the engine, and sees more than the engine's definition of equality holds: what that leaves out
(:data:`OUTSIDE`) is shown beside the cells, never hidden.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

from tests.matrix.servers import Server
from tests.oracle import _registers
from tests.raw import (
    Raw,
    as_bytes,
    as_entries,
    as_int,
    as_list,
    as_scalar,
    as_strings,
    as_table,
)

Facet: TypeAlias = Literal[
    "presence",
    "type",
    "value",
    "expiry",
    "field expiry",
    "member expiry",
    "counters",
    "entries-read",
    "last seen",
    "delivery time",
    "sign of zero",
]
OUTSIDE: Final[frozenset[Facet]] = frozenset({"entries-read", "last seen", "delivery time", "sign of zero"})
"""Left out of the definition of equality (docs/checksum.md)."""

_TOLERANCE_MS: Final = 1000
_USE_TOLERANCE_MS: Final = 500
"""Between two readings of an idle time, on a busy machine."""
_DRAGONFLY_SECOND_MS: Final = 1000


@dataclass(frozen=True, slots=True)
class Facts:
    """One key as one server tells it."""

    kind: str
    """``none`` where it is not there."""
    value: object = None
    expiry_ms: int | None = None
    fields_ms: dict[bytes, int] = field(default_factory=dict)
    """Absolute expiry of each hash field that has one."""
    members_ms: dict[bytes, int] = field(default_factory=dict)
    """Absolute expiry of each set member that has one."""
    counters: tuple[object, object] | None = None
    """Entries added and the highest deleted id; None where the server keeps none."""
    entries_read: dict[bytes, object] = field(default_factory=dict)
    """By group."""
    seen_ms: dict[bytes, int] = field(default_factory=dict)
    """When each consumer of each group was last seen."""
    delivered_ms: dict[bytes, int] = field(default_factory=dict)
    """When each pending entry of each group was delivered."""
    negative_zeros: frozenset[bytes] = frozenset()
    """Members whose score is -0."""


class Reader(Raw):
    """Reads keys of one server's database 0."""

    def __init__(self, server: Server) -> None:
        super().__init__(server.url)
        self._server = server

    def facts(self, key: bytes) -> Facts:
        """Everything about *key*."""
        kind = as_bytes(self(b"TYPE", key)).decode()
        if kind == "none":
            return Facts(kind)
        expiry = self._expiry(key)
        match kind:
            case "string":
                value = as_bytes(self(b"GET", key))
                registers = _registers(value)
                return Facts(kind, value if registers is None else tuple(registers), expiry)
            case "list":
                return Facts(kind, as_strings(self(b"LRANGE", key, 0, -1)), expiry)
            case "set":
                members = as_strings(self(b"SMEMBERS", key))
                return Facts(kind, frozenset(members), expiry, members_ms=self._members(key, members))
            case "zset":
                scores = {
                    m: float(as_bytes(s))
                    for m, s in as_table(self(b"ZRANGE", key, 0, -1, b"WITHSCORES")).items()
                }
                zeros = frozenset(m for m, s in scores.items() if s == 0 and math.copysign(1, s) < 0)
                return Facts(kind, scores, expiry, negative_zeros=zeros)
            case "hash":
                table = as_table(self(b"HGETALL", key))
                return Facts(kind, table, expiry, fields_ms=self._fields(key, list(table)))
            case "stream":
                return self._stream(key, expiry)
            case "ReJSON-RL":
                return Facts(kind, json.loads(as_bytes(self(b"JSON.GET", key))), expiry)
        # Another type: its payload without version and checksum.
        return Facts(kind, as_bytes(self(b"DUMP", key))[:-10], expiry)

    def _now(self) -> int:
        # Strings on Redis, numbers on Dragonfly.
        seconds, micros = (int(as_scalar(part)) for part in as_list(self(b"TIME")))
        return seconds * 1000 + micros // 1000

    def _expiry(self, key: bytes) -> int | None:
        if self._server.knows(b"PEXPIRETIME"):
            at = as_int(self(b"PEXPIRETIME", key))
            return at if at >= 0 else None
        left, now = as_int(self(b"PTTL", key)), self._now()
        return now + left if left >= 0 else None

    def _fields(self, key: bytes, fields: Sequence[bytes]) -> dict[bytes, int]:
        if not self._server.knows(b"HPEXPIRETIME"):
            return {}
        times: dict[bytes, int] = {}
        for start in range(0, len(fields), 1000):
            part = fields[start : start + 1000]
            reply = as_list(self(b"HPEXPIRETIME", key, b"FIELDS", len(part), *part))
            times |= {name: as_int(at) for name, at in zip(part, reply, strict=True) if as_int(at) >= 0}
        return times

    def _members(self, key: bytes, members: Sequence[bytes]) -> dict[bytes, int]:
        if not self._server.knows(b"SADDEX"):
            return {}
        now = self._now()
        left = self.many([(b"FIELDTTL", key, member) for member in members])
        return {m: now + as_int(s) * 1000 for m, s in zip(members, left, strict=True) if as_int(s) >= 0}

    def _stream(self, key: bytes, expiry: int | None) -> Facts:
        entries = as_entries(self(b"XRANGE", key, b"-", b"+"))
        about = as_table(self(b"XINFO", b"STREAM", key))
        counters = None
        if b"entries-added" in about:
            counters = (about[b"entries-added"], about[b"max-deleted-entry-id"])
        groups: dict[bytes, object] = {}
        read: dict[bytes, object] = {}
        seen: dict[bytes, int] = {}
        delivered: dict[bytes, int] = {}
        for item in as_list(self(b"XINFO", b"GROUPS", key)):
            group = as_table(item)
            name = as_bytes(group[b"name"])
            now = self._now()
            pending = [as_list(p) for p in as_list(self(b"XPENDING", key, name, b"-", b"+", 1_000_000))]
            consumers = [as_table(c) for c in as_list(self(b"XINFO", b"CONSUMERS", key, name))]
            groups[name] = (
                group[b"last-delivered-id"],
                [(p[0], p[1], p[3]) for p in pending],
                sorted((as_bytes(c[b"name"]), as_int(c[b"pending"])) for c in consumers),
            )
            if b"entries-read" in group:
                read[name] = group[b"entries-read"]
            seen |= {name + b"/" + as_bytes(c[b"name"]): now - as_int(c[b"idle"]) for c in consumers}
            delivered |= {name + b"/" + as_bytes(p[0]): now - as_int(p[2]) for p in pending}
        value = (entries, about[b"last-generated-id"], groups)
        return Facts(
            "stream",
            value,
            expiry,
            counters=counters,
            entries_read=read,
            seen_ms=seen,
            delivered_ms=delivered,
        )


def differences(source: Facts, target: Facts) -> dict[Facet, str]:
    """In what two readings of one key differ, and how."""
    if "none" in (source.kind, target.kind):
        there = "source" if target.kind == "none" else "target"
        return {} if source.kind == target.kind else {"presence": f"only on the {there}"}
    if source.kind != target.kind:
        return {"type": f"{source.kind} → {target.kind}"}
    found: dict[Facet, str] = {}
    if source.value != target.value:
        found["value"] = "values differ"
    if _apart(source.expiry_ms, target.expiry_ms, _TOLERANCE_MS):
        found["expiry"] = f"{source.expiry_ms} → {target.expiry_ms}"
    if text := _times_apart(source.fields_ms, target.fields_ms, _TOLERANCE_MS):
        found["field expiry"] = text
    if text := _times_apart(source.members_ms, target.members_ms, _TOLERANCE_MS + _DRAGONFLY_SECOND_MS):
        found["member expiry"] = text
    both_count = source.counters is not None and target.counters is not None
    if both_count and source.counters != target.counters:
        found["counters"] = f"{source.counters} → {target.counters}"
    if _read_differs(source.entries_read, target.entries_read):
        found["entries-read"] = f"{_shown(source.entries_read)} → {_shown(target.entries_read)}"
    if text := _times_apart(source.seen_ms, target.seen_ms, _USE_TOLERANCE_MS):
        found["last seen"] = text
    if text := _times_apart(source.delivered_ms, target.delivered_ms, _USE_TOLERANCE_MS):
        found["delivery time"] = text
    if source.negative_zeros != target.negative_zeros:
        found["sign of zero"] = "the score −0 became 0, or 0 became −0"
    return found


def _apart(ours: int | None, theirs: int | None, tolerance_ms: int) -> bool:
    if ours is None or theirs is None:
        return ours != theirs
    return abs(ours - theirs) > tolerance_ms


def _times_apart(ours: dict[bytes, int], theirs: dict[bytes, int], tolerance_ms: int) -> str:
    apart = [name for name in {**ours, **theirs} if _apart(ours.get(name), theirs.get(name), tolerance_ms)]
    return f"{len(apart)} of {len(ours)}" if apart else ""


def _read_differs(ours: Mapping[bytes, object], theirs: Mapping[bytes, object]) -> bool:
    if ours and theirs:
        return ours != theirs
    # One of the servers keeps none; that loses only what the source knew.
    return any(read is not None for read in ours.values())


def _shown(read: Mapping[bytes, object]) -> str:
    return ", ".join("nil" if value is None else str(value) for value in read.values()) or "not kept"
