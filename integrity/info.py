"""What INFO tells, as a flat table."""

from __future__ import annotations


def parse_info(text: bytes) -> dict[str, str]:
    """Name → value of every line."""
    lines = (line.partition(":") for line in text.decode("utf-8", "replace").splitlines())
    return {name: value for name, colon, value in lines if colon and not name.startswith("#")}


def merge_info(nodes: list[dict[str, str]], run_id: str) -> dict[str, str]:
    """One table for several masters: keys and memory added up, everything else as the first one tells it.

    :param run_id: what stands for all of them.
    """
    merged = dict(nodes[0])
    for name in {name for node in nodes for name in node}:
        values = [node[name] for node in nodes if name in node]
        if name.startswith("db") and name[2:].isdecimal():
            merged[name] = _added(values)
        elif name in {"used_memory", "maxmemory"} and all(value.isdecimal() for value in values):
            # Without a limit on one of them there is none on the whole.
            numbers = [int(value) for value in values]
            merged[name] = str(sum(numbers) if name == "used_memory" or all(numbers) else 0)
    merged["run_id"] = run_id
    return merged


def _added(lines: list[str]) -> str:
    """``keys=2,expires=1`` of several nodes; a count that not all of them tell is left out."""
    tables = [dict(part.split("=", 1) for part in line.split(",") if "=" in part) for line in lines]
    names = [name for name in tables[0] if all(table.get(name, "").isdecimal() for table in tables)]
    return ",".join(f"{name}={sum(int(table[name]) for table in tables)}" for name in names)


def engine_of(info: dict[str, str]) -> tuple[str, str]:
    """``redis``, ``valkey`` or ``dragonfly``, and its version."""
    for engine in ("dragonfly", "valkey"):
        if version := info.get(f"{engine}_version"):
            return engine, version.removeprefix("df-").removeprefix("v")
    return "redis", info.get("redis_version", "unknown")


def field_expiries_of(info: dict[str, str]) -> str:
    """Redis counts such hashes as ``subexpiry``, Valkey as ``keys_with_volatile_items``; Dragonfly does not."""
    lines = [value for name, value in info.items() if name.startswith("db") and value.startswith("keys=")]
    counts = [
        number(value)
        for line in lines
        for name, _, value in (part.partition("=") for part in line.split(","))
        if name in {"subexpiry", "keys_with_volatile_items"}
    ]
    if len(counts) < len(lines):
        return "unknown"
    return "some" if any(counts) else "none"


def number(text: str | None) -> int:
    """A count; 0 where it is not told."""
    return int(text) if text and text.isdecimal() else 0


def keyspace_of(info: dict[str, str]) -> dict[int, int]:
    """Database number → keys, of those that hold any."""
    databases = {}
    for name, value in info.items():
        database = name.removeprefix("db")
        if name.startswith("db") and database.isdecimal() and value.startswith("keys="):
            keys = number(value.removeprefix("keys=").split(",", 1)[0])
            if keys:
                databases[int(database)] = keys
    return dict(sorted(databases.items()))
