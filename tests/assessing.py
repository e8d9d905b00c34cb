"""One check at a time, against real servers."""

from __future__ import annotations

from importlib import import_module

from integrity.assess.model import Check, Finding
from integrity.assess.subject import Subject
from integrity.endpoint import Endpoint
from integrity.progress import Silent
from integrity.settings import load_settings
from integrity.strategy import Strategy


def subject_of(
    source: str, target: str, strategy: Strategy = Strategy.COPY, /, **overrides: object
) -> Subject:
    """Both servers as an assessment sees them; *overrides* are tables of settings."""
    settings = load_settings(
        {"source": {"url": source}, "target": {"url": target}, **overrides}, environ={}
    ).settings
    ours = Endpoint.from_settings("source", settings.source)
    theirs = Endpoint.from_settings("target", settings.target)
    identity = ours.identify()
    return Subject(
        settings,
        ours,
        theirs,
        identity,
        theirs.identify(),
        strategy,
        tuple(sorted(identity.databases)),
        Silent(),
    )


def checks_of(module: str) -> dict[str, Check]:
    """The checks of ``integrity.assess.checks_<module>``, by id."""
    checks: tuple[Check, ...] = import_module(f"integrity.assess.checks_{module}").CHECKS
    return {check.id: check for check in checks}


def look(subject: Subject, name: str) -> Finding:
    """What the check with this id finds."""
    module = {"functions": "scripts", "modules": "scripts"}.get(
        name.partition(".")[0], name.partition(".")[0]
    )
    return checks_of(module)[name].look(subject)
