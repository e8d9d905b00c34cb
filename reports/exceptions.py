"""Findings that a rule of the run excepts, by rule: listed by name, but not a failure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from integrity.ledger.models import FindingClass
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
    """What one rule excepts."""

    rule: str
    meaning: str
    by_class: Mapping[FindingClass, int]

    @property
    def total(self) -> int:
        """Findings of all classes; a key can have several."""
        return sum(self.by_class.values())


def group_exceptions(counts: Mapping[tuple[str | None, FindingClass], int]) -> tuple[ExceptionGroup, ...]:
    """One group per rule, those with most findings first."""
    by_rule: dict[str, dict[FindingClass, int]] = defaultdict(dict)
    order = list(FindingClass)
    for (rule, finding_class), count in sorted(counts.items(), key=lambda item: order.index(item[0][1])):
        by_rule[_NOT_RECORDED if rule is None else masked_text(rule)][finding_class] = count
    groups = [ExceptionGroup(rule, rule_meaning(rule), by_class) for rule, by_class in by_rule.items()]
    return tuple(sorted(groups, key=lambda group: (-group.total, group.rule)))


def rule_meaning(rule: str) -> str:
    """What a rule says; rules of other versions are not known here."""
    if rule == _NOT_RECORDED:
        return "The ledger names no rule with these: a repair run, or an earlier version, marked them as expected."
    return RULE_MEANING.get(rule, "A rule that this version of the report does not know.")
