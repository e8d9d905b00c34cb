"""The flow that compares every key of both servers."""

from __future__ import annotations

from prefect import flow

from flows import sequence
from flows.parameters import VerifyParameters
from flows.publishing import publish
from flows.running import as_task, at_work


@flow(name="greenfly-verify", validate_parameters=True, persist_result=False)
def verify_flow(parameters: VerifyParameters = VerifyParameters()) -> dict[str, object]:  # noqa: B008  (frozen)
    """Compare every key of both servers; nothing is written to either."""
    with at_work(parameters) as work:
        outcome = sequence.verify(work.settings, work.progress, as_task, work.flow_run_id)
        work.hand_over(outcome)
        publish(work.settings, outcome)
        return outcome.to_dict()
