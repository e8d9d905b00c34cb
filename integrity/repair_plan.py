"""What is to be done about each key that a run found to differ, by what both sides hold now.

Findings say where to look; what is done depends on the key as it is by now, never on what the finding once said.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from enum import StrEnum
from types import TracebackType
from typing import Final, Self

from integrity.errors import ProtocolError
from integrity.ledger import Ledger
from integrity.ledger.models import Finding, FindingClass, FindingState, Run
from integrity.ledger.store import NewFinding
from integrity.phases.servers import Servers
from integrity.rules import Rules
from integrity.settings import Settings
from integrity.standby import Standby
from integrity.verify.exceptions import FindingRules
from integrity.verify.present import Pair, Present
from integrity.wire import pack

REPAIRABLE: Final = (
    FindingClass.MISSING,
    FindingClass.EXTRA,
    FindingClass.TYPE,
    FindingClass.VALUE,
    FindingClass.EXPIRY,
    FindingClass.FIELD_EXPIRY,
    FindingClass.COLLISION,
    FindingClass.REFUSED,
    FindingClass.UNREADABLE,
)
"""Classes of finding that a repair looks at."""

PAGE: Final = 200
"""Findings that are dealt with, and recorded, together."""


class Intent(StrEnum):
    """What is to be done about one key."""

    NOTHING = "nothing"
    """Both sides agree by now."""
    COPY = "copy"
    EXPIRE = "set the expiry"
    DELETE = "delete"
    KEEP = "keep"
    """Only the target has it, and nobody asked to delete such keys."""
    EXCEPTION = "exception"
    """A rule of the run covers what differs."""
    COLLISION = "collision"
    """Another key of the source has the same place, so copying either one breaks the other."""


WRITES: Final = frozenset({Intent.COPY, Intent.EXPIRE, Intent.DELETE})


@dataclass(frozen=True, slots=True)
class KeyPlan:
    """One key, both sides of it now, and what is to be done."""

    database: int
    """Of the source; of the target for a key that only the target has."""
    key: bytes
    on_target: bool
    """Whether database and key are the target's."""
    pair: Pair
    differences: tuple[NewFinding, ...]
    """How the two sides differ now, with the rules of the run applied."""
    intent: Intent
    why: str
    findings: tuple[Finding, ...] = field(default=())
    """What the repaired run said about the key."""

    @property
    def open(self) -> tuple[NewFinding, ...]:
        """The differences that no rule covers."""
        return tuple(f for f in self.differences if f.state is FindingState.OPEN)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a finding points to."""

    database: int
    key: bytes
    on_target: bool


class RepairPlanner:
    """Looks at keys and decides; writes to neither server.  A context manager.

    :param run: the run that is repaired.
    :param settings: with that run's conflict policy, rules and databases.
    """

    def __init__(
        self, settings: Settings, ledger: Ledger, run: Run, servers: Servers, *, delete_extra: bool
    ) -> None:
        self._ledger = ledger
        self._run = run
        self._servers = servers
        self._delete_extra = delete_extra
        self._rules = Rules.of(settings.rules)
        self._finding_rules = FindingRules(ledger, run.id, settings, servers.target_identity)
        self._stack = ExitStack()
        self._present = Present(
            servers.source,
            servers.target,
            servers.source_identity,
            servers.target_identity,
            settings.verify,
            settings.big_values,
            databases=servers.databases,
            rules=self._rules,
        )
        self._witnesses: dict[int, Standby | None] = {}
        """By database of the source; None where the source has no such database."""

    def __enter__(self) -> Self:
        self._stack.enter_context(self._present)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def pages(self, size: Callable[[], int] = lambda: PAGE) -> Iterator[list[list[Finding]]]:
        """The run's open findings, those about one key together, each key once.

        :param size: how many findings the next page may hold.
        """
        after = 0
        while page := self._ledger.findings(
            self._run.id, state=FindingState.OPEN, classes=REPAIRABLE, limit=size(), after_id=after
        ):
            groups: dict[_Place, list[Finding]] = {}
            places = [(finding.database, finding.key) for finding in page]
            for finding in self._ledger.open_findings_of(self._run.id, places, REPAIRABLE):
                groups.setdefault(_place(finding), []).append(finding)
            here = {finding.id for finding in page}
            # A key with an open finding on an earlier page was dealt with there.
            yield [group for group in groups.values() if group[0].id in here]
            after = page[-1].id

    def plan(self, groups: Sequence[Sequence[Finding]]) -> list[KeyPlan]:
        """Look at the keys of these findings on both sides and decide, in their order.

        :raises ServerError: a server is lost or refuses.
        """
        places = [_place(group[0]) for group in groups]
        decided = self._decide_all(places)
        return [
            replace(decided[place], findings=tuple(group))
            for place, group in zip(places, groups, strict=True)
        ]

    def may_delete(self, database: int, key: bytes) -> bool:
        """Whether nothing on the source, in the run's scope or out of it, can have become this key of the target.

        To be asked right before a key is deleted.
        """
        mapped = {d for d, onto in self._rules.settings.databases.items() if onto == database}
        for source_database, name in self._rules.sources(database, key, sorted(mapped | {database})):
            witness = self._witness(source_database)
            if witness is not None and witness.connection().exchange([pack(b"EXISTS", name)])[0] != 0:
                return False
        return True

    def _witness(self, database: int) -> Standby | None:
        if database not in self._witnesses:
            standby = self._stack.enter_context(Standby(self._servers.source, "verify", database))
            try:
                standby.connection()
            except ProtocolError:
                # It cannot select this database, so it has none, and no key in it.
                self._witnesses[database] = None
            else:
                self._witnesses[database] = standby
        return self._witnesses[database]

    # -- deciding -----------------------------------------------------------------------------------------------

    def _decide_all(self, places: Sequence[_Place]) -> dict[_Place, KeyPlan]:
        by_look: dict[tuple[int, bool], list[_Place]] = {}
        for place in places:
            by_look.setdefault((place.database, place.on_target), []).append(place)
        decided: dict[_Place, KeyPlan] = {}
        for (database, on_target), group in by_look.items():
            look = self._present.extras if on_target else self._present.pairs
            pairs = look(database, [place.key for place in group])
            for place in group:
                pair = pairs[place.key]
                decided[place] = self._extra(place, pair) if on_target else self._common(place, pair)
        return decided

    def _extra(self, place: _Place, pair: Pair) -> KeyPlan:
        """A key of the target that the source had not."""
        if not pair.target.present:
            return self._plan(place, pair, Intent.NOTHING, "the target does not have it any more")
        if pair.findings:
            return self._only_on_target(place, pair)
        for database, name in self._rules.sources(place.database, place.key, self._servers.databases):
            ours = self._present.pairs(database, [name])[name]
            if ours.source.present:
                return self._common(_Place(database, name, on_target=False), ours)
        return self._plan(place, pair, Intent.NOTHING, "the source has it by now")

    def _only_on_target(self, place: _Place, pair: Pair) -> KeyPlan:
        if self._delete_extra:
            return self._plan(place, pair, Intent.DELETE, "only the target has it")
        plan = self._plan(place, pair, Intent.KEEP, "extra; kept, because --delete-extra was not given")
        return plan if plan.open else self._excepted(plan)

    def _common(self, place: _Place, pair: Pair) -> KeyPlan:
        """A key of the source."""
        if not pair.findings:
            there = pair.source.present
            return self._plan(
                place, pair, Intent.NOTHING, "both sides agree" if there else "neither side has it"
            )
        if not pair.source.present:
            return self._gone_from_source(place)
        rule = self._left_out(place, pair)
        if rule is not None:
            return self._plan(place, pair, Intent.NOTHING, f"the run's rules leave it out by now ({rule})")
        plan = self._plan(place, pair, Intent.COPY, "")
        classes = {finding.finding_class for finding in plan.open}
        if not classes:
            return self._excepted(plan)
        if FindingClass.COLLISION in classes or self._shared(plan.open[0]):
            return replace(
                plan,
                intent=Intent.COLLISION,
                why="another key of the source has the same place on the target; copying cannot repair that",
            )
        why = "; ".join(finding.detail for finding in plan.open)
        return replace(
            plan, intent=Intent.EXPIRE if classes == {FindingClass.EXPIRY} else Intent.COPY, why=why
        )

    @staticmethod
    def _excepted(plan: KeyPlan) -> KeyPlan:
        rules = ", ".join(sorted({f.rule for f in plan.differences if f.rule}))
        return replace(plan, intent=Intent.EXCEPTION, why=f"covered by rule {rules}")

    def _gone_from_source(self, place: _Place) -> KeyPlan:
        """The source has lost the key since, and its place on the target is taken."""
        there = _Place(
            self._rules.target_database(place.database), self._rules.rename(place.key), on_target=True
        )
        pair = self._present.extras(there.database, [there.key])[there.key]
        if not pair.findings:
            return self._plan(place, pair, Intent.NOTHING, "the source does not have it any more")
        return self._only_on_target(there, pair)

    def _left_out(self, place: _Place, pair: Pair) -> str | None:
        if self._rules.selects_all:
            return None
        size = 0
        if self._rules.needs_sizes:
            witness = self._witness(place.database)
            reply = (
                witness.connection().exchange([pack(b"MEMORY", b"USAGE", place.key)])[0] if witness else None
            )
            size = reply if isinstance(reply, int) else 0
        return self._rules.selects(place.key, (pair.source.kind_name or "").encode(), size)

    def _shared(self, difference: NewFinding) -> bool:
        """Whether another key of the source has the same place; asked as if the values differed."""
        asked = replace(difference, finding_class=FindingClass.VALUE)
        return self._present.mark_collisions([asked])[0].finding_class is FindingClass.COLLISION

    def _plan(self, place: _Place, pair: Pair, intent: Intent, why: str) -> KeyPlan:
        differences = tuple(self._finding_rules.apply(pair.findings))
        return KeyPlan(place.database, place.key, place.on_target, pair, differences, intent, why)


def _place(finding: Finding) -> _Place:
    return _Place(finding.database, finding.key, finding.finding_class is FindingClass.EXTRA)
