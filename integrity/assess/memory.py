"""How much memory the keys use on the source, and how much they will need on the target."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from integrity.assess.subject import Subject
from integrity.rules import Rules

MIB: Final = 1024 * 1024
# Measured with fourteen shapes of keys, Redis 7.0.15 and Dragonfly 1.40.1: docs/assess-servers.md has the table.
_REDIS_TO_DRAGONFLY: Final = (0.41, 1.0)
_DRAGONFLY_TO_REDIS: Final = (1.0, 2.45)
_SAME: Final = (1.0, 1.0)


@dataclass(frozen=True, slots=True)
class MemoryNeed:
    """Bytes; the target will need something between :attr:`least` and :attr:`most`."""

    keys: int
    """What the keys of the run use on the source."""
    least: int
    most: int
    whole: bool
    """Whether the run is about all of the source's keys; else the keys' share of the memory is an estimate."""

    @classmethod
    def of(cls, subject: Subject) -> MemoryNeed:
        """From what both servers say about themselves."""
        total = key_bytes(subject.source_info)
        every = subject.source_identity.keys
        ours = sum(subject.source_identity.databases.get(number, 0) for number in subject.databases)
        whole = ours == every and not Rules.of(subject.settings.rules).describe()
        keys = total if ours == every or not every else total * ours // every
        low, high = _ratios(subject.source_identity.engine, subject.target_identity.engine)
        return cls(keys, int(keys * low), int(keys * high), whole)

    def part(self, share: float) -> MemoryNeed:
        """What a node needs that serves this share of the slots, if keys are spread evenly."""
        return MemoryNeed(int(self.keys * share), int(self.least * share), int(self.most * share), self.whole)


def key_bytes(info: Mapping[str, str]) -> int:
    """Bytes that a server uses for keys, without what it used when it was empty, clients and the backlog."""
    other = (
        "used_memory_startup",
        "mem_clients_normal",
        "mem_clients_slaves",
        "mem_replication_backlog",
        "mem_aof_buffer",
    )
    return max(0, number(info, "used_memory") - sum(number(info, name) for name in other))


def number(info: Mapping[str, str], name: str) -> int:
    """A count out of INFO; 0 where it is not told."""
    text = info.get(name, "")
    return int(text) if text.isdecimal() else 0


def mib(size: float) -> str:
    """For people."""
    return f"{size / MIB:,.1f} MiB"


def _ratios(source: str, target: str) -> tuple[float, float]:
    if (source == "dragonfly") == (target == "dragonfly"):
        return _SAME
    return _REDIS_TO_DRAGONFLY if target == "dragonfly" else _DRAGONFLY_TO_REDIS
