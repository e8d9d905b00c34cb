"""One table for what the masters of a cluster tell by INFO: counts added up, and nothing said for one of them alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

_SUMMED: Final = frozenset(
    {
        "blocked_clients",
        "connected_clients",
        "connected_slaves",
        "evicted_keys",
        "instantaneous_input_kbps",
        "mem_aof_buffer",
        "mem_clients_normal",
        "mem_clients_slaves",
        "mem_replication_backlog",
        "number_of_cached_scripts",
        "pubsub_channels",
        "pubsub_patterns",
        "pubsubshard_channels",
        "tracking_clients",
        "used_memory",
        "used_memory_rss",
        "used_memory_startup",
    }
)
_TABLES: Final = ("cmdstat_", "errorstat_")
_COUNTS: Final = "unknown_"
_RATIOS: Final = frozenset({"usec_per_call"})
_LEAST: Final = frozenset({"uptime_in_seconds"})


def merged_info(nodes: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Counts of commands, errors, keys, clients and memory added up; of everything else only what all tell alike."""
    if len(nodes) == 1:
        return dict(nodes[0])
    merged: dict[str, str] = {}
    for name in dict.fromkeys(name for node in nodes for name in node):
        values = [node[name] for node in nodes if name in node]
        if name.startswith(_TABLES) or _is_database(name, values):
            merged[name] = _added(values)
        elif name in _SUMMED or name.startswith(_COUNTS):
            merged[name] = _sum(values)
        elif name in _LEAST:
            merged[name] = min(values, key=_number)
        elif len(values) == len(nodes) and len(set(values)) == 1:
            merged[name] = values[0]
    return merged


def _is_database(name: str, values: Iterable[str]) -> bool:
    return name[:2] == "db" and name[2:].isdecimal() and all(value.startswith("keys=") for value in values)


def _added(lines: Sequence[str]) -> str:
    """``calls=2,usec=1`` of several nodes."""
    tables = [dict(part.partition("=")[::2] for part in line.split(",")) for line in lines]
    names = [
        name for name in dict.fromkeys(name for table in tables for name in table) if name not in _RATIOS
    ]
    return ",".join(f"{name}={_sum([table[name] for table in tables if name in table])}" for name in names)


def _sum(values: Sequence[str]) -> str:
    total = sum(map(_number, values))
    return str(int(total)) if total == int(total) else str(total)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0
