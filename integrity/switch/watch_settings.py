"""Settings of the guard after a cutover: what is measured, the limits, and what is done when they are passed."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Final
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, SecretStr, field_validator, model_validator

from integrity.section import Section


class OnBreach(StrEnum):
    """What a breach leads to."""

    NOTIFY = "notify"
    """Somebody is told (the default)."""
    ROLLBACK = "rollback"
    """Somebody is told, and the rollback is started once the breach has lasted."""


class OnDead(StrEnum):
    """What it leads to that green cannot be reached."""

    NOTIFY = "notify"
    ABANDON = "abandon"
    """The applications go back to blue at once; what was written to green only is at risk."""


class RuleLimit(Section):
    """One rule of the guard."""

    enabled: bool = Field(True, description="judge by this rule")
    limit: float = Field(
        0.0, allow_inf_nan=False, description="what must not be passed; docs/watch.md has the units"
    )
    for_seconds: Annotated[float, Field(ge=0)] = Field(
        0.0, description="how long it must be passed without a break before it counts"
    )
    rollback: bool = Field(False, description="may start the rollback, where on_breach is rollback")


def _rule(limit: float, for_seconds: float, *, rollback: bool = False) -> RuleLimit:
    return RuleLimit(limit=limit, for_seconds=for_seconds, rollback=rollback)


class GuardRules(Section):
    """The rules by name.  What a rule is not given keeps that rule's own default."""

    latency_p50_ratio: RuleLimit = _rule(3.0, 10.0, rollback=True)
    latency_p99_ratio: RuleLimit = _rule(5.0, 10.0, rollback=True)
    latency_p99: RuleLimit = _rule(250.0, 10.0, rollback=True)
    errors: RuleLimit = _rule(10.0, 10.0, rollback=True)
    rejected_connections: RuleLimit = _rule(0.0, 5.0, rollback=True)
    refused_writes: RuleLimit = _rule(0.0, 5.0, rollback=True)
    evictions: RuleLimit = _rule(1.0, 10.0, rollback=True)
    headroom: RuleLimit = _rule(0.1, 30.0)
    rss: RuleLimit = _rule(1.2, 30.0)
    clients: RuleLimit = _rule(0.5, 30.0)
    ops: RuleLimit = _rule(0.3, 60.0)
    hit_ratio: RuleLimit = _rule(0.2, 60.0)
    unreachable: RuleLimit = _rule(10.0, 0.0)
    blind: RuleLimit = _rule(30.0, 0.0)
    restarted: RuleLimit = _rule(0.0, 0.0)
    replica: RuleLimit = _rule(0.0, 5.0)
    lag_keys: RuleLimit = _rule(100_000.0, 60.0)
    lag_seconds: RuleLimit = _rule(60.0, 60.0)
    fall_back_silent: RuleLimit = _rule(30.0, 0.0)
    fall_back_gap: RuleLimit = _rule(0.0, 60.0)
    fall_back_stuck: RuleLimit = _rule(0.0, 60.0)
    blue_unreachable: RuleLimit = _rule(30.0, 0.0)
    fence: RuleLimit = _rule(0.0, 10.0)

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, values: object) -> object:
        """A table that sets only the limit leaves the rule's own duration as it is."""
        if not isinstance(values, Mapping):
            return values
        complete: dict[object, object] = dict(values)
        for name, field in cls.model_fields.items():
            given = complete.get(name)
            if isinstance(given, Mapping) and isinstance(field.default, RuleLimit):
                complete[name] = field.default.model_dump() | dict(given)
        return complete

    def by_name(self) -> dict[str, RuleLimit]:
        """All rules, in the order in which they are shown."""
        return {name: getattr(self, name) for name in type(self).model_fields}


def _split_command(value: object) -> object:
    """A variable holds a list as text."""
    return tuple(shlex.split(value)) if isinstance(value, str) else value


_MOST_SECONDS: Final = 3600.0


class WatchSettings(Section):
    """The guard after a cutover; see ``docs/watch.md``."""

    interval_seconds: Annotated[float, Field(ge=0.1, le=60)] = Field(
        1.0, description="seconds between two looks at green"
    )
    window_seconds: Annotated[float, Field(ge=1, le=_MOST_SECONDS)] = Field(
        5.0, description="percentiles and rates are those of so many seconds"
    )
    probes_per_second: Annotated[float, Field(gt=0, le=200)] = Field(
        20.0, description="how often green is asked for its latency"
    )
    latency_floor_ms: Annotated[float, Field(ge=0)] = Field(
        5.0, description="a latency below this breaches no ratio, however good blue was, in milliseconds"
    )
    recover_seconds: Annotated[float, Field(ge=0)] = Field(
        10.0, description="how long a rule must hold again before its breach is over"
    )
    recover_margin: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.1, description="how far inside its limit a rule must be for that, as a share of the limit"
    )
    blue_seconds: Annotated[float, Field(ge=0.1)] = Field(
        5.0, description="seconds between two looks at blue and the fence on it"
    )
    on_breach: OnBreach = Field(OnBreach.NOTIFY, description="notify or rollback")
    rollback_after_seconds: Annotated[float, Field(ge=0)] = Field(
        30.0, description="how long a breach must last before it starts the rollback"
    )
    on_dead: OnDead = Field(
        OnDead.NOTIFY, description="notify or abandon, when green is unreachable beyond its rule"
    )
    notify_command: Annotated[tuple[str, ...], BeforeValidator(_split_command)] = Field(
        (), description="program and arguments; gets each event as JSON on stdin; keep secrets out of it"
    )
    notify_webhook: SecretStr | None = Field(
        None, description="https:// or http:// URL; gets each event as JSON by POST"
    )
    notify_timeout_seconds: Annotated[float, Field(gt=0, le=300)] = Field(
        10.0, description="how long one notification may take"
    )
    rules: GuardRules = GuardRules()

    @field_validator("notify_webhook")
    @classmethod
    def _usable(cls, value: SecretStr | None) -> SecretStr | None:
        """The messages never repeat the URL, whose path is often the secret itself."""
        if value is None:
            return None
        try:
            parts = urlsplit(value.get_secret_value())
            usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
        except ValueError:
            usable, parts = False, urlsplit("")
        if not usable:
            raise ValueError("it must be a URL that begins with https:// or http:// and names a host")
        if parts.username is not None or parts.password is not None:
            raise ValueError("it must not hold a user or a password; put a token into its path or query")
        return value

    @field_validator("notify_command")
    @classmethod
    def _named(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if value and not value[0]:
            raise ValueError("its first word must be a program")
        return value
