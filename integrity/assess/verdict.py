"""What an assessment comes to."""

from __future__ import annotations

from collections.abc import Sequence

from integrity.assess.model import Outcome, Severity
from integrity.ledger.assessments import RecordedResult
from integrity.ledger.vocabulary import Verdict
from integrity.verify.verdict import Conclusion


def conclude(results: Sequence[RecordedResult], left_out: Sequence[str] = ()) -> Conclusion:
    """FAIL where something blocks, INCONCLUSIVE where something that could block is not known."""
    looked = [each for each in results if each.result.outcome is not Outcome.NOT_APPLICABLE]
    found = _names(results, Outcome.FOUND)
    unknown = _names(results, Outcome.UNKNOWN)
    waived = [each.result.check for each in results if each.result.blocks and not each.open]
    aside = f" {_many(len(left_out), 'check')} left out." if left_out else ""
    if found:
        also = f"; not known: {', '.join(unknown)}" if unknown else ""
        return Conclusion(
            Verdict.FAIL, f"{_many(len(found), 'check')} blocking: {', '.join(found)}{also}.{aside}"
        )
    if unknown:
        return Conclusion(
            Verdict.INCONCLUSIVE,
            f"{_many(len(unknown), 'check')} that could block not known: {', '.join(unknown)}.{aside}",
        )
    if not looked:
        return Conclusion(Verdict.INCONCLUSIVE, f"No check was made that these servers need.{aside}")
    warnings = sum(
        each.result.severity is Severity.WARNING and each.result.outcome in {Outcome.FOUND, Outcome.UNKNOWN}
        for each in results
    )
    said = f"{_many(len(looked), 'check')} made, {_many(warnings, 'warning')}"
    if waived:
        return Conclusion(
            Verdict.PASS_WITH_EXCEPTIONS,
            f"{said}; nothing blocks but what was waived: {', '.join(waived)}.{aside}",
        )
    return Conclusion(Verdict.PASS, f"{said}; nothing blocks.{aside}")


def _names(results: Sequence[RecordedResult], outcome: Outcome) -> list[str]:
    return [each.result.check for each in results if each.open and each.result.outcome is outcome]


def _many(number: int, one: str) -> str:
    return f"{number} {one}{'' if number == 1 else 's'}"
