"""Differences that do not count: by a rule of the run, or because somebody let them pass; each with who and when."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from integrity.ledger import Ledger
from integrity.ledger.finding_waivers import FindingWaiverRecord, read_finding_waivers
from integrity.ledger.models import FindingClass, Run
from integrity.ledger.waived_findings import RULE
from reports.display import key_text, moment
from reports.facts import masked_text

RULE_MEANING: Final[Mapping[str, str]] = {
    "expiry-limit": "Dragonfly keeps no expiry further away than 268,435,455 seconds (8.5 years) and takes that "
    "instead.",
    "typed-rewrite": "The key was written with typed commands, which cannot carry everything; each finding says what "
    "its key lacks.",
    "copy.conflict=skip": "The target had the key already and kept its value, as the conflict policy asked.",
    "verify.extra_keys=allow": "Only the target has the key, which the run was told to allow.",
}
_NOT_RECORDED: Final = "not recorded"


@dataclass(frozen=True, slots=True)
class ExceptionGroup:
    """What one rule, or one waiver, excepts."""

    rule: str
    meaning: str
    owner: str
    """Who started the run that has the rule in its settings, or gave the waiver."""
    at: datetime
    """When."""
    by_class: Mapping[FindingClass, int]

    @property
    def total(self) -> int:
        """Findings of all classes; a key can have several."""
        return sum(self.by_class.values())


@dataclass(frozen=True, slots=True)
class FindingWaiverView:
    """A difference, or a kind of them, that somebody let pass until a day."""

    id: int
    finding_class: FindingClass
    database: int | None
    """None: every database."""
    key: str | None
    """Text that leads back to the bytes; None where a pattern says which."""
    pattern: str | None
    why: str
    owner: str
    at: datetime
    until: datetime
    state: str
    """``in force``, ``expired`` or ``withdrawn``, now."""
    given_on: str
    """The run on whose findings it was given."""


def build_waivers(ledger: Ledger, run: Run, now: datetime) -> tuple[FindingWaiverView, ...]:
    """Those for the run's two servers that were in force when it ended, or came after it, oldest first."""
    if run.source_address is None or run.target_address is None:
        return ()
    ended = run.ended_at or now
    return tuple(
        FindingWaiverView(
            each.id,
            each.finding_class,
            each.database,
            key_text(each.key) if each.key is not None else None,
            masked_text(each.pattern) if each.pattern is not None else None,
            masked_text(each.why),
            masked_text(each.by),
            each.at,
            each.until,
            each.state(now),
            each.run_id,
        )
        for each in read_finding_waivers(ledger.engine, run.source_address, run.target_address)
        if each.until > ended and (each.withdrawn_at is None or each.withdrawn_at > ended)
    )


def group_exceptions(
    ledger: Ledger, counts: Mapping[tuple[str | None, FindingClass], int], run: Run
) -> tuple[ExceptionGroup, ...]:
    """One group per rule and waiver, those with most findings first."""
    by_rule: dict[str, dict[FindingClass, int]] = defaultdict(dict)
    order = list(FindingClass)
    for (rule, finding_class), count in sorted(counts.items(), key=lambda item: order.index(item[0][1])):
        by_rule[_NOT_RECORDED if rule is None else masked_text(rule)][finding_class] = count
    waivers = _waivers_of(ledger, run) if any(rule.startswith(RULE) for rule in by_rule) else {}
    groups = [
        ExceptionGroup(
            rule, _waiver_meaning(waivers[rule]), masked_text(waivers[rule].by), waivers[rule].at, by_class
        )
        if rule in waivers
        else ExceptionGroup(rule, rule_meaning(rule), masked_text(run.operator), run.started_at, by_class)
        for rule, by_class in by_rule.items()
    ]
    return tuple(sorted(groups, key=lambda group: (-group.total, group.rule)))


def _waivers_of(ledger: Ledger, run: Run) -> dict[str, FindingWaiverRecord]:
    """By the rule that findings name."""
    return {
        waiver.rule: waiver
        for waiver in read_finding_waivers(ledger.engine, run.source_address, run.target_address)
    }


def _waiver_meaning(waiver: FindingWaiverRecord) -> str:
    return f"Let pass until {moment(waiver.until)}: {masked_text(waiver.why)}"


def rule_meaning(rule: str) -> str:
    """What a rule says; rules of other versions are not known here."""
    if rule == _NOT_RECORDED:
        return "The ledger names no rule with these: a repair run, or an earlier version, marked them as expected."
    return RULE_MEANING.get(rule, "A rule that this version of the report does not know.")
