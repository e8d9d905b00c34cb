"""The flow that moves the applications back to blue; its deployment is started by people and by events."""

from __future__ import annotations

from prefect import flow

from flows.parameters import RollbackParameters
from flows.publishing import publish, publish_markdown
from flows.rollback_request import bring_back, recovered
from flows.running import as_task, at_work


@flow(name="greenfly-rollback", validate_parameters=True, persist_result=False)
def rollback_flow(parameters: RollbackParameters = RollbackParameters()) -> dict[str, object]:  # noqa: B008  (frozen)
    """Move the applications back to blue, with what they wrote to green; where somebody else does, wait for it."""
    with at_work(parameters) as work:
        settings = work.settings
        since = recovered(settings, parameters.watch_run, parameters.rule)
        if since is not None:
            publish_markdown("greenfly-rollback", f"# {since}\n\nNothing was done.", since)
            return {"answer": "recovered", "text": since}
        answer = as_task(
            "roll back",
            lambda: bring_back(
                settings,
                parameters.run,
                work.progress,
                origin=parameters.origin,
                reason=parameters.reason,
                abandon=parameters.abandon,
                flow_run_id=work.flow_run_id,
            ),
        )
        publish_markdown(
            "greenfly-rollback",
            f"# {answer.text}\n\nSync run `{answer.sync_run_id}`\n\n{parameters.reason}",
            answer.text,
        )
        if answer.outcome is not None:
            work.hand_over(answer.outcome)
            publish(settings, answer.outcome)
        return answer.to_dict()
