"""What is deployed: the same flows by ``greenfly serve`` and ``prefect.yaml``, with parameters that hold no secret."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from typing import Final

import pytest
from prefect import Flow
from prefect.deployments.runner import RunnerDeployment
from prefect.events import DeploymentEventTrigger
from ruamel.yaml import YAML

from flows.deployments import FLOWS, deployments
from flows.parameters import BY_FLOW, read_parameters
from flows.rollback_request import Origin
from integrity.errors import ConfigurationError
from integrity.settings import Settings, load_settings

ROOT: Final = Path(__file__).parents[2]


def settings_of(state_dir: Path, **flows: object) -> Settings:
    return load_settings({"state_dir": state_dir, "flows": flows}, environ={}).settings


def by_flow(served: list[RunnerDeployment]) -> dict[str, RunnerDeployment]:
    return {str(one.flow_name).removeprefix("greenfly-"): one for one in served}


def test_every_flow_is_served_and_only_the_scheduled_ones_by_a_clock(state_dir: Path) -> None:
    served = by_flow(
        deployments(
            settings_of(
                state_dir,
                schedules={"rehearse": "0 3 * * *", "maintain": "30 4 * * sun"},
                timezone="Europe/Berlin",
            )
        )
    )
    assert served.keys() == FLOWS.keys() == BY_FLOW.keys()
    for name, one in served.items():
        clocks = [clock.schedule for clock in one.schedules or []]
        assert len(clocks) == (name in {"rehearse", "maintain"}), name
        assert {getattr(clock, "timezone", None) for clock in clocks} <= {"Europe/Berlin"}


@pytest.mark.parametrize("line", ["", "nightly", "* * * *", "* * * * * * *", "99 * * * *", "0 25 * * *"])
def test_a_schedule_that_is_no_cron_line_is_refused_by_name(state_dir: Path, line: str) -> None:
    with pytest.raises(ConfigurationError, match=r"flows\.schedules\.rehearse"):
        deployments(settings_of(state_dir, schedules={"rehearse": line}))


@pytest.mark.parametrize("name", ["cutover", "rollback"])
def test_no_clock_moves_applications(state_dir: Path, name: str) -> None:
    with pytest.raises(ConfigurationError, match=name):
        settings_of(state_dir, schedules={name: "0 3 * * *"})


def test_the_file_for_work_pools_deploys_the_same_flows_with_the_same_triggers(state_dir: Path) -> None:
    file = YAML(typ="safe").load((ROOT / "prefect.yaml").read_text())
    assert file["pull"] == [], "else Prefect looks for a folder of the machine that deployed"
    entries = {_flow_of(entry): entry for entry in file["deployments"]}
    served = by_flow(deployments(settings_of(state_dir)))
    assert {flow.name.removeprefix("greenfly-") for flow in entries} == served.keys()
    for flow, entry in entries.items():
        ours = served[flow.name.removeprefix("greenfly-")]
        assert (entry["name"], entry["tags"]) == (ours.name, ours.tags)
        # A worker runs flows in an empty folder of its own: no file of the repository is there.
        assert entry["entrypoint"] == ours.entrypoint
        triggers = [DeploymentEventTrigger.model_validate(one) for one in entry.get("triggers", ())]
        assert [_told(one) for one in triggers] == [
            _told(one) for one in ours.triggers if isinstance(one, DeploymentEventTrigger)
        ]
        # A file in a repository switches nothing on by itself.
        assert not any(clock["active"] for clock in entry.get("schedules", ()))


def _flow_of(entry: Mapping[str, object]) -> Flow[..., object]:
    module, _, name = str(entry["entrypoint"]).rpartition(".")
    flow = getattr(import_module(module), name)
    assert isinstance(flow, Flow)
    return flow


def _told(trigger: DeploymentEventTrigger) -> tuple[object, ...]:
    return (trigger.name, trigger.expect, trigger.match, trigger.schedule_after, trigger.parameters)


def test_what_a_trigger_fills_in_are_parameters_of_the_rollback(state_dir: Path) -> None:
    rollback = by_flow(deployments(settings_of(state_dir)))["rollback"]
    requested, breached = (one for one in rollback.triggers if isinstance(one, DeploymentEventTrigger))
    for trigger, origin in ((requested, Origin.EVENT), (breached, Origin.GUARD)):
        assert trigger.parameters is not None
        filled = trigger.parameters["parameters"]
        assert filled.keys() <= BY_FLOW["rollback"].model_fields.keys()
        assert filled["origin"] == origin
    assert requested.schedule_after == timedelta(0)
    assert breached.schedule_after == timedelta(seconds=30)


def test_prefects_page_explains_every_parameter_and_none_is_a_secret() -> None:
    for name, flow in FLOWS.items():
        text = json.dumps(flow.parameters.model_dump())
        model = BY_FLOW[name]
        for field, info in model.model_fields.items():
            assert info.title, (name, field)
            assert info.description, (name, field)
        for word in ("password", "token", "url", "secret", "identity"):
            assert f'"{word}' not in text.lower(), (name, word)


@pytest.mark.parametrize(
    ("flow", "text"),
    [
        ("copy", "{}"),
        ("migrate", "{"),
        ("migrate", "[]"),
        ("migrate", '{"source": "redis://elsewhere"}'),
        ("verify", '{"workers": 0}'),
        ("rollback", '{"origin": "nobody"}'),
    ],
)
def test_parameters_that_a_flow_does_not_take_are_refused(flow: str, text: str) -> None:
    with pytest.raises(ConfigurationError):
        read_parameters(flow, text)
