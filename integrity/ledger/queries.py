"""Reading the ledger."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from sqlalchemy import Engine, func, select
from sqlalchemy.orm import Session
from xxhash import xxh3_128_digest

from integrity.errors import ConfigurationError
from integrity.ledger import audit
from integrity.ledger.control import read_control
from integrity.ledger.database import reading, repeated
from integrity.ledger.models import (
    Artifact,
    Checkpoint,
    Event,
    Finding,
    FindingClass,
    FindingState,
    Measurement,
    Phase,
    PhaseName,
    Repair,
    Run,
    RunKind,
    RunState,
    Tally,
)
from integrity.ledger.stored import storable
from integrity.ledger.values import ControlState


class LedgerReader:
    """What can be asked of a ledger."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def runs(self, limit: int = 50) -> list[Run]:
        """The newest runs first."""
        return self._all(select(Run).order_by(Run.started_at.desc(), Run.id.desc()).limit(limit))

    def find_run(self, wanted: str) -> Run:
        """The run with this id, an unambiguous beginning or ending of it, or ``latest``.

        :raises ConfigurationError: no such run, or several.
        """
        if wanted == "latest":
            found = self.runs(1)
        else:
            wanted = storable(wanted)
            named = Run.id.startswith(wanted, autoescape=True) | Run.id.endswith(wanted, autoescape=True)
            found = self._all(select(Run).where(named).limit(3)) if wanted else []
        if len(found) == 1:
            return found[0]
        if found:
            raise ConfigurationError(
                f"Several runs match {wanted!r}: {', '.join(run.id for run in found)}.",
                "Write more of the id.",
            )
        raise ConfigurationError(
            f"The ledger holds no run {wanted!r}." if wanted != "latest" else "The ledger holds no run yet.",
            "`greenfly runs list` shows all; --state-dir names another ledger.",
        )

    def phases(self, run_id: str) -> list[Phase]:
        """In the order in which they began."""
        return self._all(select(Phase).where(Phase.run_id == run_id).order_by(Phase.id))

    def checkpoints(self, run_id: str, phase: PhaseName | None = None) -> list[Checkpoint]:
        """By phase and database."""
        query = select(Checkpoint).where(Checkpoint.run_id == run_id).order_by(Checkpoint.id)
        return self._all(query if phase is None else query.where(Checkpoint.phase == phase))

    def tallies(self, run_id: str) -> list[Tally]:
        """By database and kind."""
        return self._all(select(Tally).where(Tally.run_id == run_id).order_by(Tally.database, Tally.kind))

    def measurements(self, run_id: str) -> list[Measurement]:
        """Oldest first."""
        return self._all(select(Measurement).where(Measurement.run_id == run_id).order_by(Measurement.id))

    def artifacts(self, run_id: str) -> list[Artifact]:
        """Oldest first."""
        return self._all(select(Artifact).where(Artifact.run_id == run_id).order_by(Artifact.id))

    def events(self, run_id: str) -> list[Event]:
        """Oldest first."""
        return self._all(select(Event).where(Event.run_id == run_id).order_by(Event.sequence))

    @repeated
    def finding_counts(self, run_id: str) -> dict[tuple[FindingClass, FindingState], int]:
        """How many findings of each class are in each state."""
        query = (
            select(Finding.finding_class, Finding.state, func.count())
            .where(Finding.run_id == run_id)
            .group_by(Finding.finding_class, Finding.state)
        )
        with reading(self.engine) as connection:
            return {(row[0], row[1]): row[2] for row in connection.execute(query)}

    def findings(
        self,
        run_id: str,
        *,
        state: FindingState | None = None,
        classes: Sequence[FindingClass] | None = None,
        limit: int | None = None,
        after_id: int = 0,
    ) -> list[Finding]:
        """Findings by id; page with *after_id* and *limit*."""
        query = select(Finding).where(Finding.run_id == run_id, Finding.id > after_id).order_by(Finding.id)
        if state is not None:
            query = query.where(Finding.state == state)
        if classes is not None:
            query = query.where(Finding.finding_class.in_(classes))
        return self._all(query.limit(limit) if limit is not None else query)

    def iterate_findings(self, run_id: str, page: int = 1000) -> Iterator[Finding]:
        """All findings of a run, a page at a time."""
        after = 0
        while batch := self.findings(run_id, limit=page, after_id=after):
            yield from batch
            after = batch[-1].id

    @repeated
    def skipped_keys(self, run_id: str, keys: Sequence[tuple[int, bytes]]) -> set[tuple[int, bytes]]:
        """Those of *keys* (database, key) that the copy of this run skipped."""
        digests = {xxh3_128_digest(key) for _, key in keys}
        query = select(Finding.database, Finding.key).where(
            Finding.run_id == run_id,
            Finding.finding_class == FindingClass.SKIPPED,
            Finding.key_digest.in_(digests),
        )
        with reading(self.engine) as connection:
            return {(row[0], row[1]) for row in connection.execute(query)}

    def open_findings_of(
        self, run_id: str, keys: Sequence[tuple[int, bytes]], classes: Sequence[FindingClass]
    ) -> list[Finding]:
        """The run's open findings about *keys* (database, key), by id."""
        wanted, kinds = set(keys), set(classes)
        # By what the unique index holds and nothing else, or the planner prefers to walk all open findings.
        query = select(Finding).where(
            Finding.run_id == run_id,
            Finding.database.in_({database for database, _ in wanted}),
            Finding.key_digest.in_({xxh3_128_digest(key) for _, key in wanted}),
        )
        found = [
            finding
            for finding in self._all(query)
            if finding.state is FindingState.OPEN
            and finding.finding_class in kinds
            and (finding.database, finding.key) in wanted
        ]
        return sorted(found, key=lambda finding: finding.id)

    @repeated
    def not_carried_keys(
        self, target_address: str, keys: Sequence[tuple[int, bytes]]
    ) -> set[tuple[int, bytes]]:
        """Those of *keys* (database, key) of which some run into this target could not carry everything."""
        digests = {xxh3_128_digest(key) for _, key in keys}
        query = (
            select(Finding.database, Finding.key)
            .join(Run, Run.id == Finding.run_id)
            .where(
                Run.target_address == target_address,
                Finding.finding_class == FindingClass.NOT_CARRIED,
                Finding.key_digest.in_(digests),
            )
        )
        with reading(self.engine) as connection:
            return {(row[0], row[1]) for row in connection.execute(query)}

    @repeated
    def broken_runs(self, target_address: str) -> list[str]:
        """Ids of the runs into this target that did not finish and that no process owns."""
        query = select(Run.id).where(
            Run.kind.in_([RunKind.MIGRATE, RunKind.REPAIR, RunKind.SYNC]),
            Run.target_address == target_address,
            Run.state != RunState.FINISHED,
            Run.lease_until < datetime.now(UTC),
        )
        with reading(self.engine) as connection:
            return list(connection.scalars(query))

    def unfinished_copy(
        self, source_address: str, target_address: str, kind: RunKind = RunKind.MIGRATE
    ) -> Run | None:
        """The newest run of this kind between these two addresses that began to copy, if it did not finish."""
        runs = self._all(
            select(Run)
            .where(
                Run.kind == kind,
                Run.source_address == source_address,
                Run.target_address == target_address,
                Run.id.in_(
                    select(Phase.run_id).where(Phase.name.in_([PhaseName.STREAM, PhaseName.REPLICATE]))
                ),
            )
            .order_by(Run.started_at.desc())
            .limit(1)
        )
        return runs[0] if runs and runs[0].state is not RunState.FINISHED else None

    @repeated
    def chain_state(self) -> audit.ChainState:
        """Walk the audit chain."""
        with reading(self.engine) as connection:
            return audit.verify_chain(connection)

    def child_runs(self, run_id: str) -> list[Run]:
        """The runs that rest on this one, whatever their kind, oldest first."""
        return self._all(select(Run).where(Run.parent_id == run_id).order_by(Run.started_at, Run.id))

    def repairs(self, run_id: str) -> list[Repair]:
        """What a repair run did, in the order in which it did it."""
        return self._all(select(Repair).where(Repair.run_id == run_id).order_by(Repair.id))

    @repeated
    def control(self, run_id: str) -> ControlState:
        """What operators ask of this run."""
        with reading(self.engine) as connection:
            return read_control(connection, run_id)

    @repeated
    def _all(self, query: object) -> list:  # type: ignore[type-arg]
        with reading(self.engine) as connection, Session(connection, expire_on_commit=False) as session:
            rows = list(session.scalars(query))  # type: ignore[call-overload]
            session.expunge_all()
            return rows
