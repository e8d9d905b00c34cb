"""Reading and writing the ledger.  Transactions are short and never held across a network copy."""

from __future__ import annotations

import getpass
import hashlib
import os
import secrets
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import monotonic

from sqlalchemy import Connection, Engine, Table, bindparam, delete, func, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session
from xxhash import xxh3_128_digest

from integrity.checksum import DEFINITION
from integrity.errors import ConfigurationError, LedgerError, Refused
from integrity.ledger import audit
from integrity.ledger.database import guarded, open_engine, reading, single_statements, writing
from integrity.ledger.models import (
    Artifact,
    Base,
    Checkpoint,
    Event,
    Finding,
    FindingClass,
    FindingState,
    Measurement,
    Phase,
    PhaseName,
    PhaseState,
    Run,
    RunKind,
    RunState,
    Tally,
    Verdict,
)
from integrity.settings import Settings, public_view
from integrity.version import __version__


@dataclass(frozen=True, slots=True)
class NewFinding:
    """A finding as the engine hands it over; see :class:`~integrity.ledger.models.Finding` for units."""

    finding_class: FindingClass
    database: int
    key: bytes
    source_kind: str | None = None
    target_kind: str | None = None
    source_digest: bytes | None = None
    target_digest: bytes | None = None
    source_expiry_ms: int | None = None
    target_expiry_ms: int | None = None
    source_size: int | None = None
    target_size: int | None = None
    detail: str = ""
    state: FindingState = FindingState.OPEN


@dataclass(frozen=True, slots=True)
class CheckpointState:
    """How far one range is."""

    database: int
    cursor: int
    batches: int
    keys: int
    bytes: int
    done: bool
    range_index: int = 0
    range_count: int = 1


# Made once: building a statement costs more than running it, and this one runs after every batch.
_MOVE_CHECKPOINT = (
    update(Checkpoint)
    .where(Checkpoint.id == bindparam("row"))
    .values(
        {
            name: bindparam(name)
            for name in ("cursor", "batches", "keys", "bytes", "done", "source_run_id", "updated_at")
        }
    )
)


def new_run_id() -> str:
    """``20261123-004829-3f9a1c``: sorts by time, readable aloud."""
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"


def operator_name() -> str:
    """Who runs this process, as the operating system knows them."""
    try:
        return os.environ.get("GREENFLY_OPERATOR") or getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"


def process_name() -> str:
    """``host:pid``, the owner of a lease."""
    return f"{socket.gethostname()}:{os.getpid()}"


def open_ledger(settings: Settings) -> Ledger:
    """Open the ledger that *settings* name.

    :raises LedgerError: the state folder or the database cannot be used.
    """
    return Ledger(open_engine(settings))


class Ledger:
    """The ledger of one state folder or database."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def close(self) -> None:
        """Give back all database connections."""
        self.engine.dispose()

    def start_run(self, kind: RunKind, settings: Settings, flow_run_id: str | None = None) -> RunHandle:
        """Record a new run, owned by this process."""
        now, run_id = datetime.now(UTC), new_run_id()
        handle = RunHandle(self.engine, run_id, settings.lease_seconds)
        with writing(self.engine) as connection:
            connection.execute(
                insert(Run).values(
                    id=run_id,
                    kind=kind,
                    state=RunState.RUNNING,
                    label=settings.label,
                    version=__version__,
                    operator=operator_name(),
                    host=socket.gethostname(),
                    checksum_definition=DEFINITION,
                    settings=public_view(settings),
                    flow_run_id=flow_run_id,
                    started_at=now,
                    lease_owner=handle.owner,
                    lease_until=now + timedelta(seconds=settings.lease_seconds),
                )
            )
            audit.append(connection, run_id, operator_name(), "run.started", {"kind": kind.value})
        return handle

    def take_over(self, run_id: str, lease_seconds: float) -> RunHandle:
        """Make this process the owner of a run that broke off, so that it can go on.

        :raises Refused: it has ended by itself, or another process still renews its lease.
        """
        now, handle = datetime.now(UTC), RunHandle(self.engine, run_id, lease_seconds)
        with writing(self.engine) as connection:
            taken = connection.execute(
                update(Run)
                .where(
                    Run.id == run_id,
                    Run.state.in_([RunState.FAILED, RunState.INTERRUPTED])
                    | ((Run.state == RunState.RUNNING) & (Run.lease_until < now)),
                )
                .values(
                    state=RunState.RUNNING,
                    verdict=None,
                    reason=None,
                    error_kind=None,
                    error=None,
                    ended_at=None,
                    lease_owner=handle.owner,
                    lease_until=now + timedelta(seconds=lease_seconds),
                )
            )
            if taken.rowcount:
                audit.append(connection, run_id, operator_name(), "run.resumed", {"owner": handle.owner})
        if not taken.rowcount:
            run = self.find_run(run_id)
            if run.state is RunState.RUNNING:
                left = max(0.0, (run.lease_until - now).total_seconds())
                raise Refused(
                    f"Run {run_id} still belongs to process {run.lease_owner}.",
                    f"If that process is gone, try again in {left:.0f} s, when its lease ends.",
                )
            raise Refused(f"Run {run_id} has ended ({run.state.value}).", "Start a new one.")
        return handle

    # -- reading ------------------------------------------------------------------------------------------------

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

    def broken_runs(self, target_address: str) -> list[str]:
        """Ids of the runs into this target that did not finish and that no process owns."""
        query = select(Run.id).where(
            Run.kind == RunKind.MIGRATE,
            Run.target_address == target_address,
            Run.state != RunState.FINISHED,
            Run.lease_until < datetime.now(UTC),
        )
        with reading(self.engine) as connection:
            return list(connection.scalars(query))

    def unfinished_copy(self, source_address: str, target_address: str) -> Run | None:
        """The newest run between these two addresses that began to copy, if it did not finish."""
        runs = self._all(
            select(Run)
            .where(
                Run.kind == RunKind.MIGRATE,
                Run.source_address == source_address,
                Run.target_address == target_address,
                Run.id.in_(select(Phase.run_id).where(Phase.name == PhaseName.STREAM)),
            )
            .order_by(Run.started_at.desc())
            .limit(1)
        )
        return runs[0] if runs and runs[0].state is not RunState.FINISHED else None

    def chain_state(self) -> audit.ChainState:
        """Walk the audit chain."""
        with reading(self.engine) as connection:
            return audit.verify_chain(connection)

    def add_artifact(self, run_id: str, kind: str, path: Path) -> None:
        """Record a file that belongs to a run, with its size and SHA-256."""
        digest, size = hashlib.sha256(), 0
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
                size += len(chunk)
        with writing(self.engine) as connection:
            connection.execute(
                insert(Artifact).values(
                    run_id=run_id,
                    kind=kind,
                    path=str(path.resolve()),
                    size=size,
                    sha256=digest.hexdigest(),
                    created_at=datetime.now(UTC),
                )
            )
            audit.append(
                connection,
                run_id,
                operator_name(),
                "artifact.written",
                {"kind": kind, "name": path.name, "size": size, "sha256": digest.hexdigest()},
            )

    def _all(self, query: object) -> list:  # type: ignore[type-arg]
        with reading(self.engine) as connection, Session(connection, expire_on_commit=False) as session:
            rows = list(session.scalars(query))  # type: ignore[call-overload]
            session.expunge_all()
            return rows


class RunHandle:
    """The writing side of one run, for the process that owns it."""

    def __init__(self, engine: Engine, run_id: str, lease_seconds: float) -> None:
        self.engine = engine
        self.id = run_id
        self.owner = f"{process_name()}:{secrets.token_hex(4)}"
        """Process ids come again; the token makes the owner of the lease unmistakable."""
        self._lease_seconds = lease_seconds
        self._lease_renewed = monotonic()
        self._checkpoints: dict[tuple[PhaseName, int, int], int] = {}
        self._moving: Connection | None = None

    def event(self, kind: str, payload: Mapping[str, object]) -> None:
        """Append an audit event."""
        with writing(self.engine) as connection:
            audit.append(connection, self.id, operator_name(), kind, payload)

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
        values = {
            "cursor": str(state.cursor),
            "batches": state.batches,
            "keys": state.keys,
            "bytes": state.bytes,
            "done": state.done,
            "source_run_id": source_run_id,
            "updated_at": datetime.now(UTC),
        }
        place = (phase, state.database, state.range_index)
        row = self._checkpoints.get(place)
        if row is not None:
            with guarded(self.engine):
                if self._moving is None:
                    self._moving = single_statements(self.engine)
                self._moving.execute(_MOVE_CHECKPOINT, values | {"row": row})
            if self._renewal_due():
                with writing(self.engine) as connection:
                    self._renew(connection)
            return
        with writing(self.engine) as connection:
            row = self._find_checkpoint(connection, place)
            if row is not None:
                connection.execute(_MOVE_CHECKPOINT, values | {"row": row})
                return
            inserted = connection.execute(
                insert(Checkpoint).values(
                    run_id=self.id,
                    phase=phase,
                    database=state.database,
                    range_index=state.range_index,
                    range_count=state.range_count,
                    **values,
                )
            )
            key = inserted.inserted_primary_key
            if key is None:
                raise LedgerError(
                    "The ledger's database did not number a new row.", "Use SQLite or PostgreSQL."
                )
            self._checkpoints[place] = key[0]

    def _find_checkpoint(self, connection: Connection, place: tuple[PhaseName, int, int]) -> int | None:
        """The row that an earlier owner of this run left."""
        phase, database, range_index = place
        row = connection.execute(
            select(Checkpoint.id).where(
                Checkpoint.run_id == self.id,
                Checkpoint.phase == phase,
                Checkpoint.database == database,
                Checkpoint.range_index == range_index,
            )
        ).scalar_one_or_none()
        if row is not None:
            self._checkpoints[place] = row
        return row

    def measure(self, phase: PhaseName, keys: int, size: int) -> None:
        """Record progress at this moment."""
        with writing(self.engine) as connection:
            connection.execute(
                insert(Measurement).values(
                    run_id=self.id, phase=phase, at=datetime.now(UTC), keys=keys, bytes=size
                )
            )
            self._renew(connection)

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

    def add_findings(self, phase: PhaseName, findings: Sequence[NewFinding]) -> None:
        """Record findings; one that is there already is seen once more, with its newest facts."""
        if not findings:
            return
        now = datetime.now(UTC)
        rows = [
            {
                "run_id": self.id,
                "phase": phase,
                "finding_class": f.finding_class,
                "state": f.state,
                "database": f.database,
                "key": f.key,
                "key_digest": xxh3_128_digest(f.key),
                "source_kind": f.source_kind,
                "target_kind": f.target_kind,
                "source_digest": f.source_digest,
                "target_digest": f.target_digest,
                "source_expiry_ms": f.source_expiry_ms,
                "target_expiry_ms": f.target_expiry_ms,
                "source_size": f.source_size,
                "target_size": f.target_size,
                "detail": f.detail,
                "first_seen_at": now,
                "last_seen_at": now,
                "times_seen": 1,
            }
            for f in findings
        ]
        table = Base.metadata.tables[Finding.__tablename__]
        with writing(self.engine) as connection:
            statement = _upsert(connection, table)
            connection.execute(statement, rows)

    def settle_findings(self, finding_ids: Sequence[int]) -> None:
        """Mark findings that a later look found equal."""
        if finding_ids:
            with writing(self.engine) as connection:
                connection.execute(
                    update(Finding)
                    .where(Finding.id.in_(finding_ids))
                    .values(state=FindingState.SETTLED, last_seen_at=datetime.now(UTC))
                )

    def finish(
        self,
        state: RunState,
        *,
        verdict: Verdict | None,
        reason: str | None,
        error_kind: str | None = None,
        error: str | None = None,
    ) -> None:
        """Record the end of the run."""
        if self._moving is not None:
            self._moving.close()
            self._moving = None
        now = datetime.now(UTC)
        with writing(self.engine) as connection:
            connection.execute(
                update(Run)
                .where(Run.id == self.id)
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

    def _renewal_due(self) -> bool:
        return monotonic() - self._lease_renewed > self._lease_seconds / 4

    def _renew(self, connection: Connection, *, force: bool = False) -> None:
        if force or self._renewal_due():
            self._lease_renewed = monotonic()
            until = datetime.now(UTC) + timedelta(seconds=self._lease_seconds)
            renewed = connection.execute(
                update(Run)
                .where(Run.id == self.id, Run.lease_owner == self.owner, Run.state == RunState.RUNNING)
                .values(lease_until=until)
            )
            if not renewed.rowcount:
                raise LedgerError(
                    f"This process no longer owns run {self.id}.",
                    "Another process took it over; leave it to that one.",
                )


def _upsert(connection: Connection, table: Table) -> sqlite.Insert | postgresql.Insert:
    dialect = connection.dialect.name
    statement: sqlite.Insert | postgresql.Insert = (
        postgresql.insert(table) if dialect == "postgresql" else sqlite.insert(table)
    )
    refreshed = (
        "state",
        "source_kind",
        "target_kind",
        "source_digest",
        "target_digest",
        "source_expiry_ms",
        "target_expiry_ms",
        "source_size",
        "target_size",
        "detail",
        "last_seen_at",
    )
    return statement.on_conflict_do_update(
        index_elements=["run_id", "database", "key_digest", "finding_class"],
        set_={name: statement.excluded[name] for name in refreshed} | {"times_seen": table.c.times_seen + 1},
    )
