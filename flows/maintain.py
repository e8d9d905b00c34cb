"""The flow that prunes snapshots, checks the record, and tries a backup."""

from __future__ import annotations

from prefect import flow

from flows import maintenance
from flows.parameters import MaintainParameters
from flows.publishing import publish_markdown, publish_table
from flows.running import as_task, at_work


@flow(name="greenfly-maintain", validate_parameters=True, persist_result=False)
def maintain_flow(parameters: MaintainParameters = MaintainParameters()) -> dict[str, object]:  # noqa: B008  (frozen)
    """Prune snapshots, walk the audit chain, try the newest snapshot on the scratch server; fail if one is wrong."""
    with at_work(parameters) as work:
        jobs = maintenance.chosen(
            work.settings,
            work.progress,
            prune=parameters.prune,
            record=parameters.check_record,
            backup=parameters.try_backup,
        )
        done = [as_task(job.name, job.run) for job in jobs]
        publish_table("greenfly-upkeep", [one.to_dict() for one in done], "Upkeep")
        publish_markdown(
            "greenfly-upkeep-summary", "\n\n".join(f"**{one.name}**: {one.text}" for one in done), "Upkeep"
        )
        maintenance.require_good(done)
        return {"upkeep": [one.to_dict() for one in done]}
