"""Whether there is room: memory, connections and threads on the servers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from integrity.assess.host_room import disk, fork
from integrity.assess.memory import MIB, MemoryNeed, mib, number
from integrity.assess.model import Check, Finding, Reach, Severity, found, not_applicable, passed
from integrity.assess.subject import Subject
from integrity.strategy import Strategy

_NATIVE_MARGIN: Final = 1.05
"""How much larger than its limit a dataset may be that Dragonfly begins to load."""
_RESIDENT: Final = 1.1
"""Resident bytes of Dragonfly for each byte that is loaded; 1.0 was measured, the rest is for what is written later."""
_RSS_RATIO: Final = 1.25
"""Dragonfly's rss_oom_deny_ratio where it is not told."""
_MOST_PER_WORKER: Final = 6
_MOST_ELSE: Final = 12
"""Connections that a run opens at most, for each worker and besides."""
_LEAST_PER_WORKER: Final = 2
_LEAST_ELSE: Final = 4


def _memory(subject: Subject) -> Finding:
    need = MemoryNeed.of(subject).part(subject.target_share)
    limit, used = subject.target_identity.max_memory, subject.target_identity.used_memory
    evidence: dict[str, object] = {
        "source_bytes": need.keys,
        "target_least_bytes": need.least,
        "target_most_bytes": need.most,
        "target_used_bytes": used,
        "target_limit_bytes": limit,
    }
    host = number(subject.target_info, "total_system_memory")
    if not limit and not host:
        return passed(
            f"The target has no limit; it will need {_between(need)}, and does not tell its machine's memory.",
            **evidence,
        )
    free = (limit or host) - used
    of_what = "its limit" if limit else "its machine's memory, all else left aside"
    evidence["target_free_bytes"] = free
    native = _too_large_for_native(subject)
    if native is not None:
        return native
    remedy = "Raise the target's maxmemory (or its machine's memory), or move less (rules, databases)."
    if need.least > free:
        return found(
            Severity.BLOCKING if need.whole and limit else Severity.WARNING,
            f"The keys need at least {mib(need.least)} on the target, and {mib(max(0, free))} of {of_what} are free.",
            remedy,
            items=(),
            **evidence,
        )
    margin = subject.settings.cutover.min_headroom
    if need.most + margin * (limit or host) > free:
        return found(
            Severity.WARNING,
            f"The keys need {_between(need)} on the target; {mib(free)} of {of_what} are free, and "
            f"{margin:.0%} are to stay free (cutover.min_headroom).",
            remedy,
            items=(),
            **evidence,
        )
    return passed(f"The keys need {_between(need)} on the target, and {mib(free)} are free.", **evidence)


def _too_large_for_native(subject: Subject) -> Finding | None:
    """Dragonfly looks at what the source says about its memory in the stream, before it loads anything."""
    limit, used = subject.target_identity.max_memory, subject.source_identity.used_memory
    if subject.strategy is not Strategy.NATIVE or not limit or used <= _NATIVE_MARGIN * limit:
        return None
    return found(
        Severity.BLOCKING,
        f"The source uses {mib(used)}, more than {_NATIVE_MARGIN:g} times the target's limit of {mib(limit)}: "
        "Dragonfly would begin the full synchronisation again and again.",
        "Raise the target's maxmemory, or use --strategy copy.",
        source_used_bytes=used,
        target_limit_bytes=limit,
    )


def _between(need: MemoryNeed) -> str:
    if need.least == need.most:
        return f"about {mib(need.most)}"
    return f"between {mib(need.least)} and {mib(need.most)}"


def _rss(subject: Subject) -> Finding:
    if subject.target_identity.engine != "dragonfly":
        return not_applicable("Only Dragonfly refuses writes by its resident memory.")
    info, limit = subject.target_info, subject.target_identity.max_memory
    if not limit:
        return not_applicable("The target has no limit.")
    ratio = _rss_ratio(subject)
    if ratio <= 0:
        return passed("The target does not look at its resident memory.", ratio=ratio)
    resident, need = number(info, "used_memory_rss"), MemoryNeed.of(subject).part(subject.target_share)
    expected = resident + int(need.most * _RESIDENT)
    evidence: dict[str, object] = {
        "resident_bytes": resident,
        "expected_bytes": expected,
        "limit_bytes": int(limit * ratio),
        "ratio": ratio,
    }
    if resident > ratio * limit:
        return found(
            Severity.BLOCKING,
            f"The target's resident memory ({mib(resident)}) is above {ratio:g} times its limit: it refuses writes.",
            "Raise its maxmemory, or free memory (MEMORY DECOMMIT, a restart).",
            items=(),
            **evidence,
        )
    if expected > ratio * limit:
        return found(
            Severity.WARNING,
            f"The target's resident memory may come to {mib(expected)}; above {mib(ratio * limit)} it refuses writes.",
            "Raise its maxmemory; Dragonfly's resident memory is larger than what its keys use.",
            items=(),
            **evidence,
        )
    return passed(
        f"The target's resident memory may come to {mib(expected)} of {mib(ratio * limit)}.", **evidence
    )


def _rss_ratio(subject: Subject) -> float:
    try:
        return float(subject.target_config("rss_oom_deny_ratio") or "")
    except ValueError:
        return _RSS_RATIO


def _eviction(subject: Subject) -> Finding:
    source, target = _policy(subject.source_info), _policy(subject.target_info)
    evidence: dict[str, object] = {
        "source_policy": source,
        "target_policy": target,
        "source_evicted": number(subject.source_info, "evicted_keys"),
        "target_evicted": number(subject.target_info, "evicted_keys"),
        "source_limit_bytes": subject.source_identity.max_memory,
        "target_limit_bytes": subject.target_identity.max_memory,
    }
    ours = source != "noeviction" and bool(subject.source_identity.max_memory)
    theirs = target != "noeviction" and bool(subject.target_identity.max_memory)
    if theirs and not ours:
        return found(
            Severity.BLOCKING,
            f"The target evicts keys when it is full ({target}), and the source does not: keys would be lost without "
            "a word.",
            "Start Dragonfly without --cache_mode, or set the target's maxmemory-policy to noeviction.",
            items=(),
            **evidence,
        )
    if ours:
        return found(
            Severity.WARNING,
            f"The source evicts keys when it is full ({source}"
            + (f", {evidence['source_evicted']:,} so far" if evidence["source_evicted"] else "")
            + "): keys may go away while they are copied"
            + (
                ", and the target evicts others."
                if theirs
                else ", and the target would refuse writes instead."
            ),
            "See that both have room until the cutover; where the source is followed by MONITOR, evictions are not "
            "announced.",
            items=(),
            **evidence,
        )
    return passed("Neither server evicts keys.", **evidence)


def _policy(info: dict[str, str]) -> str:
    """Dragonfly calls it ``eviction`` where it runs as a cache."""
    return info.get("maxmemory_policy") or "noeviction"


def _threads(subject: Subject) -> Finding:
    if subject.target_identity.engine != "dragonfly":
        return not_applicable("Only Dragonfly spreads keys over threads.")
    threads = number(subject.target_info, "thread_count")
    evidence: dict[str, object] = {"threads": threads or None, "workers": subject.settings.workers}
    if threads == 1:
        return found(
            Severity.INFO,
            "The target runs on one thread; it does no more than a Redis then.",
            "Give it more (--proactor_threads, by default one for each core).",
            items=(),
            **evidence,
        )
    limit = subject.target_identity.max_memory
    if threads and limit and limit < 256 * MIB * threads:
        return found(
            Severity.WARNING,
            f"The target has {mib(limit / threads)} for each of its {threads} threads; it would not start again with "
            "less than 256.",
            "Raise maxmemory or lower --proactor_threads.",
            items=(),
            **evidence,
        )
    return passed(f"The target runs on {threads or 'an unknown number of'} threads.", **evidence)


def _connections(subject: Subject) -> Finding:
    ours = _MOST_ELSE + _MOST_PER_WORKER * subject.settings.workers
    least = _LEAST_ELSE + _LEAST_PER_WORKER * subject.settings.workers
    sources, targets = (
        {
            side if len(servers) == 1 else f"{side}'s node {server.place}": _Room.of(server.info)
            for server in servers
        }
        for side, servers in (("source", subject.source_servers), ("target", subject.target_servers))
    )
    rooms = sources | targets
    evidence: dict[str, object] = {"needed_at_least": least, "needed_at_most": ours}
    worst, texts = Severity.INFO, []
    for side, room in rooms.items():
        evidence |= {f"{side}_connected": room.connected, f"{side}_limit": room.most or None}
        if room.most and room.free < ours:
            wanted = f"a run needs {least}" if room.free < least else f"a run may open {ours}"
            texts.append(f"the {side} has room for {room.free} more connections, and {wanted}")
            if worst is not Severity.BLOCKING:
                worst = Severity.BLOCKING if room.free < least else Severity.WARNING
    coming = sum(room.connected for room in sources.values())
    most = min((room.most for room in targets.values() if room.most), default=0)
    if most and coming + ours > most:
        texts.append(f"{coming:,} clients are connected to the source, and the target takes {most:,}")
        worst = worst if worst is Severity.BLOCKING else Severity.WARNING
    if texts:
        text = "; ".join(texts)
        remedy = "Raise maxclients, or use fewer workers."
        return found(worst, f"{text[0].upper()}{text[1:]}.", remedy, items=(), **evidence)
    return passed("Both servers have room for the connections.", **evidence)


@dataclass(frozen=True, slots=True)
class _Room:
    """One server's connections."""

    connected: int
    most: int
    """0 where it is not told."""

    @property
    def free(self) -> int:
        return max(0, self.most - self.connected)

    @classmethod
    def of(cls, info: Mapping[str, str]) -> _Room:
        """From INFO, where Dragonfly and Redis name it differently."""
        return cls(
            number(info, "connected_clients"), number(info, "maxclients") or number(info, "max_clients")
        )


CHECKS: Final = (
    Check(
        "capacity.memory",
        "Memory on the target",
        Severity.BLOCKING,
        _memory,
        at_cutover=False,
        source=Reach.WHOLE,
        target=Reach.EACH,
    ),
    Check(
        "capacity.rss",
        "The target's resident memory",
        Severity.BLOCKING,
        _rss,
        at_cutover=False,
        source=Reach.WHOLE,
        target=Reach.EACH,
    ),
    Check(
        "capacity.eviction", "Eviction", Severity.BLOCKING, _eviction, source=Reach.EACH, target=Reach.EACH
    ),
    Check(
        "capacity.threads",
        "Threads of the target",
        Severity.WARNING,
        _threads,
        source=Reach.WHOLE,
        target=Reach.EACH,
    ),
    Check(
        "capacity.disk",
        "Disk on this machine",
        Severity.BLOCKING,
        disk,
        at_cutover=False,
        source=Reach.WHOLE,
        target=Reach.WHOLE,
    ),
    Check(
        "capacity.fork",
        "A fork of the source",
        Severity.BLOCKING,
        fork,
        at_cutover=False,
        source=Reach.EACH,
        target=Reach.WHOLE,
    ),
    Check(
        "capacity.connections",
        "Connections",
        Severity.BLOCKING,
        _connections,
        source=Reach.WHOLE,
        target=Reach.WHOLE,
    ),
)
