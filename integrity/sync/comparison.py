"""Comparing everything while changes go on: what differs is carried over, and compared again.

A difference under live writes is not corruption.  Each one becomes a suspect: its key is carried over by state like any
changed key, and it is settled when it was compared equal since, or when the feed announced a change (from there on the
feed answers for it).  A comparison is clean when no gap was found while it ran and every suspect is settled.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from time import monotonic
from typing import Final

from integrity.ledger import Ledger, RunHandle
from integrity.ledger.models import FindingClass, FindingState, PhaseName
from integrity.ledger.store import NewFinding
from integrity.partition import CursorRange
from integrity.progress import Progress
from integrity.settings import FieldExpiryPolicy
from integrity.sync.follower import Follower
from integrity.verify.compare import Comparer
from integrity.verify.exceptions import FindingRules
from integrity.verify.extra import ExtraFinder
from integrity.verify.totals import CompareTotals

_LONGEST_TURN_SECONDS: Final = 0.25
"""How long changes are dealt with between two pages, at most; the comparison must get on too."""
_FINDINGS_AT_A_TIME: Final = 1000


@dataclass(frozen=True, slots=True)
class Compared:
    """What comparing everything came to."""

    began: datetime
    compared: int
    differed: int
    """Keys that were not equal when they were first looked at."""
    stuck: int
    clean: bool
    seconds: float

    def to_dict(self) -> dict[str, object]:
        """Plain JSON values."""
        return {
            "began": self.began.isoformat(),
            "compared": self.compared,
            "differed": self.differed,
            "stuck": self.stuck,
            "clean": self.clean,
            "seconds": round(self.seconds, 3),
        }


class _Turns:
    """The pace of a comparison: changes come first."""

    def __init__(self, batch_keys: int, turn: Callable[[], None]) -> None:
        self.batch_keys = batch_keys
        self._turn = turn

    def admit(self, keys: int, size: int) -> None:
        """Deal with changes, then let the next page be read."""
        self._turn()


def compare_everything(
    follower: Follower,
    ledger: Ledger,
    handle: RunHandle,
    progress: Progress,
    turn: Callable[[], None],
    *,
    fenced: bool = False,
) -> Compared:
    """Compare every key of both sides, in both directions, and carry over what differs.

    :param turn: called before each page and while suspects are settled; deals with changes, and with whatever else must
        not wait.
    :param fenced: nobody writes: what differs is left to the drain that follows.
    :raises ServerError: a server is lost, full or refuses; nothing was proven.
    """
    return _Comparison(follower, ledger, handle, progress, turn, fenced=fenced).run()


class _Comparison:
    def __init__(
        self,
        follower: Follower,
        ledger: Ledger,
        handle: RunHandle,
        progress: Progress,
        turn: Callable[[], None],
        *,
        fenced: bool,
    ) -> None:
        self._fenced = fenced
        self._follower = follower
        self._ledger = ledger
        self._handle = handle
        self._progress = progress
        self._turn = turn
        self._rules = follower.rules
        self._excepts = FindingRules(ledger, handle.id, follower.settings, follower.link.target_identity)
        self._differed = 0
        self._unexplained: set[tuple[int, bytes]] = set()
        """Keys of the target, by database, that no key of the source can have become."""

    def run(self) -> Compared:
        began, began_at = datetime.now(UTC), monotonic()
        follower = self._follower
        # The first page is asked for before the first turn: a key that comes after it must be announced.
        follower.reopen_where_lost()
        follower.compare_due = False
        gaps, was_open = follower.gaps, follower.gap is not None
        follower.suspects.clear()
        follower.dirty.retry_stuck()
        try:
            earlier = self._recall()
            totals = self._compare()
            if not self._fenced:
                self._settle()
            gone = [number for number, place in earlier.items() if place not in self._unexplained]
            self._handle.set_finding_state(gone, FindingState.SETTLED)
        except BaseException:
            follower.compare_due = True
            raise
        clean = follower.gaps == gaps and not follower.dirty.stuck
        if follower.gaps == gaps:
            follower.gap = None
            follower.clean_since = began
        done = Compared(
            began,
            totals.scanned,
            self._differed,
            len(follower.dirty.stuck),
            clean,
            monotonic() - began_at,
        )
        self._handle.event("sync.pass", done.to_dict() | {"direction": follower.link.direction.value})
        if was_open and follower.gap is None:
            self._handle.event("sync.gap-closed", {"direction": follower.link.direction.value})
        return done

    def _recall(self) -> dict[int, tuple[int, bytes]]:
        """Look again at what is on record as different, also by an earlier process or by the copy.

        Returns the extra keys among them that cannot be carried away, by the finding's number.
        """
        extras: dict[int, tuple[int, bytes]] = {}
        names: set[bytes] = set()
        after = 0
        while page := self._ledger.findings(
            self._handle.id, state=FindingState.OPEN, limit=_FINDINGS_AT_A_TIME, after_id=after
        ):
            after = page[-1].id
            for finding in page:
                if finding.finding_class is FindingClass.EXTRA and not self._rules.originals(finding.key):
                    extras[finding.id] = (finding.database, finding.key)
                else:
                    names.add(finding.key)
        self._follower.recall(names)
        return extras

    def _compare(self) -> CompareTotals:
        follower, settings = self._follower, self._follower.settings
        link = follower.link
        databases = follower.databases()
        follower.streams.find(link.source, databases)
        pace = _Turns(settings.verify.batch_keys, self._turns)
        comparer = Comparer(
            link.source,
            link.target,
            link.source_identity,
            link.target_identity,
            settings.verify,
            settings.big_values,
            rules=self._rules,
            pace=pace,
            field_expiries=self._field_expiries(),
            on_findings=self._found,
            on_checkpoint=lambda state: None,
            on_progress=self._progress.advance,
        )
        for database in databases:
            comparer.compare_range(database, CursorRange())
        extra = ExtraFinder(
            link.source,
            link.target,
            link.target_identity,
            settings.big_values,
            databases=databases,
            rules=self._rules,
            pace=pace,
            totals=comparer.totals,
            on_findings=self._found,
        )
        onto = {*self._rules.target_databases(databases)}
        if settings.databases is None and link.source.address.database is None:
            onto.update(link.target.identify().databases)
        for database in sorted(onto):
            extra.search(database, CursorRange())
        return comparer.totals

    def _field_expiries(self) -> bool:
        policy, link = self._follower.settings.verify.field_expiries, self._follower.link
        if policy is FieldExpiryPolicy.AUTO:
            return link.source_identity.field_expiries != "none" or (
                link.target_identity.field_expiries == "some"
            )
        return policy is FieldExpiryPolicy.ALWAYS

    def _turns(self) -> None:
        until = monotonic() + _LONGEST_TURN_SECONDS
        self._turn()
        if self._fenced:
            return
        while len(self._follower.dirty) > self._follower.settings.sync.batch_keys and monotonic() < until:
            self._turn()

    def _found(self, findings: Sequence[NewFinding]) -> None:
        """Differences at a first look."""
        expected = []
        names = []
        for finding in self._excepts.apply(findings):
            if finding.state is FindingState.EXCEPTION:
                expected.append(finding)
            elif finding.finding_class is FindingClass.EXTRA:
                originals = self._rules.originals(finding.key)
                names += originals
                if not originals:
                    self._unexplained.add((finding.database, finding.key))
                    # No key of the source can have become it, so carrying over will not remove it.
                    self._handle.add_findings(PhaseName.SYNC, [finding])
            else:
                names.append(finding.key)
        if expected:
            self._handle.add_findings(PhaseName.SYNC, expected)
        self._differed += len(names)
        self._follower.dirty.suspected(names)
        self._follower.suspects.update(names)

    def _settle(self) -> None:
        """Until every suspect was compared equal, announced again, or given up."""
        follower = self._follower
        while follower.suspects:
            self._turn()
            follower.suspects.difference_update(follower.dirty.stuck)
            if follower.suspects:
                follower.wait(0.01)
