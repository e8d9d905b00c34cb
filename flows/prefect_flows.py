"""The Prefect flows.  Each reads its settings, and makes every phase of :mod:`flows.sequence` a task.

No secret is a flow parameter: servers come from ``greenfly.toml`` and ``GREENFLY_*`` where the flow runs.  Nothing is
cached (data changes under the same inputs), and no task is retried by the orchestrator: state lives in the ledger.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeVar

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run
from pydantic import BaseModel, ConfigDict, Field

from flows import sequence
from flows.sequence import Outcome
from integrity.progress import Progress
from integrity.settings import ConflictPolicy, ExtraPolicy, RuleSettings, Settings, load_settings

T = TypeVar("T")


class MigrateParameters(BaseModel):
    """What may differ from run to run; never an address or a secret."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    conflict: ConflictPolicy | None = Field(
        None, description="fail, skip or replace on an existing target key"
    )
    snapshot: bool | None = Field(None, description="take a snapshot of the source first")
    extra_keys: ExtraPolicy | None = Field(None, description="fail or allow keys that only the target has")
    databases: list[int] | None = Field(None, description="only these databases")
    rules: RuleSettings | None = Field(
        None,
        description="which keys the run is about and where they go; what is left out stays as configured",
    )
    workers: int | None = Field(None, ge=1, le=64, description="processes that share copy and verify")
    reconnect_seconds: float | None = Field(None, ge=0, description="how long to try a lost server again")
    keys_per_second: int | None = Field(None, ge=1, description="no more keys than this")
    bytes_per_second: int | str | None = Field(None, description="no more bytes than this, as 50MB or 1.5GiB")
    label: str | None = Field(None, description="free text kept with the run", max_length=200)
    config_file: Path | None = Field(
        None, description="another greenfly.toml than the one in the working folder"
    )

    def settings(self) -> Settings:
        """Settings from file and environment where the flow runs, with these parameters over them.

        :raises ConfigurationError: something in them cannot be used.
        """
        rules = self.rules.model_dump(mode="json", by_alias=True, exclude_unset=True) if self.rules else {}
        overrides: dict[str, object] = {
            "copy": _given(conflict=self.conflict.value if self.conflict else None),
            "snapshot": _given(enabled=self.snapshot),
            "verify": _given(extra_keys=self.extra_keys.value if self.extra_keys else None),
            "rules": rules,
            "throttle": _given(keys_per_second=self.keys_per_second, bytes_per_second=self.bytes_per_second),
            **_given(
                databases=self.databases,
                workers=self.workers,
                reconnect_seconds=self.reconnect_seconds,
                label=self.label,
            ),
        }
        return load_settings(overrides, config_file=self.config_file).settings

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
        )


def _given(**values: object) -> dict[str, object]:
    """*values* without what was not given."""
    return {name: value for name, value in values.items() if value is not None}


class LogProgress(Progress):
    """Progress as lines of the flow's log."""

    def __init__(
        self, logger: logging.Logger | logging.LoggerAdapter[logging.Logger], inner: Progress | None
    ) -> None:
        self._logger = logger
        self._inner = inner
        self._name = ""
        self._expected = self._keys = 0

    def phase(self, name: str, keys_expected: int) -> None:
        """Log the begin."""
        self._name, self._expected, self._keys = name, keys_expected, 0
        if self._inner:
            self._inner.phase(name, keys_expected)

    def advance(self, keys: int, size: int) -> None:
        """Count."""
        self._keys += keys
        if self._inner:
            self._inner.advance(keys, size)

    def say(self, text: str) -> None:
        """Log a line."""
        self._logger.info(text)

    def show(self, text: str) -> None:
        """On a terminal only; a log would fill with it."""
        if self._inner:
            self._inner.show(text)

    def phase_ended(self) -> None:
        """Log the end."""
        self._logger.info(
            "%s ended: %s keys of %s expected", self._name, f"{self._keys:,}", f"{self._expected:,}"
        )
        if self._inner:
            self._inner.phase_ended()


@dataclass(slots=True)
class _Local:
    """What a process that starts a flow itself hands over in memory."""

    settings: Settings
    progress: Progress
    outcomes: list[Outcome]


_local: _Local | None = None


@contextmanager
def in_this_process(settings: Settings, progress: Progress) -> Iterator[list[Outcome]]:
    """Flows called inside use these settings and show progress here; their outcomes are in the list.

    A flow that a worker runs reads ``greenfly.toml`` and ``GREENFLY_*`` instead.
    """
    global _local  # noqa: PLW0603  (flow parameters are shown on Prefect's page; this is not)
    _local = _Local(settings, progress, [])
    try:
        yield _local.outcomes
    finally:
        _local = None


def as_task(name: str, function: Callable[[], T]) -> T:
    """Run one phase as a Prefect task."""
    return task(name=name, cache_policy=NO_CACHE, retries=0, persist_result=False)(function)()


@flow(name="greenfly-migrate", validate_parameters=True, persist_result=False)
def migrate_flow(parameters: MigrateParameters = MigrateParameters()) -> dict[str, object]:  # noqa: B008  (frozen)
    """Copy blue into green and prove it; the result holds the run's id, verdict and report."""
    progress = LogProgress(get_run_logger(), _local.progress if _local else None)
    settings = _local.settings if _local else parameters.settings()
    outcome = sequence.migrate(settings, progress, as_task, flow_run_id=flow_run.get_id())
    if _local:
        _local.outcomes.append(outcome)
    _publish(outcome)
    return outcome.to_dict()


def _publish(outcome: Outcome) -> None:
    """Show the outcome on Prefect's page."""
    verdict = outcome.verdict.value if outcome.verdict else "no verdict"
    where = f"\n\nReport: `{outcome.report.html}`" if outcome.report else ""
    create_markdown_artifact(
        f"# {verdict}\n\n{outcome.reason or ''}\n\nRun `{outcome.run_id}`{where}",
        key="greenfly-verdict",
        description=f"{verdict}: {outcome.run_id}",
    )
    rows = [
        {"state": state, "class": name, "findings": count}
        for state, classes in outcome.findings.items()
        for name, count in classes.items()
    ]
    if rows:
        create_table_artifact(rows, key="greenfly-findings", description=f"Findings of {outcome.run_id}")
