"""Clocks and round trips between the three machines, and what keeps the source busy."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import product
from time import monotonic, sleep, time
from typing import Final

from integrity.assess.model import Check, Finding, Reach, Severity, found, passed, unknown
from integrity.assess.server import Server
from integrity.assess.subject import Subject
from integrity.errors import PermissionRefused, ProtocolError
from integrity.expiry import clock_ms
from integrity.replies import ErrorReply, Reply
from integrity.wire import pack

_LOOKS: Final = 7
"""Round trips of which the shortest tells a clock best."""
_LOOKS_FAR: Final = 3
"""Of a server that is far away, whose clock is not told better by more of them."""
_FEWEST_PINGS: Final = 20
_FEWEST_FAR: Final = 5
_PING_PAUSE: Final = 0.005
_FAR_MS: Final = 5.0
"""A server whose answers usually take longer is far away: what is asked key by key takes long."""
_NUMBERS: Final = {3: "three"}
_LONG_MS: Final = 1000
"""A stall of the source worth a warning."""


@dataclass(frozen=True, slots=True)
class Offset:
    """How far a server's clock is ahead of this machine's."""

    ms: float
    uncertain_ms: float
    """Half the round trip that it was measured by."""


def offset_of(server: Server) -> Offset:
    """By the shortest of several round trips.

    :raises ServerError: TIME is refused, or the server cannot be reached.
    """
    best: Offset | None = None
    with server.connection() as connection:
        for look in range(1, _LOOKS + 1):
            began, before = monotonic(), time()
            told = clock_ms(connection.command(b"TIME"))
            half = (monotonic() - began) * 500
            if best is None or half < best.uncertain_ms:
                best = Offset(told - before * 1000 - half, half)
            if look >= _LOOKS_FAR and best.uncertain_ms > _FAR_MS:
                break
    if best is None:
        raise ValueError("no clock was read")
    return best


def _clocks(subject: Subject) -> Finding:
    try:
        sources, targets = (
            [offset_of(server) for server in servers]
            for servers in (subject.source_servers, subject.target_servers)
        )
    except (PermissionRefused, ProtocolError) as error:
        return unknown(
            Severity.WARNING,
            f"The clocks cannot be compared: {error.problem}",
            "Allow TIME, or see that all machines follow a time server.",
        )
    most = subject.settings.cutover.max_clock_skew_ms
    # Of clusters: the two nodes that are furthest apart.
    source, target = max(product(sources, targets), key=lambda pair: abs(pair[0].ms - pair[1].ms))
    apart = abs(source.ms - target.ms)
    widest = max(apart, *(abs(offset.ms) for offset in (*sources, *targets)))
    evidence: dict[str, object] = {
        "source_ahead_ms": round(source.ms, 1),
        "target_ahead_ms": round(target.ms, 1),
        "apart_ms": round(apart, 1),
        "uncertain_ms": round(source.uncertain_ms + target.uncertain_ms, 1),
        "limit_ms": most,
        "servers": len(sources) + len(targets),
    }
    remedy = "Have all three follow a time server (NTP), or raise cutover.max_clock_skew_ms."
    if apart - source.uncertain_ms - target.uncertain_ms > most:
        return found(
            Severity.BLOCKING,
            f"The servers' clocks are {apart:,.0f} ms apart: keys that expire would leave the target that much earlier "
            "or later than the source.",
            remedy,
            items=(),
            **evidence,
        )
    count = 1 + len(sources) + len(targets)
    if widest > most:
        text = f"This machine's clock is up to {widest:,.0f} ms off the servers'; reports and ages would be wrong."
        return found(Severity.WARNING, text, remedy, items=(), **evidence)
    return passed(f"The {_NUMBERS.get(count, str(count))} clocks are within {widest:,.0f} ms.", **evidence)


@dataclass(frozen=True, slots=True)
class RoundTrips:
    """Round trips of one server in milliseconds, in rising order."""

    sorted_ms: tuple[float, ...]

    def at(self, share: float) -> float:
        """A percentile, as 0.5 or 0.99."""
        return self.sorted_ms[min(len(self.sorted_ms) - 1, int(share * len(self.sorted_ms)))]


def round_trips(servers: Sequence[Server], seconds: float) -> tuple[RoundTrips, ...]:
    """PING each in turn for so long, and twenty times at the least; five times where one is far away.

    :raises ServerError: PING is refused, or a server cannot be reached.
    """
    with ExitStack() as stack:
        connections = [stack.enter_context(server.connection()) for server in servers]
        taken: list[list[float]] = [[] for _ in connections]
        until = monotonic() + seconds
        while monotonic() < until or len(taken[0]) < _fewest(taken):
            for connection, times in zip(connections, taken, strict=True):
                began = monotonic()
                connection.command(b"PING")
                times.append((monotonic() - began) * 1000)
            sleep(_PING_PAUSE)
    return tuple(RoundTrips(tuple(sorted(times))) for times in taken)


def _fewest(taken: Sequence[Sequence[float]]) -> int:
    """A server that is far away is asked less often: that it is far is seen at once."""
    far = bool(taken[0]) and max(times[0] for times in taken) > _FAR_MS
    return _FEWEST_FAR if far else _FEWEST_PINGS


def _latency(subject: Subject) -> Finding:
    settings = subject.settings
    try:
        ours, theirs = subject.source_servers, subject.target_servers
        every = round_trips((*ours, *theirs), settings.assess.watch_seconds)
        # Of a cluster, the slowest node.
        source, target = (
            max(part, key=lambda each: each.at(0.99)) for part in (every[: len(ours)], every[len(ours) :])
        )
    except (PermissionRefused, ProtocolError) as error:
        return unknown(Severity.WARNING, f"Round trips cannot be measured: {error.problem}", "Allow PING.")
    evidence: dict[str, object] = {"looks": len(source.sorted_ms), "seconds": settings.assess.watch_seconds}
    for side, trips in (("source", source), ("target", target)):
        evidence[f"{side}_p50_ms"], evidence[f"{side}_p99_ms"] = (
            round(trips.at(0.5), 2),
            round(trips.at(0.99), 2),
        )
    text = ", ".join(
        f"{side} {trips.at(0.5):.1f} ms, 1 in 100 over {trips.at(0.99):.1f} ms"
        for side, trips in (("source", source), ("target", target))
    )
    limit = settings.throttle.max_latency_ms
    stalls = [trips for trips in (source, target) if trips.at(0.99) - trips.at(0.5) > limit]
    if stalls:
        return found(
            Severity.WARNING,
            f"A server stalls already, before anything is copied ({text}); the run would slow down for it.",
            f"Choose a quieter time, or raise throttle.max_latency_ms ({limit:g}).",
            items=(),
            **evidence,
        )
    if max(source.at(0.5), target.at(0.5)) > _FAR_MS:
        return found(
            Severity.INFO,
            f"A server is far away ({text}): big values, single keys and the write pause of a cutover take longer.",
            "Run Greenfly close to the servers.",
            items=(),
            **evidence,
        )
    return passed(f"Round trips: {text}.", **evidence)


def _slow(subject: Subject) -> Finding:
    latest, length = subject.source_servers[0].ask(pack(b"LATENCY", b"LATEST"), pack(b"SLOWLOG", b"LEN"))
    spikes = _spikes(latest)
    evidence: dict[str, object] = {
        "slowlog": length if isinstance(length, int) else None,
        "spikes_ms": spikes,
    }
    if isinstance(latest, ErrorReply) and isinstance(length, ErrorReply):
        return unknown(
            Severity.INFO,
            f"Whether the source has stalled lately, it does not tell ({latest}).",
            "",
            **evidence,
        )
    long = {name: ms for name, ms in spikes.items() if ms >= _LONG_MS}
    if long:
        worst = ", ".join(f"{name} {ms:,} ms" for name, ms in long.items())
        return found(
            Severity.WARNING,
            f"The source has stood still for long ({worst}).",
            "See LATENCY DOCTOR; a fork that takes long concerns the native strategy and snapshots by replication.",
            items=tuple(long),
            **evidence,
        )
    slow = f"{length:,} slow commands are in its log" if isinstance(length, int) and length else ""
    if spikes or slow:
        text = "; ".join(filter(None, [slow, ", ".join(f"{name} {ms} ms" for name, ms in spikes.items())]))
        return found(
            Severity.INFO,
            f"The source has been slow: {text}.",
            "See SLOWLOG GET there.",
            items=(),
            **evidence,
        )
    return passed("The source tells of nothing slow.", **evidence)


def _spikes(reply: Reply) -> dict[str, int]:
    """Event → the longest stall in milliseconds, by LATENCY LATEST; empty where it is not watched."""
    longest_by_event: dict[str, int] = {}
    for entry in reply if isinstance(reply, list) else []:
        match entry:
            case [bytes(name), int(), int(), int(longest), *_]:
                event = name.decode("utf-8", "replace")
                longest_by_event[event] = longest
    return longest_by_event


CHECKS: Final = (
    Check(
        "time.clocks",
        "Clocks",
        Severity.BLOCKING,
        _clocks,
        alone=True,
        source=Reach.WHOLE,
        target=Reach.WHOLE,
    ),
    Check(
        "time.latency",
        "Round trips",
        Severity.WARNING,
        _latency,
        at_cutover=False,
        alone=True,
        source=Reach.WHOLE,
        target=Reach.WHOLE,
    ),
    Check(
        "time.slow", "Stalls of the source", Severity.WARNING, _slow, source=Reach.EACH, target=Reach.WHOLE
    ),
)
