"""One cell: what Greenfly said about a key, whether the oracle agrees, and whether that was to be expected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from tests.matrix.expected import expectation
from tests.matrix.facets import OUTSIDE, Facet, Facts, differences
from tests.matrix.loader import Case
from tests.matrix.pair import Migrated, Recorded
from tests.matrix.servers import Server

_EXPLAINED_BY: Final[Mapping[Facet, frozenset[str]]] = {
    "presence": frozenset({"missing", "refused"}),
    "type": frozenset({"type"}),
    "value": frozenset({"value", "unreadable"}),
    "expiry": frozenset({"expiry"}),
    "field expiry": frozenset({"field-expiry"}),
    "member expiry": frozenset({"not-carried"}),
    "counters": frozenset({"value"}),
}
"""What the oracle sees → the findings of which one must be there."""
_NEEDS: Final[Mapping[str, frozenset[Facet]]] = {
    "missing": frozenset({"presence"}),
    "refused": frozenset({"presence"}),
    "extra": frozenset({"presence"}),
    "type": frozenset({"type"}),
    "value": frozenset({"value", "counters"}),
    "expiry": frozenset({"expiry"}),
    "field-expiry": frozenset({"field expiry"}),
}
"""A finding → what the oracle must see for it not to be a false alarm."""
_NAMED: Final[Mapping[Facet, tuple[str, ...]]] = {
    "field expiry": ("hash field",),
    "member expiry": ("members", "set member"),
    "counters": ("entries-added", "max-deleted-entry-id"),
    "entries-read": ("entries-read",),
    "last seen": ("last seen",),
    "delivery time": ("delivered",),
}
"""What a ``not-carried`` finding must call it."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One case on its way from one server to another."""

    findings: tuple[Recorded, ...]
    outside: Mapping[Facet, str]
    """What differs beyond the definition of equality, and what no finding names."""
    wrong: tuple[str, ...]
    """Where Greenfly and the oracle disagree, and differences that nobody expected."""

    @property
    def passed(self) -> bool:
        """Equal, and Greenfly says so."""
        return not self.findings

    @property
    def expected(self) -> bool:
        """Different, and a rule of the run covers all of it."""
        return bool(self.findings) and all(finding.rule for finding in self.findings)


def judge(case: Case, source: Server, target: Server, told: Migrated, ours: Facts, theirs: Facts) -> Cell:
    """Hold the findings about one key against what the oracle read."""
    findings = tuple(sorted(told.findings.get(case.place, ()), key=lambda f: (f.name, f.detail)))
    seen = differences(ours, theirs)
    wrong = [*_silences(findings, seen), *_false_alarms(findings, seen)]
    wrong += _unnamed(case, findings, seen)
    allowed = expectation(case, source, target)
    wrong += [
        f"not expected: {finding.name} ({finding.rule or 'open'}): {finding.detail}"
        for finding in findings
        if (finding.name, finding.rule) not in allowed
    ]
    outside = {
        facet: text for facet, text in seen.items() if facet in OUTSIDE and not _is_named(facet, findings)
    }
    return Cell(findings, outside, tuple(wrong))


def _silences(findings: Sequence[Recorded], seen: Mapping[Facet, str]) -> list[str]:
    names = {finding.name for finding in findings}
    if "unreadable" in names:
        return []
    return [
        f"the oracle sees another {facet} ({text}), and no finding says so"
        for facet, text in seen.items()
        if facet not in OUTSIDE and not names & _EXPLAINED_BY[facet]
    ]


def _false_alarms(findings: Sequence[Recorded], seen: Mapping[Facet, str]) -> list[str]:
    wrong = [
        f"{finding.name} is reported, and the oracle sees nothing of it: {finding.detail}"
        for finding in findings
        if finding.name in _NEEDS and not seen.keys() & _NEEDS[finding.name]
    ]
    for finding in findings:
        if finding.name == "not-carried":
            wrong += [
                f"not-carried names {word!r}, which arrived: {finding.detail}"
                for facet, words in _NAMED.items()
                for word in words
                if word in finding.detail and facet not in seen
            ]
    return wrong


def _unnamed(case: Case, findings: Sequence[Recorded], seen: Mapping[Facet, str]) -> list[str]:
    """Where typed commands wrote the value, whatever they lost must be named, equality or not."""
    if not (case.big or any(finding.name == "not-carried" for finding in findings)) or "presence" in seen:
        return []
    return [
        f"written with typed commands, which lost {facet} ({text}), and not-carried does not name it"
        for facet, text in seen.items()
        if facet in _NAMED and not _is_named(facet, findings)
    ]


def _is_named(facet: Facet, findings: Sequence[Recorded]) -> bool:
    details = [finding.detail for finding in findings if finding.name == "not-carried"]
    return any(word in detail for word in _NAMED.get(facet, ()) for detail in details)


def whole_run_problems(
    cells: Mapping[str, Cell], told: Migrated, cases: Sequence[Case], on_target: set[bytes]
) -> list[str]:
    """What does not fit together about a run as a whole."""
    wrong = []
    places = {case.place for case in cases}
    if strangers := sorted(on_target - places):
        wrong.append(f"the target holds keys that are no case: {strangers}")
    if others := sorted(told.findings.keys() - places):
        wrong.append(f"findings about keys that are no case: {others}")
    big = sum(case.big for case in cases)
    if told.big != big:
        wrong.append(f"{told.big} values were copied in pieces, not {big}")
    names = {finding.name for cell in cells.values() for finding in cell.findings if not finding.rule}
    due = "PASS"
    if names - {"unreadable", "refused", "not-carried"}:
        due = "FAIL"
    elif "unreadable" in names:
        due = "INCONCLUSIVE"
    elif any(cell.findings for cell in cells.values()):
        due = "PASS WITH EXCEPTIONS"
    if told.verdict != due:
        wrong.append(f"the verdict is {told.verdict}, and its findings amount to {due}")
    return wrong
