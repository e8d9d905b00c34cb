"""How one server was doing at one moment, as plain numbers that go into the ledger and come back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Final, Self


@dataclass(frozen=True, slots=True)
class Health:
    """One look at a server.  None is what the server does not tell, or what could not be measured."""

    at: datetime
    reachable: bool
    unreachable_seconds: float = 0.0
    """Since its last answer; 0 while it answers."""
    problem: str | None = None
    """Why there are no numbers, without secrets."""
    latency_p50_ms: float | None = None
    """Of a ``PING`` and a ``GET`` in one round trip, over the window."""
    latency_p90_ms: float | None = None
    latency_p99_ms: float | None = None
    latency_max_ms: float | None = None
    probes: int = 0
    """Round trips that the percentiles rest on."""
    errors_per_second: float | None = None
    """Error replies to anybody."""
    rejected_per_second: float | None = None
    """Connections refused because there were too many."""
    refused_writes_per_second: float | None = None
    """Writes refused for lack of memory."""
    used_memory: int | None = None
    """Bytes."""
    max_memory: int | None = None
    """Bytes; 0 is no limit."""
    rss_memory: int | None = None
    """Bytes that the process holds, as the operating system counts."""
    evicted_per_second: float | None = None
    expired_per_second: float | None = None
    clients: int | None = None
    """Connections, without the probe's own two."""
    blocked_clients: int | None = None
    ops_per_second: float | None = None
    """Commands, without the probe's own."""
    lookups_per_second: float | None = None
    """Keys looked up, found or not, without the probe's own."""
    hit_ratio: float | None = None
    """Share of the lookups that found their key; None where there were none."""
    role: str | None = None
    """``master`` or ``replica``."""
    run_id: str | None = None
    uptime_seconds: float | None = None
    restarts: int = 0
    """How often it became another process since it was first looked at."""

    @property
    def headroom(self) -> float | None:
        """Free share of the memory that the server may use; None where it has no limit."""
        if not self.max_memory or self.used_memory is None:
            return None
        return 1 - self.used_memory / self.max_memory

    def to_dict(self) -> dict[str, object]:
        """Plain JSON values, headroom included."""
        plain: dict[str, object] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            plain[field.name] = round(value, 4) if isinstance(value, float) else value
        headroom = self.headroom
        plain["at"] = self.at.isoformat()
        plain["headroom"] = None if headroom is None else round(headroom, 4)
        return plain

    @classmethod
    def from_dict(cls, numbers: Mapping[str, object]) -> Self:
        """Read :meth:`to_dict` back; names that a later version added are passed over.

        :raises ValueError: a value of another kind than was written.
        """
        values: dict[str, object] = {}
        for field in fields(cls):
            if field.name in numbers:
                values[field.name] = _READERS.get(field.name, _read_float)(field.name, numbers[field.name])
        if "at" not in values:
            raise ValueError("health without a time")
        return cls(**{"reachable": True} | values)  # type: ignore[arg-type]  # each was read as its field's kind


def _read_float(name: str, value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{name} is no number")
    return float(value)


def _read_count(name: str, value: object) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{name} is no whole number")
    return value


def _read_text(name: str, value: object) -> str | None:
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{name} is no text")
    return value


def _read_truth(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{name} is neither true nor false")
    return value


def _read_time(name: str, value: object) -> datetime:
    if not isinstance(value, str):
        raise ValueError(f"{name} is no time")
    return datetime.fromisoformat(value).astimezone(UTC)


_READERS: Final = {
    "at": _read_time,
    "reachable": _read_truth,
    "problem": _read_text,
    "role": _read_text,
    "run_id": _read_text,
    "probes": _read_count,
    "used_memory": _read_count,
    "max_memory": _read_count,
    "rss_memory": _read_count,
    "clients": _read_count,
    "blocked_clients": _read_count,
    "restarts": _read_count,
}
