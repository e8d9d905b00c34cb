"""Whether a run can be repaired, and what a repair of it concludes.

A repair is a run of its own that names the repaired one as its parent.  The parent's verdict is history and stays; the
repair's verdict is about exactly the keys that the parent found to differ.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final

from integrity.address import Address, parse_address
from integrity.endpoint import Endpoint
from integrity.errors import ConfigurationError, Refused
from integrity.kinds.base import plural
from integrity.ledger import Ledger
from integrity.ledger.models import FindingState, PhaseName, Run, RunKind, RunState, Verdict
from integrity.phases.servers import Servers
from integrity.repair_plan import REPAIRABLE
from integrity.rules import Rules
from integrity.settings import Settings
from integrity.verify.verdict import Conclusion

_FINDS: Final = frozenset({PhaseName.STREAM, PhaseName.VERIFY})
"""Phases that find differences."""


# -- before ------------------------------------------------------------------------------------------------------------


def repairable_run(ledger: Ledger, wanted: str, settings: Settings) -> Run:
    """The run that *wanted* names; of a repair, the run that it repairs.

    :raises ConfigurationError: no such run, or several; no source or no target is set.
    :raises Refused: it is still running, has found nothing out, is about other servers, or is being repaired.
    """
    run = ledger.find_run(wanted)
    while run.kind is RunKind.REPAIR and run.parent_id is not None:
        run = ledger.find_run(run.parent_id)
    now = datetime.now(UTC)
    if run.state is RunState.RUNNING and run.lease_until > now:
        raise Refused(f"Run {run.id} is still running.", "Wait until it ends; its findings are not complete.")
    phases = {phase.name for phase in ledger.phases(run.id)}
    if run.kind is RunKind.SNAPSHOT or not phases & _FINDS:
        raise Refused(
            f"Run {run.id} neither copied nor compared anything, so there is nothing to repair.",
            "Name a migrate or a verify run; `greenfly runs list` shows all.",
        )
    if (run.source or {}).get("role") == "file":
        raise Refused(
            f"Run {run.id} loaded a file, and there is no source server to repair from.",
            "Load the file once more, with --conflict replace.",
        )
    _require_same_servers(run, settings)
    for other in ledger.child_runs(run.id):
        if other.kind is RunKind.REPAIR and other.state is RunState.RUNNING and other.lease_until > now:
            left = (other.lease_until - now).total_seconds()
            raise Refused(
                f"Repair {other.id} of run {run.id} still belongs to process {other.lease_owner}.",
                f"If that process is gone, try again in {left:.0f} s, when its lease ends.",
            )
    return run


def servers_now(settings: Settings) -> Servers:
    """Both servers as they are now, for a look that writes nothing, not even to the ledger.

    :raises ServerError: a server is not reachable, not ready, or refuses the credentials.
    """
    source = Endpoint.from_settings("source", settings.reads_from)
    target = Endpoint.from_settings("target", settings.target)
    ours, theirs = source.identify(), target.identify()
    named = Endpoint.from_settings("source", settings.source).address.database
    if settings.databases is not None:
        databases = tuple(sorted(set(settings.databases)))
    else:
        databases = (named,) if named is not None else tuple(sorted(ours.databases))
    onto = tuple(Rules.of(settings.rules).target_databases(databases))
    return Servers(source, target, ours, theirs, databases, onto)


def open_findings(ledger: Ledger, run_id: str) -> int:
    """How many findings of a run a repair would look at."""
    counts = ledger.finding_counts(run_id)
    return sum(counts.get((finding_class, FindingState.OPEN), 0) for finding_class in REPAIRABLE)


def _require_same_servers(run: Run, settings: Settings) -> None:
    """A finding is about one pair of servers; the user's name may differ, because a repair needs other rights."""
    pairs = (
        (Endpoint.from_settings("source", settings.source), run.source_address),
        (Endpoint.from_settings("target", settings.target), run.target_address),
    )
    for endpoint, recorded in pairs:
        if recorded is None or _place(endpoint.address) != _place(parse_address(recorded, "the ledger")):
            raise Refused(
                f"Run {run.id} was about {endpoint.role} {recorded or '(never reached)'}, not {endpoint}.",
                "Name the servers of that run.",
            )
        theirs = _recorded_database(run, endpoint.role)
        if endpoint.address.database != theirs:
            raise Refused(
                f"Run {run.id} had {_database_text(theirs)} in its {endpoint.role} URL, and this one has "
                f"{_database_text(endpoint.address.database)}.",
                "Name the servers with the same URLs as then.",
            )


def _place(address: Address) -> tuple[str, str, int, str]:
    return address.scheme, address.host, address.port, address.path


def _recorded_database(run: Run, role: str) -> int | None:
    section = run.settings.get(role)
    url = section.get("url") if isinstance(section, Mapping) else None
    if not isinstance(url, str):
        return None
    try:
        return parse_address(url, role).database
    except ConfigurationError:
        return None


def _database_text(database: int | None) -> str:
    return "no database" if database is None else f"database {database}"


# -- after -------------------------------------------------------------------------------------------------------------


class KeyOutcome(StrEnum):
    """What became of one key."""

    COPIED = "copied"
    EXPIRY_SET = "expiry set"
    DELETED = "deleted"
    SETTLED = "settled"
    """Both sides agreed already; nothing was written."""
    EXCEPTION = "exception"
    """What still differs is covered by a rule."""
    KEPT = "kept"
    """Only the target has it, and it was not to be deleted."""
    COLLISION = "collision"
    REFUSED = "refused"
    """The target did not take it."""
    UNREADABLE = "unreadable"
    """It could not be compared afterwards."""
    DIFFERS = "differs"
    """It was written and differs still."""


_AGREES: Final = {
    KeyOutcome.COPIED: "{} re-copied",
    KeyOutcome.EXPIRY_SET: "{} given the source's expiry",
    KeyOutcome.DELETED: "{} deleted",
    KeyOutcome.SETTLED: "{} had settled by themselves",
}
_DIFFERS: Final = {
    KeyOutcome.KEPT: "{} that only the target has (kept; --delete-extra deletes such keys)",
    KeyOutcome.COLLISION: "{} whose place on the target another key of the source shares",
    KeyOutcome.REFUSED: "{} that the target did not take",
    KeyOutcome.DIFFERS: "{} that were written to meanwhile, or do not arrive as they are",
}


def conclude_repair(run_id: str, outcomes: Counter[KeyOutcome], exceptions: int, before: int) -> Conclusion:
    """The verdict over the keys that a repair looked at.

    :param run_id: of the repaired run.
    :param exceptions: findings of the repair that a rule covers.
    :param before: findings of the repaired run that earlier repairs had dealt with.
    """
    looked = outcomes.total()
    differing = sum(outcomes[outcome] for outcome in _DIFFERS)
    unreadable, excepted = outcomes[KeyOutcome.UNREADABLE], outcomes[KeyOutcome.EXCEPTION]
    agreeing = looked - differing - unreadable - excepted
    keys = f"{plural(looked, 'differing key')} of run {run_id}"
    earlier = f" Earlier repairs had dealt with {plural(before, 'finding')} of it." if before else ""
    end = f" Nothing else was compared.{earlier}"
    agreed = _listed(_AGREES, outcomes)
    if not looked:
        return Conclusion(
            Verdict.INCONCLUSIVE, f"No finding of run {run_id} was open, so nothing was compared."
        )
    if differing:
        also = f"; {unreadable:,} could not be compared" if unreadable else ""
        rest = f" {agreeing:,} agree now: {agreed}." if agreeing else ""
        return Conclusion(
            Verdict.FAIL,
            f"{differing:,} of {keys} still differ: {_listed(_DIFFERS, outcomes)}{also}.{rest}{end}",
        )
    if unreadable:
        rest = f" {agreeing:,} agree now: {agreed}." if agreeing else ""
        return Conclusion(Verdict.INCONCLUSIVE, f"{unreadable:,} of {keys} could not be compared.{rest}{end}")
    if exceptions:
        rest = f" {agreeing:,} agree now: {agreed}." if agreeing else ""
        return Conclusion(
            Verdict.PASS_WITH_EXCEPTIONS,
            f"No key of {keys} differs but for {plural(exceptions, 'finding')} that a rule of the run excepts by name."
            f"{rest}{end}",
        )
    all_of = f"All {keys} agree now" if looked > 1 else f"The {keys} agrees now"
    return Conclusion(Verdict.PASS, f"{all_of}: {agreed}.{end}")


def _listed(texts: Mapping[KeyOutcome, str], outcomes: Counter[KeyOutcome]) -> str:
    return ", ".join(
        text.format(f"{outcomes[outcome]:,}") for outcome, text in texts.items() if outcomes[outcome]
    )
