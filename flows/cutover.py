"""The flow that moves the applications to green, after the approvals that are wanted."""

from __future__ import annotations

from prefect import flow

from flows import operations
from flows.approving import wait_for_approvals
from flows.parameters import CutoverParameters
from flows.publishing import publish, publish_table
from flows.running import as_task, at_work


@flow(name="greenfly-cutover", validate_parameters=True, persist_result=False)
def cutover_flow(parameters: CutoverParameters = CutoverParameters()) -> dict[str, object]:  # noqa: B008  (frozen)
    """Ask for approval, then fence blue, carry over the rest, switch the environment, confirm; or undo all of it."""
    with at_work(parameters) as work:
        settings = work.settings
        plan = as_task("plan", lambda: operations.plan_cutover(settings, parameters.run))
        publish_table(
            "greenfly-gates", [gate.to_dict() for gate in plan.gates], f"Gates of {plan.sync_run_id}"
        )
        if parameters.wait_for_approval:
            wait_for_approvals(settings, plan.sync_run_id, work.progress, on_prefect=work.served)
        outcome = as_task(
            "cut over",
            lambda: operations.cut_over(
                settings, plan.sync_run_id, work.progress, flow_run_id=work.flow_run_id
            ),
        )
        work.hand_over(outcome)
        publish(settings, outcome)
        return outcome.to_dict()
