"""The verdict: what a comparison allows to be said.

Nothing compared is INCONCLUSIVE.  A key that could not be read is INCONCLUSIVE unless a real difference already
makes it FAIL.  Neither is ever a PASS.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from integrity.kinds.base import plural
from integrity.ledger.models import FindingClass, FindingState, Verdict

DIFFERENCES: Final = (
    FindingClass.MISSING,
    FindingClass.EXTRA,
    FindingClass.TYPE,
    FindingClass.VALUE,
    FindingClass.EXPIRY,
    FindingClass.FIELD_EXPIRY,
    FindingClass.COLLISION,
)


@dataclass(frozen=True, slots=True)
class Coverage:
    """What was compared of what was there."""

    source_keys: int
    """DBSIZE of the source when the comparison began, expired keys that linger included."""
    compared: int
    """Keys of the source for which it is known whether the target agrees."""
    target_scanned: int
    """Keys of the target that were looked for on the source."""
    only_databases: tuple[int, ...] | None = None
    """The databases that the run was limited to; None where it covered all that hold keys."""
    excluded: Mapping[str, int] = field(default_factory=dict)
    """Rule → keys of the source that it left out."""


@dataclass(frozen=True, slots=True)
class Conclusion:
    """A verdict and why."""

    verdict: Verdict
    reason: str


def conclude(
    coverage: Coverage,
    counts: Mapping[tuple[FindingClass, FindingState], int],
    *,
    waived: int = 0,
    notes: Sequence[str] = (),
) -> Conclusion:
    """The verdict over a finished comparison.

    :param waived: how many of the exceptions somebody let pass.
    :param notes: sentences that are told with a FAIL.
    """

    def count(finding_class: FindingClass, state: FindingState = FindingState.OPEN) -> int:
        return counts.get((finding_class, state), 0)

    differences = {c: count(c) for c in DIFFERENCES if count(c)}
    refused, unreadable = count(FindingClass.REFUSED), count(FindingClass.UNREADABLE)
    exceptions = sum(n for (_, state), n in counts.items() if state is FindingState.EXCEPTION)
    if differences:
        total = sum(differences.values())
        named = ", ".join(f"{number:,} {name.value}" for name, number in differences.items())
        also = f"; the target refused {refused:,} of the payloads" if refused else ""
        return Conclusion(
            Verdict.FAIL,
            " ".join(
                (
                    f"{total:,} difference{'' if total == 1 else 's'} in {coverage.compared:,} compared keys: "
                    f"{named}{also}.",
                    *notes,
                )
            ),
        )
    if unreadable:
        return Conclusion(
            Verdict.INCONCLUSIVE,
            f"{plural(unreadable, 'key')} could not be compared; all others ({coverage.compared:,}) agree.",
        )
    left_out = sum(coverage.excluded.values())
    if not coverage.compared:
        why = "the source holds none, or all of them expired"
        if left_out:
            why = f"the run's rules left out {plural(left_out, 'key')} of the source, and it holds no other"
        return Conclusion(Verdict.INCONCLUSIVE, f"No key was compared: {why}.")
    agree = "The only key agrees" if coverage.compared == 1 else f"All {coverage.compared:,} keys agree"
    agree += " in value, type and expiry"
    aside = f" The run's rules left out {plural(left_out, 'key')} of the source." if left_out else ""
    if exceptions:
        return Conclusion(
            Verdict.PASS_WITH_EXCEPTIONS,
            f"{agree}, but for {_excepted(exceptions - waived, waived)}.{aside}",
        )
    where = ""
    if coverage.only_databases is not None:
        # What the run was told to leave out was not looked at on either side.
        where = f" in database {', '.join(map(str, coverage.only_databases))}, to which this run was limited"
    return Conclusion(Verdict.PASS, f"{agree}, and the target holds no other key{where}.{aside}")


def _excepted(by_rule: int, waived: int) -> str:
    parts = [f"{by_rule:,} that a rule of this run excepts by name"] if by_rule else []
    return " and ".join([*parts, f"{waived:,} that somebody let pass until a day"] if waived else parts)
