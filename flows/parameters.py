"""What may differ from flow run to flow run, as Prefect's page shows it; never an address or a secret.

Servers, passwords and the state folder come from ``greenfly.toml`` and ``GREENFLY_*`` where the flow runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from flows.rollback_request import Origin
from integrity.errors import ConfigurationError
from integrity.settings import ConflictPolicy, ExtraPolicy, RuleSettings, Settings, load_settings

RunName = Annotated[
    str,
    Field(
        title="Run",
        description="the sync run, or an operation that rests on it: its id, its beginning or ending, or latest",
        min_length=1,
        max_length=40,
    ),
]


class FlowParameters(BaseModel):
    """What every flow takes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    config_file: Path | None = Field(
        None,
        title="Configuration file",
        description="another greenfly.toml than the one in the working folder",
    )

    def overrides(self) -> dict[str, object]:
        """The settings that these parameters make."""
        return {}

    def settings(self) -> Settings:
        """Settings from file and environment where the flow runs, with these parameters over them.

        :raises ConfigurationError: something in them cannot be used.
        """
        return load_settings(self.overrides(), config_file=self.config_file).settings


class ComparedParameters(FlowParameters):
    """What flows take that compare two servers."""

    databases: list[int] | None = Field(None, title="Databases", description="only these databases")
    rules: RuleSettings | None = Field(
        None,
        title="Rules",
        description="which keys the run is about and where they go; what is left out stays as configured",
    )
    extra_keys: ExtraPolicy | None = Field(
        None, title="Extra keys", description="fail or allow keys that only the target has"
    )
    workers: int | None = Field(
        None, title="Workers", ge=1, le=64, description="processes that share copy and verify"
    )
    reconnect_seconds: float | None = Field(
        None, title="Reconnect (seconds)", ge=0, description="how long to try a lost server again"
    )
    keys_per_second: int | None = Field(
        None, title="Keys per second", ge=1, description="no more keys than this"
    )
    bytes_per_second: int | str | None = Field(
        None, title="Bytes per second", description="no more bytes than this, as 50MB or 1.5GiB"
    )
    label: str | None = Field(None, title="Label", description="free text kept with the run", max_length=200)

    def overrides(self) -> dict[str, object]:
        """The settings that these parameters make."""
        rules = self.rules.model_dump(mode="json", by_alias=True, exclude_unset=True) if self.rules else {}
        return {
            "verify": given(extra_keys=self.extra_keys.value if self.extra_keys else None),
            "rules": rules,
            "throttle": given(keys_per_second=self.keys_per_second, bytes_per_second=self.bytes_per_second),
            **given(
                databases=self.databases,
                workers=self.workers,
                reconnect_seconds=self.reconnect_seconds,
                label=self.label,
            ),
        }


class VerifyParameters(ComparedParameters):
    """Of the verify flow."""


class RehearseParameters(ComparedParameters):
    """Of the rehearse flow: a copy into the scratch server of the settings."""

    snapshot: bool | None = Field(
        None, title="Snapshot", description="take a snapshot of the source first, as a migration would"
    )

    def overrides(self) -> dict[str, object]:
        """The settings that these parameters make."""
        return super().overrides() | {"snapshot": given(enabled=self.snapshot)}


class MigrateParameters(ComparedParameters):
    """Of the migrate flow."""

    conflict: ConflictPolicy | None = Field(
        None, title="Conflict", description="fail, skip or replace on an existing target key"
    )
    snapshot: bool | None = Field(None, title="Snapshot", description="take a snapshot of the source first")
    resume: bool = Field(
        True,
        title="Resume",
        description="go on with the newest run between the two servers that broke off, where there is one",
    )

    def overrides(self) -> dict[str, object]:
        """The settings that these parameters make."""
        return super().overrides() | {
            "copy": given(conflict=self.conflict.value if self.conflict else None),
            "snapshot": given(enabled=self.snapshot),
        }

    @classmethod
    def showing(cls, settings: Settings) -> Self:
        """What of *settings* may be shown on Prefect's page: the parameters of a flow that gets them in memory."""
        throttle, databases = settings.throttle, settings.databases
        return cls(
            conflict=settings.copying.conflict,
            snapshot=settings.snapshot.enabled,
            extra_keys=settings.verify.extra_keys,
            databases=list(databases) if databases is not None else None,
            rules=settings.rules,
            workers=settings.workers,
            reconnect_seconds=settings.reconnect_seconds,
            keys_per_second=throttle.keys_per_second,
            bytes_per_second=throttle.bytes_per_second,
            label=settings.label,
            resume=False,
        )


class CutoverParameters(FlowParameters):
    """Of the cutover flow."""

    run: RunName = "latest"
    wait_for_approval: bool = Field(
        True,
        title="Wait for approval",
        description="ask for the approvals that are missing and wait for them; else they must be there already",
    )


class RollbackParameters(FlowParameters):
    """Of the rollback flow."""

    run: RunName = "latest"
    reason: str = Field(
        "asked for on Prefect", title="Reason", description="why; kept with the run", max_length=2000
    )
    abandon: bool = Field(
        False,
        title="Abandon green",
        description="green is dead: switch at once, and list what may be lost",
    )
    origin: Origin = Field(Origin.FLOW, title="Origin", description="who asked; triggers fill it in")
    watch_run: str | None = Field(
        None,
        title="Watch run",
        description="the watch run that saw a breach; nothing is done where it has recovered since",
        max_length=40,
    )
    rule: str | None = Field(None, title="Rule", description="the rule that was breached", max_length=80)


class WatchParameters(FlowParameters):
    """Of the watch flow."""

    run: RunName = "latest"
    seconds: float | None = Field(
        None, title="Seconds", gt=0, description="end after so long; flows.watch_seconds by default"
    )


class MaintainParameters(FlowParameters):
    """Of the maintain flow."""

    prune: bool = Field(
        True, title="Prune", description="remove the snapshots that snapshot.keep and max_age_days let go"
    )
    check_record: bool = Field(
        True, title="Check the record", description="walk the audit chain and its checkpoints"
    )
    try_backup: bool = Field(
        True,
        title="Try a backup",
        description="restore the newest snapshot into the scratch server and prove every key",
    )


BY_FLOW: Final[Mapping[str, type[FlowParameters]]] = {
    "migrate": MigrateParameters,
    "rehearse": RehearseParameters,
    "verify": VerifyParameters,
    "cutover": CutoverParameters,
    "rollback": RollbackParameters,
    "watch": WatchParameters,
    "maintain": MaintainParameters,
}


def read_parameters(flow: str, text: str) -> FlowParameters:
    """Parameters of a flow, from JSON.

    :raises ConfigurationError: there is no such flow, or it does not take them.
    """
    if flow not in BY_FLOW:
        raise ConfigurationError(f"There is no flow {flow!r}.", f"There are {', '.join(BY_FLOW)}.")
    try:
        return BY_FLOW[flow].model_validate_json(text)
    except ValidationError as error:
        problems = error.errors(include_input=False, include_url=False, include_context=False)
        names = sorted({".".join(map(str, problem["loc"])) or "the text" for problem in problems})
        raise ConfigurationError(
            f"The flow {flow} does not take these parameters: {', '.join(names)}.",
            f"It takes {', '.join(BY_FLOW[flow].model_fields)}, as one JSON object.",
        ) from error


def given(**values: object) -> dict[str, object]:
    """*values* without what was not given."""
    return {name: value for name, value in values.items() if value is not None}
