"""The flow that copies blue into green and proves it."""

from __future__ import annotations

from prefect import flow

from flows import sequence
from flows.parameters import MigrateParameters
from flows.publishing import publish
from flows.running import as_task, at_work


@flow(name="greenfly-migrate", validate_parameters=True, persist_result=False)
def migrate_flow(parameters: MigrateParameters = MigrateParameters()) -> dict[str, object]:  # noqa: B008  (frozen)
    """Copy blue into green and prove it; the result holds the run's id, verdict and report."""
    with at_work(parameters) as work:
        outcome = sequence.migrate(
            work.settings,
            work.progress,
            as_task,
            work.flow_run_id,
            resume_if_any=parameters.resume,
        )
        work.hand_over(outcome)
        publish(work.settings, outcome)
        return outcome.to_dict()
