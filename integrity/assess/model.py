"""What a check is, and what it comes to.

A check looks at one thing and gives one :class:`Result`.  It never changes a server.  What cannot be looked at is
``unknown``, which counts as the worst that the check could have found: it fails closed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, TypeAlias

from integrity.strategy import Strategy

if TYPE_CHECKING:
    from integrity.assess.subject import Subject

Facts: TypeAlias = Mapping[str, object]
"""Plain JSON values; no secret, no value of a key."""


class Severity(StrEnum):
    """How bad what was found is."""

    BLOCKING = "blocking"
    """The run would fail, lose something without a word, or could not be undone."""
    WARNING = "warning"
    """Somebody should know before, and decide."""
    INFO = "info"


class Outcome(StrEnum):
    """What a check came to."""

    PASSED = "passed"
    FOUND = "found"
    UNKNOWN = "unknown"
    """It could not be looked at; the summary says why."""
    NOT_APPLICABLE = "not-applicable"
    """It is about something that these servers, or this strategy, do not have."""


class Reach(StrEnum):
    """How a check looks at a side that is a cluster."""

    ONE = "one"
    """Not at all: it is about one server, and counts as not known there."""
    WHOLE = "whole"
    """By itself, at all nodes together."""
    EACH = "each"
    """It is made for every node, and the worst of what it finds counts."""


@dataclass(frozen=True, slots=True)
class Result:
    """What one check came to."""

    check: str
    """The check's id, as ``commands.unknown``."""
    title: str
    outcome: Outcome
    severity: Severity
    """Of what was found; of an unknown result: the worst that could have been."""
    summary: str
    """One sentence for people."""
    evidence: Facts = field(default_factory=dict)
    remedy: str = ""
    items: tuple[str, ...] = ()
    """Names of the single things found (commands, users, types …), printable: a waiver covers only those that it was
    given for, so a new one blocks again.  Empty where the finding is one thing."""

    @property
    def blocks(self) -> bool:
        """Whether it stops a run, unless it is waived."""
        return self.severity is Severity.BLOCKING and self.outcome in {Outcome.FOUND, Outcome.UNKNOWN}


@dataclass(frozen=True, slots=True)
class Check:
    """One check.

    :raises ServerError: by *look*, where a server cannot be asked; the runner makes ``unknown`` of it.
    """

    id: str
    title: str
    worst: Severity
    """The worst that it can find, which is also what it counts as where it cannot be looked at."""
    look: Callable[[Subject], Finding]
    needs_census: bool = False
    """Whether keys have to be looked at; such checks are left out of the gate of a cutover."""
    strategies: frozenset[Strategy] = frozenset({Strategy.COPY, Strategy.NATIVE})
    """By which roads it matters."""
    alone: bool = False
    """Whether it is made while Greenfly asks for nothing else, because it measures."""
    source: Reach = Reach.ONE
    """Of a cluster as the source."""
    target: Reach = Reach.ONE
    """Of a cluster as the target."""
    at_cutover: bool = True
    """Whether it still matters when everything has been copied: memory that the keys need, or a target that must be
    empty, does not, and such a check is left out of the gate of a cutover."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What *look* returns: the part of a :class:`Result` that the check itself decides."""

    outcome: Outcome
    summary: str
    severity: Severity = Severity.INFO
    evidence: Facts = field(default_factory=dict)
    remedy: str = ""
    items: tuple[str, ...] = ()


def passed(summary: str, **evidence: object) -> Finding:
    """Nothing is wrong."""
    return Finding(Outcome.PASSED, summary, evidence=evidence)


def not_applicable(summary: str) -> Finding:
    """It is not about these servers."""
    return Finding(Outcome.NOT_APPLICABLE, summary)


def found(
    severity: Severity, summary: str, remedy: str, *, items: tuple[str, ...] = (), **evidence: object
) -> Finding:
    """Something is."""
    return Finding(Outcome.FOUND, summary, severity, evidence, remedy, items)


def unknown(severity: Severity, summary: str, remedy: str = "", **evidence: object) -> Finding:
    """It could not be looked at."""
    return Finding(Outcome.UNKNOWN, summary, severity, evidence, remedy)
