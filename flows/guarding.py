"""Guarding green from a flow: the guard of ``greenfly watch``, with its rollback and with events for Prefect."""

from __future__ import annotations

from collections.abc import Callable

from flows.breach_events import BreachEvents
from flows.observing import Watched, looked_on
from flows.sequence import Outcome, read_outcome
from integrity.flow_links import link_flow_run
from integrity.ledger import open_ledger
from integrity.ledger.vocabulary import RunKind
from integrity.progress import Progress
from integrity.settings import Settings
from integrity.switch.health_values import Health
from integrity.switch.operate import roll_back
from integrity.switch.watch import watch
from integrity.switch.watch_subject import find_subject
from reports import write_report


def guard(
    settings: Settings,
    wanted: str,
    progress: Progress,
    *,
    stop: Callable[[], bool],
    flow_run_id: str | None = None,
) -> Outcome:
    """Guard green until *stop* says so, or the applications are back on blue; then report.

    :raises Refused: the applications are not on green, or somebody watches already.
    :raises ServerError: green refuses at the beginning.
    """
    ledger = open_ledger(settings)
    try:
        subject = find_subject(ledger, wanted)
        with (
            looked_on(settings, RunKind.WATCH, progress) as (seen, tell),
            BreachEvents(settings, subject) as events,
        ):

            def begun(run_id: str, _baseline: Health | None) -> None:
                events.watch_run_id = run_id
                if flow_run_id is not None:
                    link_flow_run(ledger, run_id, flow_run_id)
                seen.say(f"Watching as run {run_id}.")

            def back(reason: str, *, abandon: bool) -> None:
                roll_back(
                    settings,
                    ledger,
                    subject.sync.id,
                    seen,
                    abandon=abandon,
                    reason=f"The guard: {reason}",
                )

            run_id, outcome = watch(
                settings,
                settings.watch,
                ledger,
                subject,
                back,
                stop=stop,
                on_begin=begun,
                on_look=events.see,
            )
            tell(Watched(run_id, outcome.breaches))
        report = write_report(ledger, run_id, settings.report_dir / run_id)
        return read_outcome(ledger, run_id, report)
    finally:
        ledger.close()
