"""One assessment: the checks, the road that is taken, the grade, and what it comes to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime

from integrity.assess.choose import Choice, against_native, choose
from integrity.assess.grade import Grade, grade
from integrity.assess.model import Outcome, Result, Severity
from integrity.assess.registry import Selection
from integrity.assess.runner import make_checks
from integrity.assess.subject import Subject
from integrity.assess.verdict import conclude
from integrity.assess.waivers import apply_waivers
from integrity.census.model import Census, KeyFact, Seen
from integrity.ledger.assessments import RecordedResult
from integrity.ledger.waivers import WaiverRecord
from integrity.settings import Settings
from integrity.strategy import Strategy
from integrity.verify.verdict import Conclusion


@dataclass(frozen=True, slots=True)
class Assessment:
    """What was found out about two servers."""

    choice: Choice
    results: tuple[RecordedResult, ...]
    left_out: tuple[str, ...]
    """Ids of the checks that were not made because somebody said so."""
    census: Census | None
    grade: Grade
    conclusion: Conclusion
    mode: str
    at: datetime

    @property
    def open(self) -> tuple[Result, ...]:
        """What blocks, and no waiver lets pass."""
        return tuple(each.result for each in self.results if each.open)

    @property
    def waived(self) -> tuple[Result, ...]:
        """What would block, but for waivers."""
        return tuple(each.result for each in self.results if each.result.blocks and not each.open)

    @property
    def warnings(self) -> tuple[Result, ...]:
        """What somebody should know."""
        return tuple(
            each.result
            for each in self.results
            if each.result.severity is Severity.WARNING
            and each.result.outcome in {Outcome.FOUND, Outcome.UNKNOWN}
        )

    def facts(self, asked: Strategy) -> dict[str, object]:
        """What the ledger holds beside the results."""
        return {
            "asked": asked.value,
            "why": list(self.choice.why),
            "left_out": list(self.left_out),
            "grade": self.grade.to_dict(),
            "verdict": self.conclusion.verdict.value,
            "reason": self.conclusion.reason,
            "census": census_to_dict(self.census) if self.census is not None else None,
        }


def assess(subject: Subject, selection: Selection, waivers: Sequence[WaiverRecord]) -> Assessment:
    """Make the checks by the road that the settings ask for.

    With ``auto`` they are made for the native road; where that is not taken, once more for the copy.  The keys are
    looked at once.

    :param subject: its strategy does not count.
    :param waivers: of these two servers.
    :raises ServerError: a server is gone.
    """
    settings = subject.settings
    chosen, results, by = _by_the_road(settings, subject, selection)
    now = datetime.now(UTC)
    judged = apply_waivers(results, waivers, now)
    identity = by.source_identity
    keys = sum(identity.databases.get(database, 0) for database in by.databases)
    return Assessment(
        choice=chosen,
        results=judged,
        left_out=selection.left_out,
        census=by.census_taken,
        grade=grade(results, by.census_taken, keys, identity.used_memory),
        conclusion=conclude(judged, selection.left_out),
        mode=settings.assess.mode,
        at=now,
    )


def _by_the_road(
    settings: Settings, subject: Subject, selection: Selection
) -> tuple[Choice, tuple[Result, ...], Subject]:
    if settings.strategy is not Strategy.AUTO:
        by = subject.by(settings.strategy)
        return Choice(settings.strategy, ("It was asked for.",)), make_checks(by, selection.chosen), by
    copying = subject.by(Strategy.COPY)
    reasons = against_native(settings, subject.target_identity)
    if reasons:
        return Choice(Strategy.COPY, reasons), make_checks(copying, selection.chosen), copying
    native = subject.by(Strategy.NATIVE)
    by_native = make_checks(native, selection.chosen)
    chosen = choose(settings, subject.target_identity, by_native)
    if chosen.strategy is Strategy.NATIVE:
        return chosen, by_native, native
    copying = native.by(Strategy.COPY)
    blocking = {result.check for result in by_native if result.blocks}
    both = make_checks(copying, [check for check in selection.chosen if check.id in blocking])
    chosen = choose(settings, subject.target_identity, by_native, both)
    if chosen.strategy is Strategy.NATIVE:
        return chosen, by_native, native
    return chosen, make_checks(copying, selection.chosen), copying


def census_to_dict(census: Census) -> dict[str, object]:
    """Plain JSON values; keys as hexadecimal digits, tables as pairs, because not every database keeps their order."""
    facts: dict[str, object] = {field.name: _plain(getattr(census, field.name)) for field in fields(census)}
    return facts | {"unseen_at_most": census.unseen_at_most}


def _plain(value: object) -> object:
    match value:
        case KeyFact():
            return asdict(value) | {"key": value.key.hex()}
        case Seen():
            return asdict(value)
        case tuple():
            return [_plain(item) for item in value]
        case Mapping():
            return [[name, _plain(inner)] for name, inner in value.items()]
        case _:
            return value
