"""Reading no faster than both servers and their operators want.

Three things hold a run back, each on its own: a server that answers late (smaller batches, then pauses between them),
a cap on keys or bytes per second, and an operator who pauses the run from another terminal.  All of them act in
:meth:`Throttle.admit`, which returns when the next page may be read.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from time import monotonic, sleep
from types import TracebackType
from typing import Final, Protocol, Self

from integrity.endpoint import Endpoint
from integrity.ledger.values import ControlState
from integrity.progress import Progress
from integrity.settings import ThrottleSettings
from integrity.transfer.latency import LatencyProbe
from integrity.transfer.pacing import BatchSize, TokenBucket

_STEP_SECONDS: Final = 0.2
"""The longest sleep at a time, so that pauses, resumes and new limits are seen soon."""
_ASK_SECONDS: Final = 0.5
_JUDGE_SECONDS: Final = 0.3
"""Between two judgements of the latency: three samples of it."""
_SAY_SECONDS: Final = 60.0
_TELL_SECONDS: Final = 2.0
_QUIET_SECONDS: Final = 1.0
_SWITCH_INTERVAL: Final = 0.001
"""Seconds a thread may keep the interpreter from the probes; Python's own default adds up to 15 ms to what they see."""
_CAPPED_PAGE_SECONDS: Final = 0.25
"""How much of a cap one page takes at most, so that a capped run is slow evenly and not in bursts."""


class LiveRun(Protocol):
    """The run as its operators see it; :class:`~integrity.ledger.store.RunHandle` is one."""

    id: str

    def control(self) -> ControlState:
        """What is asked of it now."""

    def renew_lease(self) -> None:
        """Keep it, while nothing else is written."""


class Throttle:
    """A pace for one phase of one run; see :class:`integrity.pace.Pace`.  A context manager, for one thread.

    :param batch_keys: keys of a page at full speed.
    :param endpoints: the servers whose latency counts.
    :param run: whose control row is obeyed; None for work that belongs to no run.
    :param workers: how many processes share the caps; each takes its part.
    :param on_wait: called about five times a second while it waits; what it raises ends the waiting.
    :param on_held: told every two seconds what held it back by now (see :meth:`summary`), where something did since.
    """

    def __init__(
        self,
        settings: ThrottleSettings,
        batch_keys: int,
        *,
        endpoints: Iterable[Endpoint],
        run: LiveRun | None,
        progress: Progress,
        workers: int = 1,
        on_wait: Callable[[], None] = lambda: None,
        on_held: Callable[[dict[str, object]], None] = lambda _: None,
    ) -> None:
        self._settings = settings
        self._run = run
        self._progress = progress
        self._workers = workers
        self._on_wait = on_wait
        self._on_held = on_held
        self._size = BatchSize(batch_keys)
        self._probes = [LatencyProbe(endpoint) for endpoint in endpoints] if settings.enabled else []
        self._control = ControlState()
        self._keys, self._bytes = TokenBucket(), TokenBucket()
        self._key_bytes = 0.0
        """Bytes of a key, smoothed over pages."""
        self._asked_at = self._judged_at = self._said_at = float("-inf")
        self._told_at = monotonic()
        self._told = (0.0, 0)
        self._seconds: dict[str, float] = {}
        self._late: dict[str, int] = {}
        self._latest = "server"
        """Who answered late the last time."""
        self._switch_interval = sys.getswitchinterval()

    def __enter__(self) -> Self:
        self._switch_interval = sys.getswitchinterval()
        if self._probes:
            sys.setswitchinterval(min(_SWITCH_INTERVAL, self._switch_interval))
        self._set_caps()
        for probe in self._probes:
            probe.start()
        give_up = monotonic() + _QUIET_SECONDS
        try:
            for probe in self._probes:
                probe.wait_until_quiet_known(max(0.0, give_up - monotonic()))
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def _stop(self) -> None:
        for probe in self._probes:
            probe.stop()
        for probe in self._probes:
            probe.join()
        sys.setswitchinterval(self._switch_interval)

    @property
    def batch_keys(self) -> int:
        """Keys that the next SCAN asks for, at least 1."""
        keys = self._size.keys
        if self._keys.rate is not None:
            keys = min(keys, int(self._keys.rate * _CAPPED_PAGE_SECONDS))
        if self._bytes.rate is not None and self._key_bytes:
            keys = min(keys, int(self._bytes.rate * _CAPPED_PAGE_SECONDS / self._key_bytes))
        return max(1, keys)

    def admit(self, keys: int, size: int) -> None:
        """Return when a page of *keys* keys and *size* bytes may be read.

        :raises LedgerError: the ledger cannot be read, or another process took the run over.
        """
        self._ask()
        if self._run is not None:
            # One big value can take longer than a lease, and nothing is checkpointed meanwhile.
            self._run.renew_lease()
        self._judge()
        self._tell()
        if keys:
            self._key_bytes += (size / keys - self._key_bytes) * (0.2 if self._key_bytes else 1.0)
        self._hold("paused", lambda: _STEP_SECONDS if self._control.paused else 0.0)
        self._keys.take(keys)
        self._bytes.take(size)
        self._hold("cap on keys", self._keys.wait)
        self._hold("cap on bytes", self._bytes.wait)
        if self._size.pause:
            resume_at = monotonic() + self._size.pause
            self._hold(f"latency of the {self._latest}", lambda: resume_at - monotonic())

    def share_among(self, workers: int) -> None:
        """From now on so many processes share the caps."""
        if workers != self._workers:
            self._workers = workers
            self._set_caps()

    def summary(self) -> dict[str, object]:
        """What held the run back, as plain JSON values for the phase's detail; documented in ``docs/throttle.md``."""
        return {
            "waited_seconds": {reason: round(seconds, 3) for reason, seconds in self._seconds.items()},
            "late": dict(self._late),
            "batch_keys": {"smallest": self._size.smallest, "last": self._size.keys},
            "longest_pause_ms": round(self._size.longest_pause * 1000),
            "latency_ms": {
                probe.role: {
                    "quiet": facts.quiet,
                    "mean": facts.mean,
                    "worst": facts.worst,
                    "samples": facts.samples,
                    "lost": facts.lost,
                    "over_time": facts.over_time,
                }
                for probe, facts in ((probe, probe.facts()) for probe in self._probes)
            },
        }

    # -- waiting ------------------------------------------------------------------------------------------------

    def _hold(self, reason: str, left: Callable[[], float]) -> None:
        """Sleep in short steps until *left* says that nothing is, obeying and renewing what has to be meanwhile."""
        seconds, begun = left(), monotonic()
        if seconds <= 0:
            return
        while seconds > 0:
            sleep(min(seconds, _STEP_SECONDS))
            self._on_wait()
            self._ask()
            if self._run is not None:
                self._run.renew_lease()
            begun = self._count(reason, begun)
            self._tell()
            if reason != "paused" and self._control.paused:
                self._hold("paused", lambda: _STEP_SECONDS if self._control.paused else 0.0)
                begun = monotonic()
            seconds = left()

    def _count(self, reason: str, begun: float) -> float:
        """Count the time since *begun*; gives the moment up to which it is counted."""
        now = monotonic()
        self._seconds[reason] = self._seconds.get(reason, 0.0) + now - begun
        return now

    def _tell(self) -> None:
        now = monotonic()
        if now - self._told_at < _TELL_SECONDS:
            return
        self._told_at = now
        before, self._told = self._told, (sum(self._seconds.values()), sum(self._late.values()))
        if self._told != before:
            self._on_held(self.summary())

    # -- operators ----------------------------------------------------------------------------------------------

    def _ask(self) -> None:
        """Read the run's control row, at most twice a second."""
        now = monotonic()
        if self._run is None or now - self._asked_at < _ASK_SECONDS:
            return
        self._asked_at = now
        before, self._control = self._control, self._run.control()
        after = self._control
        if after == before:
            return
        if after.paused != before.paused:
            self._progress.say(
                f"Paused by {after.updated_by}; `greenfly runs resume {self._run.id}` lets it go on."
                if after.paused
                else f"Resumed by {after.updated_by}."
            )
        caps = (after.keys_per_second, after.bytes_per_second)
        if caps != (before.keys_per_second, before.bytes_per_second):
            self._set_caps()
            self._progress.say(
                f"Limits set by {after.updated_by}: {_said(self._caps()[0], 'keys')}, "
                f"{_said(self._caps()[1], 'bytes')}."
            )

    def _caps(self) -> tuple[int | None, int | None]:
        """Keys and bytes per second of the whole run: the control row, where it says something, over the settings."""
        control, settings = self._control, self._settings
        keys = settings.keys_per_second if control.keys_per_second is None else control.keys_per_second
        size = settings.bytes_per_second if control.bytes_per_second is None else control.bytes_per_second
        return keys or None, size or None

    def _set_caps(self) -> None:
        keys, size = self._caps()
        self._keys.rate = keys / self._workers if keys is not None else None
        self._bytes.rate = size / self._workers if size is not None else None

    # -- latency ------------------------------------------------------------------------------------------------

    def _judge(self) -> None:
        """Change the batch size by what the probes saw since the last time."""
        now = monotonic()
        if not self._probes or now - self._judged_at < _JUDGE_SECONDS:
            return
        self._judged_at = now
        excesses = [(probe, probe.excess()) for probe in self._probes]
        known = [(excess, probe.role) for probe, excess in excesses if excess is not None]
        if not known:
            return
        excess, role = max(known)
        if excess <= self._settings.max_latency_ms:
            # Not before each server had its say; one that cannot be asked has none.
            if all(excess is not None or not probe.connected for probe, excess in excesses):
                self._size.faster()
            return
        self._latest = role
        self._late[role] = self._late.get(role, 0) + 1
        self._size.slower()
        for probe in self._probes:
            probe.forget()
        if self._size.pause and now - self._said_at >= _SAY_SECONDS:
            self._said_at = now
            self._progress.say(
                f"The {role} answers {excess:,.0f} ms later than when it was quiet, so there are pauses between the "
                f"smallest batches (throttle.max_latency_ms is {self._settings.max_latency_ms:g})."
            )


def _said(cap: int | None, unit: str) -> str:
    return f"no cap on {unit}" if cap is None else f"{cap:,} {unit}/s"
