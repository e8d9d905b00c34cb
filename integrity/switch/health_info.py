"""What INFO tells about a server's health, whatever the engine, and rates out of two of its counts."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Final

from integrity.errors import ProtocolError, ServerNotReady
from integrity.replies import ErrorReply
from integrity.wire import Connection, pack

# Dragonfly leaves errorstats and persistence out of a plain INFO, and Redis 6 takes one section per command.
_SECTIONS: Final = (b"server", b"clients", b"memory", b"persistence", b"stats", b"replication", b"errorstats")
COMMANDS_PER_LOOK: Final = len(_SECTIONS)
_SHORTEST_SECONDS: Final = 0.05


@dataclass(frozen=True, slots=True)
class Counts:
    """Counters of one server process: they only grow.  None is what it does not tell."""

    commands: int | None = None
    errors: int | None = None
    rejected: int | None = None
    refused_writes: int | None = None
    evicted: int | None = None
    expired: int | None = None
    hits: int | None = None
    misses: int | None = None


@dataclass(frozen=True, slots=True)
class InfoFacts:
    """What INFO told at one moment."""

    run_id: str
    role: str
    used_memory: int | None
    max_memory: int | None
    rss_memory: int | None
    clients: int | None
    blocked_clients: int | None
    uptime_seconds: int | None
    counts: Counts


def read_facts(connection: Connection) -> InfoFacts:
    """Ask for all sections in one round trip.

    :raises ServerNotReady: it is loading its dataset, or a script keeps it from all else.
    :raises ServerError: it cannot be asked, or does not answer.
    """
    replies = connection.exchange([pack(b"INFO", section) for section in _SECTIONS])
    texts = []
    for reply in replies:
        if isinstance(reply, ErrorReply):
            if str(reply).startswith("BUSY "):
                raise ServerNotReady(
                    connection.role,
                    connection.where,
                    "is busy with a script that does not end.",
                    "End it with SCRIPT KILL.",
                )
            raise connection.error_for(reply, "INFO")
        if not isinstance(reply, bytes):
            raise ProtocolError(
                connection.role, connection.where, "INFO is no text.", "Check that this is a Redis server."
            )
        texts.append(reply.decode("utf-8", "replace"))
    facts = parse_facts("\n".join(texts[:-1]), texts[-1])
    if facts is None:
        raise ServerNotReady(
            connection.role, connection.where, "is still loading its dataset.", "Wait until it has loaded."
        )
    return facts


def parse_facts(info: str, errors: str) -> InfoFacts | None:
    """Facts out of the text of INFO; None while the server is loading.

    :param errors: the section ``errorstats`` alone; Dragonfly counts there by the text of the error.
    """
    lines = (line.partition(":") for line in info.splitlines())
    table = {name: value.strip() for name, colon, value in lines if colon and not name.startswith("#")}
    if table.get("loading", "0") != "0":
        return None
    by_kind = _error_counts(errors)
    total = _count(table, "total_error_replies")
    refused = _count(table, "oom_rejections")
    if refused is None:
        # Redis names the error; where it has none yet, it also does not name it.
        refused = by_kind.get("errorstat_OOM", 0) if "total_error_replies" in table else None
    return InfoFacts(
        run_id=table.get("run_id") or table.get("master_replid", ""),
        role="master" if table.get("role", "master") == "master" else "replica",
        used_memory=_count(table, "used_memory"),
        max_memory=_count(table, "maxmemory"),
        rss_memory=_count(table, "used_memory_rss"),
        clients=_count(table, "connected_clients"),
        blocked_clients=_count(table, "blocked_clients"),
        uptime_seconds=_count(table, "uptime_in_seconds"),
        counts=Counts(
            commands=_count(table, "total_commands_processed"),
            errors=total if total is not None else _dragonfly_errors(table, by_kind),
            # Dragonfly says -1, which is no count.
            rejected=_count(table, "rejected_connections"),
            refused_writes=refused,
            evicted=_count(table, "evicted_keys"),
            expired=_count(table, "expired_keys"),
            hits=_count(table, "keyspace_hits"),
            misses=_count(table, "keyspace_misses"),
        ),
    )


def together(nodes: Sequence[InfoFacts]) -> InfoFacts:
    """The masters of a cluster as one server.

    A client of a cluster is connected to every node, so the most that one of them has are as many as there are.
    """
    return InfoFacts(
        run_id=",".join(sorted(node.run_id for node in nodes)),
        role="master",
        used_memory=_sum(node.used_memory for node in nodes),
        # Without a limit on one of them there is none on the whole.
        max_memory=_sum(node.max_memory for node in nodes) if all(node.max_memory for node in nodes) else 0,
        rss_memory=_sum(node.rss_memory for node in nodes),
        clients=max((node.clients for node in nodes if node.clients is not None), default=None),
        blocked_clients=_sum(node.blocked_clients for node in nodes),
        uptime_seconds=min((n.uptime_seconds for n in nodes if n.uptime_seconds is not None), default=None),
        counts=Counts(
            **{f.name: _sum(getattr(node.counts, f.name) for node in nodes) for f in fields(Counts)}
        ),
    )


def _sum(values: Iterable[int | None]) -> int | None:
    """Of what all of them tell."""
    known = list(values)
    return None if None in known else sum(value for value in known if value is not None)


def _dragonfly_errors(table: Mapping[str, str], by_kind: Mapping[str, int]) -> int | None:
    """Only Dragonfly counts errors by kind and has no total; a Redis before 6.2 has neither."""
    return sum(by_kind.values()) if "dragonfly_version" in table else None


def _count(table: Mapping[str, str], name: str) -> int | None:
    text = table.get(name, "")
    return int(text) if text.isdecimal() else None


def _error_counts(text: str) -> dict[str, int]:
    """``errorstat_ERR:count=1`` of Redis, ``syntax_error:1`` of Dragonfly, where the text may hold colons itself."""
    counts: dict[str, int] = {}
    for line in text.splitlines():
        name, colon, value = line.strip().rpartition(":")
        number = value.strip().removeprefix("count=")
        if colon and number.isdecimal():
            counts[name] = counts.get(name, 0) + int(number)
    return counts


@dataclass(frozen=True, slots=True)
class Rates:
    """Per second; None where it is not known."""

    commands: float | None = None
    errors: float | None = None
    rejected: float | None = None
    refused_writes: float | None = None
    evicted: float | None = None
    expired: float | None = None
    lookups: float | None = None
    hit_ratio: float | None = None


class CountWindow:
    """The counts of the last seconds, and the rates between the oldest and the newest of them."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._seen: deque[tuple[float, Counts, int, int]] = deque()

    def clear(self) -> None:
        """Forget all: another process counts from the beginning."""
        self._seen.clear()

    def add(self, at: float, counts: Counts, own_commands: int, own_misses: int) -> None:
        """Take counts in.

        :param at: :func:`time.monotonic`.
        :param own_commands: commands that the one who measures has sent since it began.
        :param own_misses: lookups of its own, of keys that are not there.
        """
        self._seen.append((at, counts, own_commands, own_misses))
        # One that is older stays, so that the window is full.
        while len(self._seen) > 2 and self._seen[1][0] <= at - self._seconds:
            self._seen.popleft()

    def rates(self) -> Rates:
        """Over the window; nothing is known from one look alone."""
        if len(self._seen) < 2:
            return Rates()
        (begun, first, own_before, misses_before), (ended, last, own_after, misses_after) = (
            self._seen[0],
            self._seen[-1],
        )
        seconds = ended - begun
        if seconds < _SHORTEST_SECONDS:
            return Rates()

        def rate(before: int | None, after: int | None, own: int = 0) -> float | None:
            if before is None or after is None:
                return None
            return max(0, after - before - own) / seconds

        hits = rate(first.hits, last.hits)
        misses = rate(first.misses, last.misses, misses_after - misses_before)
        lookups = None if hits is None or misses is None else hits + misses
        return Rates(
            commands=rate(first.commands, last.commands, own_after - own_before),
            errors=rate(first.errors, last.errors),
            rejected=rate(first.rejected, last.rejected),
            refused_writes=rate(first.refused_writes, last.refused_writes),
            evicted=rate(first.evicted, last.evicted),
            expired=rate(first.expired, last.expired),
            lookups=lookups,
            hit_ratio=hits / lookups if lookups and hits is not None else None,
        )
