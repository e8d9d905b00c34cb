"""A census, and the checks about keys, of two servers without a run around them."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random

from integrity.assess.census import Census, take_census
from integrity.assess.checks_data import CHECKS
from integrity.assess.model import Result
from integrity.assess.runner import make_check
from integrity.assess.subject import Subject
from integrity.endpoint import Endpoint
from integrity.progress import Silent
from integrity.settings import Settings, load_settings
from integrity.strategy import Strategy

Overrides = Mapping[str, object]


def settings_of(source: str, target: str, tables: Mapping[str, Overrides]) -> Settings:
    """Settings for these servers; *tables* as in the settings file."""
    overrides: dict[str, object] = {"source": {"url": source}, "throttle": {"enabled": False}, **tables}
    if target:
        overrides["target"] = {"url": target}
    return load_settings(overrides, environ={}).settings


def census_of(url: str, *, seed: int = 1, full: bool = False, **tables: Overrides) -> Census:
    """Take a census."""
    assess = {"mode": "full" if full else "sampled", **tables.pop("assess", {})}
    settings = settings_of(url, "", {**tables, "assess": assess})
    source = Endpoint.from_settings("source", settings.source)
    identity = source.identify()
    return take_census(source, identity, tuple(identity.databases), settings, Silent(), chance=Random(seed))


def subject_of(
    source: str, target: str, strategy: Strategy = Strategy.COPY, *, full: bool = True, **tables: Overrides
) -> Subject:
    """Two servers to be assessed."""
    assess = {"mode": "full" if full else "sampled", **tables.pop("assess", {})}
    settings = settings_of(source, target, {**tables, "assess": assess})
    blue = Endpoint.from_settings("source", settings.source)
    green = Endpoint.from_settings("target", settings.target)
    identity = blue.identify()
    return Subject(
        settings, blue, green, identity, green.identify(), strategy, tuple(identity.databases), Silent()
    )


def check(subject: Subject, name: str) -> Result:
    """What one of the checks about keys comes to."""
    return make_check(subject, next(each for each in CHECKS if each.id == f"data.{name}"))
