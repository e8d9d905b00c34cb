"""The ledger itself: opening it, beginning and taking over runs, and what any process may write into it.

Reading is in :mod:`integrity.ledger.queries`, writing one run in :mod:`integrity.ledger.handle`.
"""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy import Engine, insert, select, update

from integrity.audit.settings import AuditSettings
from integrity.checksum import DEFINITION
from integrity.errors import Refused
from integrity.ledger import audit
from integrity.ledger.control import write_control
from integrity.ledger.database import open_engine, repeated, writing
from integrity.ledger.endurance import endurance_of
from integrity.ledger.handle import RunHandle
from integrity.ledger.models import Artifact, Control, Run, RunKind, RunState
from integrity.ledger.naming import new_run_id, operator_name
from integrity.ledger.queries import LedgerReader
from integrity.ledger.schema import require_known
from integrity.ledger.values import CheckpointState, ControlState, NewFinding, NewRepair
from integrity.settings import Settings, public_view
from integrity.version import __version__

__all__ = [
    "CheckpointState",
    "ControlState",
    "Ledger",
    "NewFinding",
    "NewRepair",
    "RunHandle",
    "new_run_id",
    "open_ledger",
]


def open_ledger(settings: Settings) -> Ledger:
    """Open the ledger that *settings* name.

    :raises LedgerError: the state folder or the database cannot be used.
    """
    return Ledger(open_engine(settings), settings.audit)


class Ledger(LedgerReader):
    """The ledger of one state folder or database.

    :param audit_settings: who signs its head when a run has ended.
    """

    def __init__(self, engine: Engine, audit_settings: AuditSettings) -> None:
        super().__init__(engine)
        self._audit_settings = audit_settings
        self._handles: list[RunHandle] = []

    def close(self) -> None:
        """Give back all database connections."""
        for handle in self._handles:
            handle.close()
        self.engine.dispose()

    def start_run(
        self,
        kind: RunKind,
        settings: Settings,
        flow_run_id: str | None = None,
        *,
        parent_id: str | None = None,
    ) -> RunHandle:
        """Record a new run, owned by this process.

        :param parent_id: the run that this one rests on; for a repair, the one that it repairs.
        :raises ConfigurationError: the key that signs its end cannot be used; a rollback begins all the same.
        """
        ended = self._seal(required=kind is not RunKind.ROLLBACK)
        handle = self._handle(RunHandle(self.engine, new_run_id(), settings.lease_seconds, ended=ended))
        self._record_start(handle, kind, settings, flow_run_id, parent_id)
        return handle

    @repeated
    def _record_start(
        self,
        handle: RunHandle,
        kind: RunKind,
        settings: Settings,
        flow_run_id: str | None,
        parent_id: str | None,
    ) -> None:
        now = datetime.now(UTC)
        with writing(self.engine) as connection:
            require_known(connection, self.engine)
            connection.execute(
                insert(Run).values(
                    id=handle.id,
                    kind=kind,
                    state=RunState.RUNNING,
                    label=settings.label,
                    version=__version__,
                    operator=operator_name(),
                    host=socket.gethostname(),
                    checksum_definition=DEFINITION,
                    settings=public_view(settings),
                    flow_run_id=flow_run_id,
                    parent_id=parent_id,
                    started_at=now,
                    lease_owner=handle.owner,
                    lease_until=now + timedelta(seconds=settings.lease_seconds),
                )
            )
            parent = {"repairs" if kind is RunKind.REPAIR else "parent": parent_id} if parent_id else {}
            payload = {"kind": kind.value} | parent
            audit.append(connection, handle.id, operator_name(), "run.started", payload)

    def take_over(self, run_id: str, lease_seconds: float) -> RunHandle:
        """Make this process the owner of a run that broke off, so that it can go on.

        :raises Refused: it has ended by itself, or another process still renews its lease.
        """
        ended = self._seal(required=False)
        handle = self._handle(RunHandle(self.engine, run_id, lease_seconds, ended=ended))
        if not self._record_take_over(handle, lease_seconds):
            endurance_of(self.engine).release(handle.owner)
            run = self.find_run(run_id)
            if run.state is RunState.RUNNING:
                left = max(0.0, (run.lease_until - datetime.now(UTC)).total_seconds())
                raise Refused(
                    f"Run {run_id} still belongs to process {run.lease_owner}.",
                    f"If that process is gone, try again in {left:.0f} s, when its lease ends.",
                )
            raise Refused(f"Run {run_id} has ended ({run.state.value}).", "Start a new one.")
        return handle

    @repeated
    def _record_take_over(self, handle: RunHandle, lease_seconds: float) -> bool:
        now, run_id = datetime.now(UTC), handle.id
        with writing(self.engine) as connection:
            require_known(connection, self.engine)
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
                # Who starts a run again wants it to go on; its caps stay.
                connection.execute(update(Control).where(Control.run_id == run_id).values(paused=False))
                audit.append(connection, run_id, operator_name(), "run.resumed", {"owner": handle.owner})
        return bool(taken.rowcount)

    def _seal(self, *, required: bool) -> Callable[[Engine], None] | None:
        """What signs the head when a run has ended; whether a run begins without it is told by *required*."""
        if not self._audit_settings.signs and self._audit_settings.checkpoint_file is None:
            return None
        from integrity.audit.seal import when_run_ends

        return when_run_ends(self._audit_settings, self.engine, required=required)

    def join(self, run_id: str, owner: str, lease_seconds: float) -> RunHandle:
        """A handle for a worker process of the run's owner, to write checkpoints, findings and measurements with.

        :param owner: the owning handle's :attr:`RunHandle.owner`.
        :raises Refused: the run has ended, or belongs to another owner.
        """
        run = self.find_run(run_id)
        if run.state is not RunState.RUNNING:
            raise Refused(f"Run {run_id} has ended ({run.state.value}).", "Start a new one.")
        if run.lease_owner != owner:
            raise Refused(
                f"Run {run_id} belongs to process {run.lease_owner}.", "Leave it to that one, or resume it."
            )
        return self._handle(RunHandle(self.engine, run.id, lease_seconds, owner))

    def _handle(self, handle: RunHandle) -> RunHandle:
        """Keep it in mind, so that its connection is closed with the ledger."""
        self._handles.append(handle)
        return handle

    @repeated
    def record_event(self, kind: str, payload: Mapping[str, object], run_id: str | None = None) -> None:
        """Append an audit event, of one run or of none."""
        with writing(self.engine) as connection:
            audit.append(connection, run_id, operator_name(), kind, payload)

    @repeated
    def set_control(
        self,
        run_id: str,
        event: str,
        *,
        paused: bool | None = None,
        keys_per_second: int | None = None,
        bytes_per_second: int | None = None,
    ) -> ControlState:
        """Ask something of a live run; what is not given stays as it was.

        :param event: kind of the audit event that records it.
        :param keys_per_second: 0 lifts the cap, also the one that the run's settings hold.
        :raises Refused: the run is not running.
        """
        with writing(self.engine) as connection:
            run = connection.execute(select(Run.state, Run.lease_until).where(Run.id == run_id)).one()
            if run.state is not RunState.RUNNING:
                raise Refused(f"Run {run_id} is not running ({run.state.value}).", "Nothing was changed.")
            if run.lease_until < datetime.now(UTC):
                raise Refused(
                    f"Run {run_id} is not running: its process has stopped renewing its lease.",
                    "Go on with it by --resume.",
                )
            asked = {
                "paused": paused,
                "keys_per_second": keys_per_second,
                "bytes_per_second": bytes_per_second,
            }
            control = write_control(
                connection,
                run_id,
                operator_name(),
                paused=paused,
                keys_per_second=keys_per_second,
                bytes_per_second=bytes_per_second,
            )
            payload = {name: value for name, value in asked.items() if value is not None}
            audit.append(connection, run_id, operator_name(), event, payload)
        return control

    def add_artifact(self, run_id: str, kind: str, path: Path) -> None:
        """Record a file that belongs to a run, with its size and SHA-256."""
        digest, size = hashlib.sha256(), 0
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
                size += len(chunk)
        artifact = {
            "kind": kind,
            "path": str(path.resolve()),
            "size": size,
            "sha256": digest.hexdigest(),
        }
        self._record_artifact(run_id, path.name, artifact)

    @repeated
    def _record_artifact(self, run_id: str, name: str, artifact: Mapping[str, object]) -> None:
        with writing(self.engine) as connection:
            connection.execute(
                insert(Artifact).values(run_id=run_id, created_at=datetime.now(UTC), **artifact)
            )
            payload = {key: value for key, value in artifact.items() if key != "path"} | {"name": name}
            audit.append(connection, run_id, operator_name(), "artifact.written", payload)
