"""Writing one run.  Transactions are short and never held across a network copy."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from time import monotonic, sleep

from sqlalchemy import Connection, Engine, delete, insert, select, update

from integrity.errors import RunTakenOver
from integrity.ledger import audit
from integrity.ledger.checkpoints import CheckpointWriter
from integrity.ledger.control import read_control
from integrity.ledger.database import adding, repeated, writing
from integrity.ledger.endurance import endurance_of
from integrity.ledger.findings import write_findings, write_repairs, write_state
from integrity.ledger.models import (
    FindingState,
    Measurement,
    Phase,
    PhaseName,
    PhaseState,
    Run,
    RunState,
    Tally,
    Verdict,
)
from integrity.ledger.naming import operator_name, process_name
from integrity.ledger.values import CheckpointState, ControlState, NewFinding, NewRepair


class RunHandle:
    """The writing side of one run, for the process that owns it and its workers.  Not thread-safe.

    :param owner: the token under which the run is held; a new one by default.
    :param ended: called when the end of the run is recorded.
    """

    def __init__(
        self,
        engine: Engine,
        run_id: str,
        lease_seconds: float,
        owner: str | None = None,
        ended: Callable[[Engine], None] | None = None,
    ) -> None:
        self.engine = engine
        self.id = run_id
        self.owner = owner or f"{process_name()}:{secrets.token_hex(4)}"
        """Process ids come again; the token makes the owner of the lease unmistakable."""
        self._ended = ended
        self._lease_seconds = lease_seconds
        self._lease_renewed = monotonic()
        self._checkpoints = CheckpointWriter(engine, run_id)
        endurance_of(engine).hold(self.owner, lease_seconds)

    def close(self) -> None:
        """Give the connection back that checkpoints are moved over; it is opened again where needed."""
        self._checkpoints.close()

    @repeated
    def event(self, kind: str, payload: Mapping[str, object]) -> None:
        """Append an audit event."""
        with writing(self.engine) as connection:
            audit.append(connection, self.id, operator_name(), kind, payload)

    @repeated
    def identify(
        self,
        *,
        source: Mapping[str, object] | None,
        target: Mapping[str, object] | None,
        source_address: str | None,
        target_address: str | None,
    ) -> None:
        """Record who the two servers are."""
        with writing(self.engine) as connection:
            connection.execute(
                update(Run)
                .where(Run.id == self.id)
                .values(
                    source=dict(source) if source is not None else None,
                    target=dict(target) if target is not None else None,
                    source_address=source_address,
                    target_address=target_address,
                )
            )
            audit.append(
                connection,
                self.id,
                operator_name(),
                "run.identified",
                {"source": dict(source or {}), "target": dict(target or {})},
            )

    @repeated
    def phase_started(self, name: PhaseName, keys_expected: int = 0) -> None:
        """Record the begin of a phase, or its next attempt in a run that was resumed."""
        with writing(self.engine) as connection:
            begun = connection.execute(
                update(Phase)
                .where(Phase.run_id == self.id, Phase.name == name)
                .values(
                    state=PhaseState.RUNNING,
                    ended_at=None,
                    keys_expected=keys_expected,
                    attempts=Phase.attempts + 1,
                )
            )
            if not begun.rowcount:
                connection.execute(
                    insert(Phase).values(
                        run_id=self.id,
                        name=name,
                        state=PhaseState.RUNNING,
                        attempts=1,
                        started_at=datetime.now(UTC),
                        keys_expected=keys_expected,
                        keys=0,
                        bytes=0,
                        detail={},
                    )
                )
            audit.append(connection, self.id, operator_name(), "phase.started", {"phase": name.value})

    @repeated
    def phase_told(self, name: PhaseName, facts: Mapping[str, object]) -> None:
        """Record what a phase that goes on has to tell by now; what it tells at its end takes its place.

        :raises RunTakenOver: another process took the run over.
        """
        own = (Phase.run_id == self.id, Phase.name == name, Phase.state == PhaseState.RUNNING)
        with adding(self.engine) as connection:
            before = connection.execute(select(Phase.detail).where(*own)).scalar_one_or_none()
            connection.execute(update(Phase).where(*own).values(detail=dict(before or {}) | dict(facts)))
            self._renew(connection)

    def telling_of(self, name: PhaseName) -> Callable[[Mapping[str, object]], None]:
        """Takes what holds a phase back, while it goes on."""
        return lambda throttle: self.phase_told(name, {"throttle": dict(throttle)})

    @repeated
    def phase_ended(
        self,
        name: PhaseName,
        state: PhaseState,
        *,
        keys: int = 0,
        size: int = 0,
        detail: Mapping[str, object],
    ) -> None:
        """Record the end of a phase and what it has to tell."""
        with writing(self.engine) as connection:
            connection.execute(
                update(Phase)
                .where(Phase.run_id == self.id, Phase.name == name)
                .values(state=state, ended_at=datetime.now(UTC), keys=keys, bytes=size, detail=dict(detail))
            )
            audit.append(
                connection,
                self.id,
                operator_name(),
                f"phase.{state.value}",
                {"phase": name.value, "keys": keys, "bytes": size, "detail": dict(detail)},
            )
            self._renew(connection, force=True)

    def checkpoint(self, phase: PhaseName, source_run_id: str, state: CheckpointState) -> None:
        """Move a range forward, in one short transaction; renews the lease now and then."""
        self._checkpoints.move(phase, source_run_id, state)
        self.renew_lease()

    def clear_checkpoints(self, phase: PhaseName) -> None:
        """Forget the ranges of a phase, which begins again with others."""
        self._checkpoints.clear(phase)

    @repeated
    def measure(self, phase: PhaseName, keys: int, size: int) -> None:
        """Record progress at this moment."""
        with adding(self.engine) as connection:
            connection.execute(
                insert(Measurement).values(
                    run_id=self.id, phase=phase, at=datetime.now(UTC), keys=keys, bytes=size
                )
            )
            self._renew(connection)

    @repeated
    def tally(self, phase: PhaseName, counts: Mapping[tuple[int, str], tuple[int, int]]) -> None:
        """Record keys and bytes by (database, kind), in place of what was recorded before."""
        rows = [
            {"run_id": self.id, "phase": phase, "database": db, "kind": kind, "keys": keys, "bytes": size}
            for (db, kind), (keys, size) in sorted(counts.items())
        ]
        with writing(self.engine) as connection:
            connection.execute(delete(Tally).where(Tally.run_id == self.id, Tally.phase == phase))
            if rows:
                connection.execute(insert(Tally), rows)

    @repeated
    def add_findings(self, phase: PhaseName, findings: Sequence[NewFinding]) -> None:
        """Record findings; one that is there already is seen once more, with its newest facts."""
        if findings:
            with adding(self.engine) as connection:
                write_findings(connection, self.id, phase, findings)

    @repeated
    def set_finding_state(self, finding_ids: Sequence[int], state: FindingState) -> None:
        """Put findings, of this run or of the one that it repairs, into another state."""
        if finding_ids:
            with adding(self.engine) as connection:
                write_state(connection, finding_ids, state)

    def settle_findings(self, finding_ids: Sequence[int]) -> None:
        """Mark findings that a later look found equal."""
        self.set_finding_state(finding_ids, FindingState.SETTLED)

    @repeated
    def add_repairs(self, repairs: Sequence[NewRepair]) -> None:
        """Record what this repair run did."""
        if repairs:
            with writing(self.engine) as connection:
                write_repairs(connection, self.id, repairs)

    @repeated
    def record_repairs(
        self, repairs: Sequence[NewRepair], states: Mapping[int, FindingState], payload: Mapping[str, object]
    ) -> None:
        """Record, in one transaction, what this repair run did and what became of the findings that it was about.

        :param states: finding of the repaired run → its state from now on; one that is left out stays as it is.
        :param payload: of the audit event ``repair.applied``.
        :raises RunTakenOver: another process took the run over.
        """
        with writing(self.engine) as connection:
            write_repairs(connection, self.id, repairs)
            for state in sorted(set(states.values())):
                write_state(connection, [number for number, to in states.items() if to is state], state)
            audit.append(connection, self.id, operator_name(), "repair.applied", payload)
            self._renew(connection)

    def control(self) -> ControlState:
        """What operators ask of this run now; cheap enough to ask twice a second."""
        return read_control(self._checkpoints.statements, self.id)

    def renew_lease(self) -> None:
        """Keep the run, if a quarter of the lease has passed; to be called while nothing else is written.

        :raises RunTakenOver: another process took the run over.
        """
        if self._renewal_due():
            self._renew_now()

    @repeated
    def _renew_now(self) -> None:
        with adding(self.engine) as connection:
            self._renew(connection, force=True)

    def finish(
        self,
        state: RunState,
        *,
        verdict: Verdict | None,
        reason: str | None,
        error_kind: str | None = None,
        error: str | None = None,
    ) -> None:
        """Record the end of the run; nothing is recorded where another process has taken it over."""
        self.close()
        ended = self._record_end(state, verdict, reason, error_kind, error)
        endurance_of(self.engine).release(self.owner)
        if ended and self._ended is not None:
            self._ended(self.engine)

    @repeated
    def _record_end(
        self,
        state: RunState,
        verdict: Verdict | None,
        reason: str | None,
        error_kind: str | None,
        error: str | None,
    ) -> bool:
        now = datetime.now(UTC)
        with writing(self.engine) as connection:
            ended = connection.execute(
                update(Run)
                .where(Run.id == self.id, Run.lease_owner == self.owner)
                .values(
                    state=state,
                    verdict=verdict,
                    reason=reason,
                    error_kind=error_kind,
                    error=error,
                    ended_at=now,
                    lease_until=now,
                )
            )
            if not ended.rowcount:
                return False
            connection.execute(
                update(Phase)
                .where(Phase.run_id == self.id, Phase.state == PhaseState.RUNNING)
                .values(state=PhaseState.FAILED, ended_at=now)
            )
            audit.append(
                connection,
                self.id,
                operator_name(),
                f"run.{state.value}",
                {"verdict": verdict.value if verdict else None, "reason": reason, "error": error},
            )
        return True

    def let_go(self) -> None:
        """Leave the run open, for whoever takes it over."""
        self.close()
        self._record_let_go()
        endurance_of(self.engine).release(self.owner)

    @repeated
    def _record_let_go(self) -> None:
        with writing(self.engine) as connection:
            connection.execute(
                update(Run)
                .where(Run.id == self.id, Run.lease_owner == self.owner)
                .values(lease_until=datetime.now(UTC))
            )
            audit.append(connection, self.id, operator_name(), "run.let-go", {})

    def wait(self, seconds: float) -> None:
        """Sleep, and keep the run meanwhile.

        :raises RunTakenOver: another process took the run over.
        """
        until = monotonic() + seconds
        while (left := until - monotonic()) > 0:
            sleep(min(left, self._lease_seconds / 8))
            self.renew_lease()

    def _renewal_due(self) -> bool:
        return monotonic() - self._lease_renewed > self._lease_seconds / 4

    def _renew(self, connection: Connection, *, force: bool = False) -> None:
        if force or self._renewal_due():
            began = monotonic()
            until = datetime.now(UTC) + timedelta(seconds=self._lease_seconds)
            renewed = connection.execute(
                update(Run)
                .where(Run.id == self.id, Run.lease_owner == self.owner, Run.state == RunState.RUNNING)
                .values(lease_until=until)
            )
            if not renewed.rowcount:
                raise RunTakenOver(self.id)
            self._lease_renewed = began
