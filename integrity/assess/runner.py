"""Making the checks.  What cannot be looked at is unknown, and a server that is gone ends the run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from integrity.assess.model import Check, Finding, Outcome, Result, Severity, not_applicable
from integrity.assess.subject import Subject
from integrity.errors import (
    AuthenticationFailed,
    Refused,
    ServerError,
    ServerNotReady,
    ServerUnreachable,
    TlsFailed,
)
from integrity.ledger.assessments import fit


def make_checks(subject: Subject, checks: Sequence[Check]) -> tuple[Result, ...]:
    """What each check comes to, in their order.

    :raises ServerError: a server is gone, or takes no connection any more.
    """
    results = []
    for number, check in enumerate(checks, start=1):
        subject.progress.show(f"assess    {number} of {len(checks)}: {check.title}")
        results.append(make_check(subject, check))
    return tuple(results)


def make_check(subject: Subject, check: Check) -> Result:
    """What one check comes to.

    :raises ServerError: as :func:`make_checks`.
    """
    if subject.strategy not in check.strategies:
        roads = " and ".join(sorted(road.value for road in check.strategies))
        return _result(check, not_applicable(f"It is about the strategy {roads}."))
    try:
        finding = check.look(subject)
    except (AuthenticationFailed, TlsFailed, ServerNotReady):
        raise
    except ServerUnreachable as error:
        # Also a server, or a proxy before it, that closes the connection at one command.
        if not _both_answer(subject):
            raise
        finding = _not_known(check, error)
    except (ServerError, Refused) as error:
        finding = _not_known(check, error)
    return _result(check, finding)


def _both_answer(subject: Subject) -> bool:
    try:
        for endpoint in (subject.source, subject.target):
            with endpoint.connect("assess") as connection:
                connection.command(b"PING")
    except ServerUnreachable:
        return False
    return True


def _not_known(check: Check, error: ServerError | Refused) -> Finding:
    return Finding(
        Outcome.UNKNOWN,
        f"It could not be looked at: {error.problem}",
        check.worst,
        {"error": type(error).__name__},
        error.remedy,
    )


def _result(check: Check, finding: Finding) -> Result:
    severity = finding.severity
    if finding.outcome in {Outcome.PASSED, Outcome.NOT_APPLICABLE}:
        severity = Severity.INFO
    result = Result(
        check.id,
        check.title,
        finding.outcome,
        severity,
        finding.summary,
        finding.evidence,
        finding.remedy,
        finding.items,
    )
    # As the ledger holds it, so that what is waived is compared with what was waived.
    return fit(replace(result, items=tuple(sorted(set(result.items)))))
