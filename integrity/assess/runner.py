"""Making the checks.  What cannot be looked at is unknown, and a server that is gone ends the run."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace

from integrity.assess.background import Background, meanwhile
from integrity.assess.census import Census
from integrity.assess.model import Check, Finding, Outcome, Reach, Result, Severity, not_applicable
from integrity.assess.node_by_node import merged
from integrity.assess.server import Server
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
from integrity.wire import pack


def make_checks(subject: Subject, checks: Sequence[Check]) -> tuple[Result, ...]:
    """What each check comes to, in their order.

    :raises ServerError: a server is gone, or takes no connection any more.
    """
    made: dict[str, Result] = {}
    with ExitStack() as stack:
        stack.enter_context(subject.kept())
        counting = _census_begun(subject, checks, stack)
        for check in sorted(checks, key=lambda check: (check.needs_census, check.alone)):
            if counting is not None and (check.needs_census or check.alone):
                subject.census_taken = counting.result()
                counting = None
            subject.progress.show(f"assess    {len(made) + 1} of {len(checks)}: {check.title}")
            made[check.id] = make_check(subject, check)
    return tuple(made[check.id] for check in checks)


def _census_begun(subject: Subject, checks: Sequence[Check], stack: ExitStack) -> Background[Census] | None:
    """A sample of the keys, begun beside the checks that do not need it."""
    wanted = subject.census_taken is None and any(
        check.needs_census and subject.strategy in check.strategies for check in checks
    )
    if not wanted or subject.settings.assess.mode != "sampled" or len(checks) == 1:
        return None
    return stack.enter_context(meanwhile(subject.take_census, subject.progress))


def make_check(subject: Subject, check: Check) -> Result:
    """What one check comes to; of a cluster, for each node or for all of them together, as the check says.

    :raises ServerError: as :func:`make_checks`.
    """
    if subject.strategy not in check.strategies:
        roads = " and ".join(sorted(road.value for road in check.strategies))
        return _result(check, not_applicable(f"It is about the strategy {roads}."))
    return _result(check, look(subject, check))


def look(subject: Subject, check: Check) -> Finding:
    """What a check finds, node by node where it is to be made for each.

    :raises ServerError: as :func:`make_checks`.
    """
    clusters = {
        "source": subject.source_identity.is_cluster and check.source,
        "target": subject.target_identity.is_cluster and check.target,
    }
    if Reach.ONE in clusters.values():
        return Finding(
            Outcome.UNKNOWN,
            "This check is about one server, and was not made for the nodes of a cluster.",
            check.worst,
        )
    sources: Sequence[Server | None] = subject.source_servers if clusters["source"] is Reach.EACH else (None,)
    targets: Sequence[Server | None] = subject.target_servers if clusters["target"] is Reach.EACH else (None,)
    if sources == targets == (None,):
        return _look(subject, subject, check)
    found = [
        (
            " to ".join(server.place for server in (source, target) if server is not None),
            _look(subject, subject.narrowed(source, target), check),
        )
        for source in sources
        for target in targets
    ]
    return merged(found)


def _look(whole: Subject, subject: Subject, check: Check) -> Finding:
    try:
        return check.look(subject)
    except (AuthenticationFailed, TlsFailed, ServerNotReady):
        raise
    except ServerUnreachable as error:
        # Also a server, or a proxy before it, that closes the connection at one command.
        if not _all_answer(whole):
            raise
        return _not_known(check, error)
    except (ServerError, Refused) as error:
        return _not_known(check, error)


def _all_answer(subject: Subject) -> bool:
    try:
        for server in (*subject.source_servers, *subject.target_servers):
            with server.endpoint.connect("assess") as connection:
                connection.exchange([pack(b"PING")])
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
