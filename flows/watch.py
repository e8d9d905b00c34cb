"""The flow that guards green after a cutover, and tells Prefect about breaches."""

from __future__ import annotations

from time import monotonic

from prefect import flow

from flows import guarding
from flows.parameters import WatchParameters
from flows.publishing import publish
from flows.running import as_task, at_work


@flow(name="greenfly-watch", validate_parameters=True, persist_result=False)
def watch_flow(parameters: WatchParameters = WatchParameters()) -> dict[str, object]:  # noqa: B008  (frozen)
    """Guard green for a time: judge its health by rules, tell somebody, and roll back where that is wanted."""
    with at_work(parameters) as work:
        until = monotonic() + (parameters.seconds or work.settings.flows.watch_seconds)
        outcome = as_task(
            "watch",
            lambda: guarding.guard(
                work.settings,
                parameters.run,
                work.progress,
                stop=lambda: monotonic() >= until,
                flow_run_id=work.flow_run_id,
            ),
        )
        work.hand_over(outcome)
        publish(work.settings, outcome)
        return outcome.to_dict()
