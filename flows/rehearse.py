"""The flow that rehearses a migration in the scratch server, and lays it beside the last rehearsal."""

from __future__ import annotations

from prefect import flow

from flows import sequence
from flows.parameters import RehearseParameters
from flows.publishing import publish, publish_comparison
from flows.running import as_task, at_work


@flow(name="greenfly-rehearse", validate_parameters=True, persist_result=False)
def rehearse_flow(parameters: RehearseParameters = RehearseParameters()) -> dict[str, object]:  # noqa: B008  (frozen)
    """Copy blue into the scratch server, prove it, and say what changed since the last time."""
    with at_work(parameters) as work:
        outcome = sequence.rehearse(
            work.settings, work.progress, as_task, work.flow_run_id, compared=publish_comparison
        )
        work.hand_over(outcome)
        publish(work.settings, outcome)
        return outcome.to_dict()
