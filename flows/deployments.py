"""All flows as deployments: for ``greenfly serve``; ``prefect.yaml`` says the same for work pools."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Final

from prefect import Flow
from prefect.deployments.runner import RunnerDeployment
from prefect.events import DeploymentEventTrigger
from prefect.runner import Runner
from prefect.schedules import Cron, Schedule
from prefect.types.entrypoint import EntrypointType

from flows.breach_events import BREACHED, REQUESTED, WANTED
from flows.cutover import cutover_flow
from flows.maintain import maintain_flow
from flows.migrate import migrate_flow
from flows.rehearse import rehearse_flow
from flows.rollback import rollback_flow
from flows.rollback_request import Origin
from flows.verify import verify_flow
from flows.watch import watch_flow
from integrity.errors import ConfigurationError
from integrity.settings import Settings

NAME: Final = "default"
FLOWS: Final[dict[str, Flow[..., dict[str, object]]]] = {
    "migrate": migrate_flow,
    "rehearse": rehearse_flow,
    "verify": verify_flow,
    "cutover": cutover_flow,
    "rollback": rollback_flow,
    "watch": watch_flow,
    "maintain": maintain_flow,
}


def deployments(settings: Settings) -> list[RunnerDeployment]:
    """One deployment of each flow, with the schedules of the settings and the triggers of the rollback.

    :raises ConfigurationError: a schedule is no cron line.
    """
    schedules = settings.flows.schedules.by_flow()
    return [
        RunnerDeployment.from_flow(
            flow,
            name=NAME,
            description=flow.description,
            tags=["greenfly"],
            # Serving pauses them when it ends, and nothing else begins them again.
            paused=False,
            schedules=[_schedule(settings, name, schedules[name])] if name in schedules else None,
            triggers=list(_triggers(settings)) if name == "rollback" else None,
            entrypoint_type=EntrypointType.MODULE_PATH,
        )
        for name, flow in FLOWS.items()
    ]


def serve_until_stopped(
    settings: Settings, served: Sequence[RunnerDeployment], registered: Callable[[], None]
) -> None:
    """Run what is due of these deployments until this process is told to end; their schedules are paused then.

    The rollback is served by a runner of its own without a limit, so that nothing else can hold it up.

    :param registered: called when Prefect knows all of them.
    """
    try:
        asyncio.run(_serve(settings, served, registered))
    except ExceptionGroup as group:
        raise group.exceptions[0] from group


async def _serve(
    settings: Settings, served: Sequence[RunnerDeployment], registered: Callable[[], None]
) -> None:
    seconds = settings.flows.poll_seconds
    urgent = Runner(name="greenfly-rollback", limit=None, query_seconds=seconds)
    others = Runner(name="greenfly", limit=settings.flows.limit, query_seconds=seconds)
    for deployment in served:
        runner = urgent if deployment.flow_name == rollback_flow.name else others
        await runner.aadd_deployment(deployment)
    registered()
    async with asyncio.TaskGroup() as group:
        for runner in (urgent, others):
            group.create_task(runner.start())
        # By now both have taken SIGTERM, and the one that took it last would end alone.
        await asyncio.sleep(0)

        def stop() -> None:
            for runner in (urgent, others):
                if runner.started:
                    group.create_task(runner.astop())

        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop)


def _schedule(settings: Settings, name: str, line: str) -> Schedule:
    try:
        return Cron(line, timezone=settings.flows.timezone)
    except ValueError as error:
        raise ConfigurationError(
            f"flows.schedules.{name} is no cron line.", "Write it as `0 3 * * *`: at three every night."
        ) from error


def _triggers(settings: Settings) -> list[DeploymentEventTrigger]:
    """What starts a rollback; a breach only where the guard may roll back, and when it has lasted."""
    return [
        DeploymentEventTrigger(
            name="greenfly: rollback requested",
            expect={REQUESTED},
            match={"prefect.resource.id": "greenfly.*"},
            parameters=_parameters(Origin.EVENT, reason="asked for by an event"),
        ),
        DeploymentEventTrigger(
            name="greenfly: guard breached",
            expect={BREACHED},
            match={"prefect.resource.id": "greenfly.run.*", WANTED: "wanted"},
            parameters=_parameters(Origin.GUARD, reason="the guard saw a breach", watch_run="", rule=""),
            schedule_after=timedelta(seconds=settings.watch.rollback_after_seconds),
        ),
    ]


def _parameters(origin: Origin, **defaults: str) -> dict[str, object]:
    """Parameters that are taken from the event; *defaults* where it does not tell."""
    texts = {"run": "latest"} | defaults
    return {
        "parameters": {"origin": origin.value}
        | {
            name: {
                "__prefect_kind": "jinja",
                "template": f"{{{{ event.payload.{name} or '{default}' }}}}",
            }
            for name, default in texts.items()
        }
    }
