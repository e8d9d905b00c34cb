"""What was assessed before anything was moved: checks, waivers, the grade, the census."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

from integrity.assess.model import Outcome, Severity
from integrity.ledger import Ledger
from integrity.ledger.assessments import RecordedResult, read_assessment, read_results
from integrity.ledger.waivers import WaiverRecord, read_waivers
from reports import facts
from reports.display import key_text
from reports.facts import masked_table, masked_text

Group = Literal["blocking", "waived", "warning", "note", "passed", "not-applicable"]
GROUPS: Final[Mapping[Group, str]] = {
    "blocking": "Blocking",
    "waived": "Waived: blocking, but somebody lets it pass",
    "warning": "Warnings",
    "note": "To know",
    "passed": "Passed",
    "not-applicable": "Not about these servers or this road",
}
_HISTOGRAMS: Final = (
    ("types", "Keys by type"),
    ("sizes", "Keys by memory"),
    ("expiries", "Keys by time left"),
    ("encodings", "Keys by encoding"),
    ("bytes_by_type", "Memory by type"),
)


@dataclass(frozen=True, slots=True)
class WaiverView:
    """Who lets what pass, until when, and why."""

    id: int
    items: tuple[str, ...]
    why: str
    by: str
    at: datetime
    until: datetime
    withdrawn_at: datetime | None


@dataclass(frozen=True, slots=True)
class ResultView:
    """What one check came to."""

    check: str
    title: str
    group: Group
    outcome: Outcome
    severity: Severity
    summary: str
    remedy: str
    items: tuple[str, ...]
    evidence: Mapping[str, object]
    waivers: tuple[WaiverView, ...]


@dataclass(frozen=True, slots=True)
class GradeView:
    """How much work the move is, and how that was told."""

    letter: str
    points: int | None
    meaning: str
    parts: tuple[tuple[int, str], ...]
    """(points, why)"""


@dataclass(frozen=True, slots=True)
class Histogram:
    """Labels and how many keys, or bytes, belong to each, in order."""

    name: str
    title: str
    rows: tuple[tuple[str, int], ...]
    unit: Literal["keys", "bytes"]


@dataclass(frozen=True, slots=True)
class KeyView:
    """One key that stands out."""

    database: int | None
    key: str
    """Text that leads back to the bytes."""
    kind: str
    bytes: int | None
    elements: int | None
    detail: str


@dataclass(frozen=True, slots=True)
class CensusView:
    """What the keys are like, and how many of them were looked at."""

    full: bool | None
    keys_present: int | None
    keys_looked_at: int | None
    unseen_at_most: int | None
    """Keys of a kind that was not seen that may be there all the same, with 95 % certainty; 0 where all were seen."""
    seconds: float | None
    method: str
    excluded: Mapping[str, int]
    """Rule of the run → keys that it leaves out."""
    histograms: tuple[Histogram, ...]
    big: tuple[KeyView, ...]
    hot: tuple[KeyView, ...]
    hot_method: str


@dataclass(frozen=True, slots=True)
class AssessmentView:
    """One assessment."""

    at: datetime
    mode: str
    asked: str | None
    """The strategy that was asked for."""
    strategy: str
    why: tuple[str, ...]
    verdict: str | None
    reason: str | None
    grade: GradeView | None
    left_out: tuple[str, ...]
    results: tuple[ResultView, ...]
    census: CensusView | None

    def of(self, group: Group) -> tuple[ResultView, ...]:
        """The results of one group, as the checks were made."""
        return tuple(result for result in self.results if result.group == group)

    @property
    def groups(self) -> Iterator[tuple[Group, str, tuple[ResultView, ...]]]:
        """Those that hold anything, the worst first."""
        for group, title in GROUPS.items():
            if results := self.of(group):
                yield group, title, results


def build_assessment(ledger: Ledger, run_id: str) -> AssessmentView | None:
    """The assessment that this run made; None where it made none."""
    record = read_assessment(ledger.engine, run_id)
    if record is None:
        return None
    waivers = {waiver.id: waiver for waiver in read_waivers(ledger.engine, record.source, record.target)}
    census = record.facts.get("census")
    return AssessmentView(
        at=record.at,
        mode=masked_text(record.mode),
        asked=facts.text(record.facts, "asked"),
        strategy=record.strategy.value,
        why=_texts(record.facts.get("why")),
        verdict=facts.text(record.facts, "verdict"),
        reason=facts.text(record.facts, "reason"),
        grade=_grade(facts.table(record.facts, "grade")),
        left_out=_texts(record.facts.get("left_out")),
        results=tuple(_result(each, waivers) for each in read_results(ledger.engine, run_id)),
        census=_census(census) if isinstance(census, dict) else None,
    )


def waiver_view(waiver: WaiverRecord) -> WaiverView:
    """A waiver fit to be shown."""
    return WaiverView(
        waiver.id,
        tuple(map(masked_text, waiver.items)),
        masked_text(waiver.why),
        masked_text(waiver.by),
        waiver.at,
        waiver.until,
        waiver.withdrawn_at,
    )


def _result(each: RecordedResult, waivers: Mapping[int, WaiverRecord]) -> ResultView:
    result = each.result
    return ResultView(
        masked_text(result.check),
        masked_text(result.title),
        _group(each),
        result.outcome,
        result.severity,
        masked_text(result.summary),
        masked_text(result.remedy),
        tuple(map(masked_text, result.items)),
        masked_table(result.evidence),
        tuple(waiver_view(waivers[number]) for number in each.waivers if number in waivers),
    )


def _group(each: RecordedResult) -> Group:
    match each.result.outcome:
        case Outcome.PASSED:
            return "passed"
        case Outcome.NOT_APPLICABLE:
            return "not-applicable"
    if each.result.blocks:
        return "blocking" if each.open else "waived"
    return "warning" if each.result.severity is Severity.WARNING else "note"


def _grade(table: Mapping[str, object]) -> GradeView | None:
    letter = facts.text(table, "letter")
    if letter is None:
        return None
    return GradeView(
        letter,
        facts.integer(table, "points"),
        facts.text(table, "meaning") or "",
        tuple(
            (facts.integer(part, "points") or 0, facts.text(part, "why") or "")
            for part in _tables(table.get("parts"))
        ),
    )


def _census(table: Mapping[str, object]) -> CensusView:
    full = table.get("full")
    return CensusView(
        full=full if isinstance(full, bool) else None,
        keys_present=facts.integer(table, "keys_present"),
        keys_looked_at=facts.integer(table, "keys_looked_at"),
        unseen_at_most=facts.integer(table, "unseen_at_most"),
        seconds=facts.number(table, "seconds"),
        method=facts.text(table, "method") or "",
        excluded=dict(_pairs(table.get("excluded"))),
        histograms=tuple(
            Histogram(name, title, rows, "bytes" if name == "bytes_by_type" else "keys")
            for name, title in _HISTOGRAMS
            if (rows := _pairs(table.get(name)))
        ),
        big=_keys(table.get("big")),
        hot=_keys(table.get("hot")),
        hot_method=facts.text(table, "hot_method") or "",
    )


def _pairs(value: object) -> tuple[tuple[str, int], ...]:
    if not isinstance(value, list):
        return ()
    return tuple(
        (masked_text(str(row[0])), row[1])
        for row in value
        if isinstance(row, list) and len(row) == 2 and isinstance(row[1], int)
    )


def _keys(value: object) -> tuple[KeyView, ...]:
    return tuple(
        KeyView(
            facts.integer(fact, "database"),
            _key(fact.get("key")),
            facts.text(fact, "kind") or "",
            facts.integer(fact, "bytes"),
            facts.integer(fact, "elements"),
            facts.text(fact, "detail") or "",
        )
        for fact in _tables(value)
    )


def _key(value: object) -> str:
    try:
        return key_text(bytes.fromhex(value)) if isinstance(value, str) else ""
    except ValueError:
        return ""


def _tables(value: object) -> Sequence[Mapping[str, object]]:
    return [row for row in value if isinstance(row, dict)] if isinstance(value, list) else []


def _texts(value: object) -> tuple[str, ...]:
    return tuple(masked_text(str(text)) for text in value) if isinstance(value, list) else ()
