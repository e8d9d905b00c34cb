"""Sampling the health of one server: its latency by probes of our own, the rest by what it tells about itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from statistics import median
from time import monotonic, sleep
from types import TracebackType
from typing import Final, Self

from sqlalchemy import Engine

from integrity.cluster.members import read_members
from integrity.endpoint import Endpoint, Identity
from integrity.errors import ServerError, ServerNotReady, ServerUnreachable
from integrity.ledger.samples import SampleRecord, add_samples, read_samples
from integrity.switch.health_info import COMMANDS_PER_LOOK, CountWindow, InfoFacts, read_facts, together
from integrity.switch.health_values import Health
from integrity.switch.latency_window import LatencyWindow
from integrity.wire import Connection

__all__ = ["Health", "HealthProbe", "measure_baseline", "read_baseline", "record_baseline"]

_LOOK_TIMEOUT_SECONDS: Final = 1.0
_SILENT_SECONDS: Final = 1.0
_OWN_CONNECTIONS: Final = 2
_BASELINE_EVERY_SECONDS: Final = 0.5


class HealthProbe:
    """Watches one server between entering and leaving; a context manager.  :meth:`sample` is for one thread.

    :param identity: who the server was when the watch began; another process in its place counts as a restart.  None
        where it did not answer then: whoever is seen first counts as that.
    :param window_seconds: percentiles and rates are those of so many seconds.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        identity: Identity | None,
        *,
        window_seconds: float = 5.0,
        probes_per_second: float = 20.0,
    ) -> None:
        target = endpoint.target
        self.endpoint = endpoint
        # A look that waits longer holds up the judgement; how long the server takes is told by the other connection.
        self._asked = Endpoint(
            replace(
                target,
                connect_timeout=min(target.connect_timeout, _LOOK_TIMEOUT_SECONDS),
                io_timeout=min(target.io_timeout, _LOOK_TIMEOUT_SECONDS),
            )
        )
        self._latency = LatencyWindow(endpoint, window_seconds=window_seconds, per_second=probes_per_second)
        self._counts = CountWindow(window_seconds)
        self._connections: dict[str, Connection] = {}
        """One; one for each master of a cluster."""
        self._answered_at = monotonic()
        self._asked_commands = 0
        # What a cluster's nodes tell of themselves is told of the cluster in other words.
        self._run_id = identity.run_id if identity is not None and not endpoint.is_cluster else None
        self._restarts = 0

    def __enter__(self) -> Self:
        self._answered_at = monotonic()
        self._latency.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._latency.stop()
        self._drop()

    def sample(self) -> Health:
        """Look at the server now; never raises because it does not answer.

        Where it does not, this takes a second or two: it may be asked twice, to tell a stalled server from TLS.
        """
        facts: InfoFacts | None = None
        problem: str | None = None
        refused = False
        try:
            facts = self._look()
        except (ServerUnreachable, ServerNotReady) as error:
            problem = str(error)
        except ServerError as error:
            # It answers, and says no: that is for somebody to look at, but it is not dead.
            problem, refused = str(error), True
        if facts is None:
            self._drop()
        now = monotonic()
        if facts is not None or refused:
            self._answered_at = now
        silent = now - max(self._answered_at, self._latency.answered_at or 0.0)
        latencies = self._latency.latencies()
        health = Health(
            at=datetime.now(UTC),
            reachable=silent <= _SILENT_SECONDS,
            unreachable_seconds=silent if silent > _SILENT_SECONDS else 0.0,
            problem=problem,
            latency_p50_ms=latencies.p50,
            latency_p90_ms=latencies.p90,
            latency_p99_ms=latencies.p99,
            latency_max_ms=latencies.longest,
            probes=latencies.probes,
            restarts=self._restarts,
        )
        return health if facts is None else self._with_facts(health, facts, now)

    def _with_facts(self, health: Health, facts: InfoFacts, now: float) -> Health:
        if facts.run_id != self._run_id:
            self._restarts += self._run_id is not None
            self._run_id = facts.run_id
            self._counts.clear()
        commands, lookups = self._latency.sent
        self._counts.add(now, facts.counts, commands + self._asked_commands, lookups)
        rates = self._counts.rates()
        return replace(
            health,
            restarts=self._restarts,
            errors_per_second=rates.errors,
            rejected_per_second=rates.rejected,
            refused_writes_per_second=rates.refused_writes,
            used_memory=facts.used_memory,
            max_memory=facts.max_memory,
            rss_memory=facts.rss_memory,
            evicted_per_second=rates.evicted,
            expired_per_second=rates.expired,
            clients=None if facts.clients is None else max(0, facts.clients - _OWN_CONNECTIONS),
            blocked_clients=facts.blocked_clients,
            ops_per_second=rates.commands,
            lookups_per_second=rates.lookups,
            hit_ratio=rates.hit_ratio,
            role=facts.role,
            run_id=facts.run_id,
            uptime_seconds=None if facts.uptime_seconds is None else float(facts.uptime_seconds),
        )

    def _look(self) -> InfoFacts:
        if not self._asked.is_cluster:
            return self._look_at("", self._asked)
        masters = [member for member in read_members(self._asked) if member.is_master and not member.failed]
        return together([self._look_at(member.name, member.endpoint) for member in masters])

    def _look_at(self, name: str, endpoint: Endpoint) -> InfoFacts:
        if name not in self._connections:
            self._connections[name] = endpoint.connect("watch")
        self._asked_commands += COMMANDS_PER_LOOK
        return read_facts(self._connections[name])

    def _drop(self) -> None:
        """A connection on which an answer is still due is of no use."""
        for connection in self._connections.values():
            connection.close()
        self._connections = {}


def measure_baseline(endpoint: Endpoint, seconds: float) -> Health:
    """How the server does now, over *seconds*; for blue, while it still serves.

    :raises ServerError: it cannot be reached, or refuses.
    """
    identity = endpoint.identify()
    with HealthProbe(endpoint, identity, window_seconds=seconds) as probe:
        until = monotonic() + seconds
        health = probe.sample()
        while (left := until - monotonic()) > 0:
            sleep(min(left, _BASELINE_EVERY_SECONDS))
            health = probe.sample()
    if not health.reachable:
        raise ServerUnreachable(
            endpoint.role,
            str(endpoint),
            "did not answer while its health was measured.",
            "Look at the server, then measure again.",
        )
    return health


def record_baseline(engine: Engine, run_id: str, baseline: Health) -> None:
    """Keep what was measured on blue with the cutover run, where :func:`read_baseline` finds it."""
    add_samples(engine, run_id, [SampleRecord("blue", baseline.at, baseline.to_dict())])


def read_baseline(engine: Engine, run_id: str) -> Health | None:
    """What blue was like before the cutover of this run; None where nothing was recorded.

    Of several samples the median of each number counts.
    """
    known: list[Health] = []
    for record in read_samples(engine, run_id, "blue"):
        try:
            health = Health.from_dict({"at": record.at.isoformat()} | dict(record.numbers))
        except ValueError:
            continue  # A sample of another kind: what a client saw of blue, say.
        if health.reachable:
            known.append(health)
    return _middle(known) if known else None


def _middle(known: Sequence[Health]) -> Health:
    def of(values: Sequence[float | None]) -> float | None:
        numbers = [value for value in values if value is not None]
        return median(numbers) if numbers else None

    clients = of([health.clients for health in known])
    return replace(
        known[-1],
        latency_p50_ms=of([health.latency_p50_ms for health in known]),
        latency_p90_ms=of([health.latency_p90_ms for health in known]),
        latency_p99_ms=of([health.latency_p99_ms for health in known]),
        latency_max_ms=of([health.latency_max_ms for health in known]),
        errors_per_second=of([health.errors_per_second for health in known]),
        evicted_per_second=of([health.evicted_per_second for health in known]),
        ops_per_second=of([health.ops_per_second for health in known]),
        lookups_per_second=of([health.lookups_per_second for health in known]),
        hit_ratio=of([health.hit_ratio for health in known]),
        clients=None if clients is None else round(clients),
    )
