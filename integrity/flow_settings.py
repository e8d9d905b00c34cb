"""The ``[flows]`` table: schedules, approvals, events and the webhook; see ``docs/flows.md``."""

from __future__ import annotations

import ipaddress
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final, Self
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, Field, SecretStr, field_validator, model_validator

from integrity.section import Section

TOKEN_LENGTH: Final = 24
"""Fewest characters of the webhook's token."""


def _cron(text: str) -> str:
    if len(text.split()) not in {5, 6}:
        raise ValueError(
            "it must be a cron line of five fields (minute hour day month weekday), or six with seconds last"
        )
    return text


Cron = Annotated[str, AfterValidator(_cron)]


class FlowSchedules(Section):
    """When ``greenfly serve`` starts which flow by itself.  Cutovers and rollbacks are never begun by a clock."""

    migrate: Cron | None = Field(None, description="cron line; copies into the target itself")
    rehearse: Cron | None = Field(None, description="cron line; copies into [scratch] and compares")
    verify: Cron | None = Field(None, description="cron line; compares source and target")
    watch: Cron | None = Field(None, description="cron line; guards green for flows.watch_seconds")
    maintain: Cron | None = Field(None, description="cron line; prunes, checks the record, tries a backup")

    def by_flow(self) -> dict[str, str]:
        """Flow → cron line, only those that are set."""
        return {name: line for name in type(self).model_fields if (line := getattr(self, name)) is not None}


class WebhookSettings(Section):
    """The webhook that asks for a rollback: ``greenfly serve --webhook``."""

    host: str = Field(
        "127.0.0.1", min_length=1, description="address to listen on; beyond loopback TLS is needed"
    )
    port: Annotated[int, Field(ge=0, le=65_535)] = Field(
        8099, description="port to listen on; 0 takes a free one"
    )
    token: SecretStr | None = Field(
        None, description=f"what callers send as Authorization: Bearer …; at least {TOKEN_LENGTH} characters"
    )
    tls_cert_file: Path | None = Field(None, description="certificate (PEM) of the webhook")
    tls_key_file: Path | None = Field(None, description="its key (PEM)")
    wait_seconds: Annotated[float, Field(ge=0, le=300)] = Field(
        20.0, description="how long an answer waits for the end of the rollback"
    )

    @field_validator("token")
    @classmethod
    def _long_enough(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            text = value.get_secret_value()
            if len(text) < TOKEN_LENGTH or not text.isascii() or not text.isprintable() or " " in text:
                raise ValueError(
                    f"it must be at least {TOKEN_LENGTH} printable ASCII characters without spaces"
                )
        return value

    @model_validator(mode="after")
    def _guarded(self) -> Self:
        if (self.tls_cert_file is None) != (self.tls_key_file is None):
            raise ValueError("tls_cert_file and tls_key_file belong together")
        if not self.is_loopback and self.tls_cert_file is None:
            raise ValueError("host is not a loopback address, which needs tls_cert_file and tls_key_file")
        return self

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


class Runner(StrEnum):
    """Who does the ranges of a run that a flow drives."""

    THREADS = "threads"
    DASK = "dask"


class FlowSettings(Section):
    """What a team sets about flows."""

    schedules: FlowSchedules = FlowSchedules()
    timezone: str = Field("UTC", description="time zone of the schedules, as Europe/Berlin")
    limit: Annotated[int, Field(ge=1, le=100)] = Field(
        5, description="flow runs that `greenfly serve` runs at a time; rollbacks are not held up by it"
    )
    poll_seconds: Annotated[float, Field(ge=0.2, le=60)] = Field(
        1.0, description="how often `greenfly serve` asks for flow runs that are due"
    )
    server_port: Annotated[int, Field(ge=0, le=65_535)] = Field(
        4200,
        description="port of the local Prefect server where PREFECT_API_URL names none; 0 takes a free one",
    )
    events: bool = Field(
        False,
        description="`greenfly watch` tells Prefect (PREFECT_API_URL) about breaches as greenfly.guard.breached",
    )
    report_url: str | None = Field(
        None,
        description="where reports can be read, {run} is the run's id; the file on the flow's machine by default",
    )
    approval_seconds: Annotated[float, Field(ge=1)] = Field(
        3600.0, description="how long the cutover flow waits for approvals"
    )
    approval_on_prefect: bool = Field(
        True,
        description="a cutover can also be approved on Prefect's page, whoever may resume a flow run there",
    )
    watch_seconds: Annotated[float, Field(gt=0)] = Field(
        3600.0, description="how long one watch flow guards green, unless its parameters say otherwise"
    )
    keep_scratch: bool = Field(
        False, description="leave what a rehearsal has put into [scratch] until the next one"
    )
    runner: Runner = Field(
        Runner.THREADS,
        description="who copies and compares in a flow: threads (`workers` processes on the flow's machine) or dask "
        "(workers of a Dask cluster, anywhere)",
    )
    dask_scheduler: str | None = Field(
        None,
        description="address of Dask's scheduler, as tls://scheduler:8786; by default a cluster of `workers` processes "
        "on the flow's machine, for as long as the flow",
    )
    worker_seconds: Annotated[float, Field(ge=1)] = Field(
        300.0, description="how long a run waits for a Dask worker to take a range, before it breaks off"
    )
    webhook: WebhookSettings = WebhookSettings()

    @field_validator("dask_scheduler")
    @classmethod
    def _an_address(cls, value: str | None) -> str | None:
        if value is None:
            return None
        parts = urlsplit(value)
        if parts.scheme not in {"tcp", "tls", "ws", "wss"} or not parts.hostname or parts.port is None:
            raise ValueError("it must be an address such as tls://scheduler:8786")
        if parts.username is not None or parts.password is not None:
            raise ValueError("it must not hold a user or a password; Dask knows its peers by certificates")
        return value

    @field_validator("timezone")
    @classmethod
    def _known(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError("it is no known time zone") from None
        return value

    @field_validator("report_url")
    @classmethod
    def _usable(cls, value: str | None) -> str | None:
        if value is None:
            return None
        parts = urlsplit(value)
        if parts.scheme not in {"http", "https"} or not parts.hostname or "{run}" not in value:
            raise ValueError("it must be an http:// or https:// URL that holds {run}")
        if parts.username is not None or parts.password is not None:
            raise ValueError("it must not hold a user or a password; it is shown on Prefect's page")
        return value
