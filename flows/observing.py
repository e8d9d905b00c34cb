"""Runs that others look on: metrics and traces while they go on, where the settings want them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Concatenate, Final, ParamSpec, Protocol, TypeVar

from integrity.errors import ConfigurationError, GreenflyError
from integrity.ledger.models import RunKind, Verdict
from integrity.ledger.operations import OPERATIONS
from integrity.progress import Progress
from integrity.settings import Settings

if TYPE_CHECKING:
    from flows.tracing import RunTrace
    from integrity.switch.guard import Breach

P = ParamSpec("P")
S = TypeVar("S")
T = TypeVar("T")

_RUN_NOTE: Final = "run "
"""How the note begins that tells a failed run's id."""


class Outcome(Protocol):
    """What is told of a run that has ended."""

    @property
    def run_id(self) -> str: ...
    @property
    def verdict(self) -> Verdict | None: ...


@dataclass(frozen=True, slots=True)
class Watched:
    """What is told of a watch that has ended."""

    run_id: str
    breaches: Sequence[Breach]
    verdict: Verdict | None = None
    """A watch has none."""


O_co = TypeVar("O_co", bound=Outcome | None, covariant=True)


def observed(
    function: Callable[Concatenate[Settings, RunKind, Progress, P], O_co],
) -> Callable[Concatenate[Settings, RunKind, Progress, P], O_co]:
    """Have runs of *function* looked on: it takes the settings, the kind of the run, and the progress."""

    @wraps(function)
    def run(
        settings: Settings, kind: RunKind, progress: Progress, /, *args: P.args, **kwargs: P.kwargs
    ) -> O_co:
        with looked_on(settings, kind, progress) as (seen, tell):
            outcome = function(settings, kind, seen, *args, **kwargs)
            tell(outcome)
            return outcome

    return run


def observed_operation(
    kind: RunKind,
) -> Callable[
    [Callable[Concatenate[Settings, str, Progress, P], O_co]],
    Callable[Concatenate[Settings, str, Progress, P], O_co],
]:
    """The same for a function that takes the settings, the run that it rests on, and the progress."""

    def decorate(
        function: Callable[Concatenate[Settings, str, Progress, P], O_co],
    ) -> Callable[Concatenate[Settings, str, Progress, P], O_co]:
        @wraps(function)
        def run(
            settings: Settings, wanted: str, progress: Progress, /, *args: P.args, **kwargs: P.kwargs
        ) -> O_co:
            with looked_on(settings, kind, progress) as (seen, tell):
                outcome = function(settings, wanted, seen, *args, **kwargs)
                tell(outcome)
                return outcome

        return run

    return decorate


@contextmanager
def looked_on(
    settings: Settings, kind: RunKind, progress: Progress
) -> Iterator[tuple[Progress, Callable[[Outcome | None], None]]]:
    """Tell metrics and traces as long as the block runs; hands over the progress to use, and what takes the outcome.

    :raises ConfigurationError: traces are wanted, and the library is not installed; a rollback begins all the same.
    """
    with ExitStack() as stack:
        if settings.metrics.active:
            from reports.metrics.telling import told_meanwhile

            stack.enter_context(told_meanwhile(settings, progress.say))
        if settings.tracing.endpoint is None or not _can_trace(settings, kind, progress):
            yield progress, lambda outcome: None
            return
        from flows.tracing import TracedProgress, traced

        trace = stack.enter_context(traced(settings.tracing, kind.value, progress))
        try:
            yield TracedProgress(progress, trace), lambda outcome: _tell(trace, settings, kind, outcome)
        except GreenflyError as error:
            _tell_failed(trace, settings, kind, error)
            raise


def _can_trace(settings: Settings, kind: RunKind, progress: Progress) -> bool:
    try:
        import opentelemetry.exporter.otlp.proto.http
        import opentelemetry.sdk.trace  # noqa: F401
    except ImportError as error:
        if kind is not RunKind.ROLLBACK:
            raise ConfigurationError(
                f"tracing.endpoint is set, and the library is not installed ({error.name}).",
                "Install greenfly[tracing], or leave tracing.endpoint out.",
            ) from None
        progress.say("No traces are sent: greenfly[tracing] is not installed.")
        return False
    return True


def _tell(trace: RunTrace, settings: Settings, kind: RunKind, outcome: Outcome | None) -> None:
    if outcome is not None:
        trace.tell(id=outcome.run_id, verdict=outcome.verdict.value if outcome.verdict else None)
        if isinstance(outcome, Watched):
            trace.breaches(outcome.breaches)
        _tell_steps(trace, settings, kind, outcome.run_id)


def _tell_failed(trace: RunTrace, settings: Settings, kind: RunKind, error: GreenflyError) -> None:
    notes = getattr(error, "__notes__", [])
    run_id = next((note.removeprefix(_RUN_NOTE) for note in notes if note.startswith(_RUN_NOTE)), None)
    if run_id is not None:
        trace.tell(id=run_id)
        _tell_steps(trace, settings, kind, run_id)


def _tell_steps(trace: RunTrace, settings: Settings, kind: RunKind, run_id: str) -> None:
    """Steps are recorded in the ledger by whoever takes them, also by a process that is gone."""
    if kind not in OPERATIONS:
        return
    from integrity.ledger import open_ledger
    from integrity.ledger.steps import read_steps

    try:
        ledger = open_ledger(settings)
        try:
            trace.steps(read_steps(ledger.engine, run_id))
        finally:
            ledger.close()
    except GreenflyError:
        # The operation has ended by now; a ledger that went away meanwhile is told by others.
        return
