"""One watch from its begin to its end: the servers, the run in the ledger, and the guard between the two."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from time import monotonic
from typing import Final

from integrity.endpoint import Endpoint, Identity
from integrity.errors import (
    GreenflyError,
    Interrupted,
    LedgerError,
    Refused,
    Role,
    ServerError,
    ServerNotReady,
    ServerUnreachable,
    StopSignal,
)
from integrity.kinds.base import plural
from integrity.ledger import Ledger, RunHandle
from integrity.ledger.models import PhaseName, PhaseState, Run, RunKind, RunState
from integrity.settings import EndpointSettings, Settings
from integrity.switch.fence_nodes import Fencing, fence_of
from integrity.switch.guard import Guard, GuardOutcome, StartRollback
from integrity.switch.health import HealthProbe, read_baseline
from integrity.switch.health_values import Health
from integrity.switch.lookout import FenceHolds, Look, Lookout
from integrity.switch.notify import Notifier
from integrity.switch.watch_settings import WatchSettings
from integrity.switch.watch_subject import Subject, recorded_fence, rolled_back_by

_BLUE_TIMEOUT_SECONDS: Final = 2.0
_STORY_SECONDS: Final = 1.0
"""Between two looks into the ledger whether somebody else rolled back."""


def watch(
    settings: Settings,
    rules: WatchSettings,
    ledger: Ledger,
    subject: Subject,
    start_rollback: StartRollback,
    *,
    stop: Callable[[], bool],
    on_begin: Callable[[str, Health | None], None] = lambda _id, _baseline: None,
    on_look: Callable[[Look], None] = lambda _: None,
) -> tuple[str, GuardOutcome]:
    """Guard green as a run of its own, until *stop* says so, or somebody else rolled back; its id and what was seen.

    :param on_begin: is told the run's id and the baseline.
    :raises Interrupted: Ctrl-C, or a signal to end.
    :raises Refused: the settings name other servers than the sync run.
    :raises ServerError: green refuses at the beginning; that it cannot be reached is for the rules.
    """
    green, blue = _servers(settings, subject)
    identity = _identity(green)
    handle = ledger.start_run(RunKind.WATCH, settings, parent_id=subject.sync.id)
    baseline = read_baseline(ledger.engine, subject.cutover.id)
    facts = dict(subject.sync.source or {})
    with _recorded(handle) as conclude:
        handle.identify(
            source=facts or None,
            target=identity.to_dict() if identity else None,
            source_address=str(blue),
            target_address=str(green),
        )
        on_begin(handle.id, baseline)
        handle.event(
            "guard.started",
            {
                "sync": subject.sync.id,
                "cutover": subject.cutover.id,
                "baseline": baseline.to_dict() if baseline else None,
                "on_breach": rules.on_breach.value,
                "on_dead": rules.on_dead.value,
            },
        )
        context = {
            "run": handle.id,
            "sync_run": subject.sync.id,
            "cutover_run": subject.cutover.id,
            "label": settings.label,
            "server": str(green),
        }
        with (
            HealthProbe(
                green,
                identity,
                window_seconds=rules.window_seconds,
                probes_per_second=rules.probes_per_second,
            ) as probe,
            Notifier(rules) as notifier,
        ):
            lookout = _lookout(rules, probe, baseline, ledger, subject, blue)
            guard = Guard(rules, handle, lookout, notifier, start_rollback, context=context, on_look=on_look)
            going = _Going(stop, ledger, subject, handle)
            try:
                guard.run(going.ended)
            finally:
                conclude(guard.outcome)
        return handle.id, guard.outcome


def look_once(settings: Settings, rules: WatchSettings, ledger: Ledger, subject: Subject) -> Look:
    """One look over a whole window: nothing is recorded, nobody told, nothing started.

    :raises ServerError: green refuses; that it cannot be reached is for the rules.
    """
    green, blue = _servers(settings, subject)
    baseline = read_baseline(ledger.engine, subject.cutover.id)
    with HealthProbe(
        green,
        _identity(green),
        window_seconds=rules.window_seconds,
        probes_per_second=rules.probes_per_second,
    ) as probe:
        return _lookout(rules, probe, baseline, ledger, subject, blue).look_once()


class _Going:
    """Whether there is anything left to guard: the applications may be sent back by somebody else meanwhile."""

    def __init__(self, stop: Callable[[], bool], ledger: Ledger, subject: Subject, handle: RunHandle) -> None:
        self._stop = stop
        self._ledger = ledger
        self._subject = subject
        self._handle = handle
        self._asked_at = monotonic()

    def ended(self) -> bool:
        if self._stop():
            return True
        if monotonic() - self._asked_at < _STORY_SECONDS:
            return False
        self._asked_at = monotonic()
        back = rolled_back_by(self._ledger, self._subject)
        if back is not None:
            self._handle.event("guard.ended", {"rolled_back_by": back})
        return back is not None


# -- the servers -----------------------------------------------------------------------------------------------------


def _servers(settings: Settings, subject: Subject) -> tuple[Endpoint, Endpoint]:
    """Green and blue."""
    green = _endpoint("target", settings.target, subject.sync.target_address)
    blue = _endpoint("source", settings.source, subject.sync.source_address)
    patience = replace(
        blue.target,
        connect_timeout=min(blue.target.connect_timeout, _BLUE_TIMEOUT_SECONDS),
        io_timeout=min(blue.target.io_timeout, _BLUE_TIMEOUT_SECONDS),
    )
    return green, Endpoint(patience)


def _endpoint(role: Role, settings: EndpointSettings, recorded: str | None) -> Endpoint:
    endpoint = Endpoint.from_settings(role, settings)
    if recorded is not None and str(endpoint) != recorded:
        raise Refused(
            f"The settings name {endpoint} as the {role}, and the sync run {recorded}.",
            "Give the URLs that the sync run was started with.",
        )
    return endpoint


def _identity(green: Endpoint) -> Identity | None:
    try:
        return green.identify()
    except (ServerUnreachable, ServerNotReady):
        # A guard that is started again after green died has to judge just that.
        return None


def _answers(endpoint: Endpoint) -> bool:
    try:
        with endpoint.connect("watch") as connection:
            connection.command(b"PING")
    except (ServerUnreachable, ServerNotReady):
        return False
    except ServerError:
        return True
    return True


def _lookout(
    rules: WatchSettings,
    probe: HealthProbe,
    baseline: Health | None,
    ledger: Ledger,
    subject: Subject,
    blue: Endpoint,
) -> Lookout:
    return Lookout(
        rules,
        probe,
        baseline,
        ledger.engine,
        subject.sync.id,
        blue_answers=lambda: _answers(blue),
        fence_holds=_fence(ledger, subject.cutover, blue),
    )


def _fence(ledger: Ledger, cutover: Run, blue: Endpoint) -> FenceHolds | None:
    """A look at the fence that the cutover recorded; None where it recorded none."""
    plan = recorded_fence(ledger, cutover.id)
    if plan is None:
        return None
    known: list[Fencing] = []

    def holds() -> bool:
        if not known:
            known.append(fence_of(blue, blue.identify))
        return known[0].holds(plan)

    return holds


# -- the run ---------------------------------------------------------------------------------------------------------


@contextmanager
def _recorded(handle: RunHandle) -> Iterator[Callable[[GuardOutcome], None]]:
    """End the run in the ledger, whatever happens inside; hands over what takes the outcome."""
    outcomes: list[GuardOutcome] = []
    handle.phase_started(PhaseName.WATCH)

    def end(state: RunState, kind: str | None = None, error: str | None = None) -> None:
        outcome = outcomes[-1] if outcomes else None
        detail = outcome.to_dict() if outcome else {}
        phase = PhaseState.DONE if state is RunState.FINISHED else PhaseState.FAILED
        handle.phase_ended(PhaseName.WATCH, phase, detail=detail)
        reason = summary(outcome) if outcome else None
        handle.finish(state, verdict=None, reason=reason, error_kind=kind, error=error)

    try:
        yield outcomes.append
    except KeyboardInterrupt as error:
        interrupted = Interrupted(error.signal_number if isinstance(error, StopSignal) else signal.SIGINT)
        interrupted.remedy = "Green is not guarded any more; the same command begins a new watch."
        end(RunState.INTERRUPTED, "Interrupted", interrupted.problem)
        raise interrupted from error
    except LedgerError:
        raise  # There is nowhere to record it, or another process owns the run by now.
    except GreenflyError as error:
        end(RunState.FAILED, type(error).__name__, str(error))
        raise
    except BaseException as error:
        # A defect: its text may hold anything, so only its kind goes into the ledger.
        end(RunState.FAILED, type(error).__name__, "an unexpected error; see the log of this run")
        raise
    end(RunState.FINISHED)


def summary(outcome: GuardOutcome) -> str:
    """One sentence for people."""
    if outcome.rollback == "done":
        return f"The applications were rolled back to blue: {outcome.reason}"
    if outcome.clean:
        return f"No rule was breached in {outcome.seconds:.0f} s ({plural(outcome.looks, 'look')})."
    names = sorted({breach.rule for breach in outcome.breaches})
    still = sorted({breach.rule for breach in outcome.breaches if breach.recovered_at is None})
    text = f"Breached: {', '.join(names)}; " + (
        f"still now: {', '.join(still)}." if still else "all recovered."
    )
    if outcome.rollback == "failed":
        text += " The rollback was started and did not succeed."
    return text
