"""Writing one key of a repair: copied, given its expiry, or deleted; every way is harmless to repeat."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from integrity.ledger import RunHandle
from integrity.ledger.models import FindingClass, FindingState, PhaseName
from integrity.ledger.store import NewFinding
from integrity.phases.servers import Servers
from integrity.repair import KeyOutcome
from integrity.repair_plan import WRITES, Intent, KeyPlan, RepairPlanner
from integrity.rules import Rules
from integrity.settings import Settings
from integrity.standby import Standby
from integrity.transfer.copy import TYPED_REWRITE
from integrity.transfer.restore_key import KeyCopied, KeyCopier
from integrity.transfer.temporary import Places, places_of
from integrity.wire import pack


@dataclass(slots=True)
class Work:
    """One key on its way."""

    plan: KeyPlan
    """By the newest look."""
    before: tuple[bytes | None, bytes | None]
    """Digests of source and target at the first look."""
    wrote: KeyOutcome | None = None
    notes: list[str] = field(default_factory=list)
    refused: bool = False
    """The target did not take it, and would not the next time."""
    protected: bool = False
    """It was not deleted, because something on the source can have become it."""
    seen: bool = False
    """Its differences are findings of this run already."""

    @property
    def wants_writing(self) -> bool:
        """Whether there is something to be done that has not been refused."""
        if self.plan.intent is Intent.DELETE:
            return not self.protected
        return self.plan.intent in WRITES and not self.refused

    @property
    def outcome(self) -> KeyOutcome:
        """What became of the key."""
        match self.plan.intent:
            case Intent.NOTHING:
                return self.wrote or KeyOutcome.SETTLED
            case Intent.EXCEPTION:
                return KeyOutcome.EXCEPTION
            case Intent.KEEP | Intent.DELETE:
                return KeyOutcome.KEPT
            case Intent.COLLISION:
                return KeyOutcome.COLLISION
        if any(f.finding_class is FindingClass.UNREADABLE for f in self.plan.open):
            return KeyOutcome.UNREADABLE
        return KeyOutcome.REFUSED if self.refused else KeyOutcome.DIFFERS


class KeyWriter:
    """Does what is planned for single keys; a context manager that keeps one connection per database and side.

    :param run: the repair, whose findings tell what could not be carried or was refused.
    :param planner: asked before a key is deleted.
    """

    def __init__(self, settings: Settings, run: RunHandle, servers: Servers, planner: RepairPlanner) -> None:
        self._run = run
        self._servers = servers
        self._planner = planner
        self._big_values = settings.big_values
        self._rules = Rules.of(settings.rules)
        self._stack = ExitStack()
        self._sources: dict[int, Standby] = {}
        self._targets: dict[int, Standby] = {}
        self._copiers: dict[int, KeyCopier] = {}
        self._places = Places()
        self.ways: Counter[str] = Counter()
        """How often keys were ``restored``, ``relabelled`` and ``rewritten``."""

    def __enter__(self) -> Self:
        with self._servers.target.connect("repair") as connection:
            self._places = places_of(connection, self._servers.target_identity)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def write(self, work: Work) -> int:
        """Do what is planned for one key; returns the bytes that were written."""
        plan = work.plan
        if plan.intent is Intent.DELETE:
            self._delete(work)
            return 0
        if plan.intent is Intent.EXPIRE and self._expire(work):
            return 0
        copier = self._copier(plan.database)
        size = copier.sizes([plan.key])[0]
        kind = plan.pair.source.kind_name
        done = copier.copy(plan.key, self._rules.rename(plan.key), kind=kind, size=size)
        self._note(work, done)
        return done.size

    def _note(self, work: Work, done: KeyCopied) -> None:
        plan = work.plan
        if done.detail:
            work.notes.append(done.detail)
        match done.outcome:
            case "restored" | "rewritten":
                work.wrote = KeyOutcome.COPIED
                self.ways[done.outcome] += 1
                self.ways["relabelled"] += done.relabelled
            case "refused":
                work.refused = True
                self._add(plan, done, FindingClass.REFUSED, done.detail, None)
        if done.lost:
            lost = f"written with typed commands, which do not carry {', '.join(done.lost)}"
            work.notes.append(lost)
            # Recorded before the next look, which the rule is applied to.
            self._add(plan, done, FindingClass.NOT_CARRIED, lost, TYPED_REWRITE)

    def _add(
        self, plan: KeyPlan, done: KeyCopied, finding_class: FindingClass, detail: str, rule: str | None
    ) -> None:
        finding = NewFinding(
            finding_class,
            plan.database,
            plan.key,
            source_kind=done.kind,
            source_size=done.size or None,
            detail=detail,
            state=FindingState.EXCEPTION if rule else FindingState.OPEN,
            rule=rule,
        )
        self._run.add_findings(PhaseName.REPAIR, [finding])

    def _expire(self, work: Work) -> bool:
        """Set the expiry alone; False where the target does not take it or has lost the key."""
        plan = work.plan
        expiry = plan.pair.source.expiry_ms
        if expiry is None:
            return False
        key = self._rules.rename(plan.key)
        command = pack(b"PERSIST", key) if expiry < 0 else pack(b"PEXPIREAT", key, b"%d" % expiry)
        target = self._on_target(self._rules.target_database(plan.database))
        if target.connection().exchange([command])[0] != 1:
            return False
        work.wrote = KeyOutcome.EXPIRY_SET
        work.notes.append("the expiry alone was set")
        return True

    def _delete(self, work: Work) -> None:
        plan = work.plan
        if not self._planner.may_delete(plan.database, plan.key):
            work.protected = True
            work.notes.append("not deleted: the source has a key by now that can have become it")
            return
        self._on_target(plan.database).connection().command(b"UNLINK", plan.key)
        work.wrote = KeyOutcome.DELETED

    def _copier(self, database: int) -> KeyCopier:
        if database not in self._copiers:
            if database not in self._sources:
                standby = Standby(self._servers.source, "repair", database)
                self._sources[database] = self._stack.enter_context(standby)
            self._copiers[database] = KeyCopier(
                self._sources[database],
                self._on_target(self._rules.target_database(database)),
                source_identity=self._servers.source_identity,
                target_identity=self._servers.target_identity,
                big_values=self._big_values,
                owner=f"{self._run.id}:repair",
                places=self._places,
            )
        return self._copiers[database]

    def _on_target(self, database: int) -> Standby:
        if database not in self._targets:
            standby = Standby(self._servers.target, "repair", database)
            self._targets[database] = self._stack.enter_context(standby)
        return self._targets[database]
