"""Signing the ledger's present head: asked for, and at the end of every run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from sqlalchemy import Connection, Engine, select

from integrity.audit.checkpoint import EVENT_KIND, Checkpoint
from integrity.audit.keeping import append_kept, require_usable
from integrity.audit.keys import SigningKey, load_signing_key
from integrity.audit.settings import AuditSettings
from integrity.errors import ConfigurationError, LedgerError
from integrity.ledger import audit
from integrity.ledger.database import reading, writing
from integrity.ledger.models import Event
from integrity.ledger.naming import operator_name

NOT_KEPT_KIND: Final = "audit.checkpoint-not-kept"
"""A checkpoint is in the ledger, but could not be written to the file elsewhere."""
NOT_SIGNED_KIND: Final = "audit.not-signed"
"""A run ended, and what should have signed it could not be used."""


@dataclass(frozen=True, slots=True)
class Seal:
    """What signs a ledger's heads, and where the signatures are kept beside the ledger."""

    key: SigningKey
    file: Path | None

    @classmethod
    def of(cls, settings: AuditSettings, engine: Engine) -> Self | None:
        """The seal that *settings* name; None without a key.

        :raises ConfigurationError: key or file cannot be used, or the file is another ledger's.
        """
        key = load_signing_key(settings)
        if key is None:
            if settings.checkpoint_file is not None:
                raise ConfigurationError(
                    "audit.checkpoint_file is set, but no key that signs.",
                    "Set audit.key_file (`greenfly audit keygen FILE` makes a key), or leave the file out.",
                )
            return None
        if settings.checkpoint_file is not None:
            with reading(engine) as connection:
                require_usable(settings.checkpoint_file, ledger_id(connection))
        return cls(key, settings.checkpoint_file)

    def sign_head(self, engine: Engine) -> Checkpoint:
        """Sign the present head, record that in the ledger, and append it to the file.

        :raises ConfigurationError: the ledger has no event yet.
        :raises LedgerError: it cannot be recorded, or not be kept in the file.
        """
        checkpoint = self._record(engine)
        hindrance = self._keep(engine, checkpoint)
        if hindrance is not None:
            raise hindrance
        return checkpoint

    def run_ended(self, engine: Engine) -> None:
        """The same after a run's last event; what hinders only the file is recorded in the ledger and not raised.

        The run has ended as it has, and a full disk elsewhere does not change its outcome.

        :raises LedgerError: the ledger itself failed.
        """
        self._keep(engine, self._record(engine))

    def _record(self, engine: Engine) -> Checkpoint:
        with writing(engine) as connection:
            checkpoint = self._signed(connection)
            audit.append(connection, None, operator_name(), EVENT_KIND, checkpoint.to_dict())
        return checkpoint

    def _keep(self, engine: Engine, checkpoint: Checkpoint) -> LedgerError | None:
        if self.file is None:
            return None
        try:
            append_kept(self.file, checkpoint)
        except LedgerError as error:
            payload = {"sequence": checkpoint.sequence, "file": str(self.file), "why": error.problem}
            with writing(engine) as connection:
                audit.append(connection, None, operator_name(), NOT_KEPT_KIND, payload)
            return error
        return None

    def _signed(self, connection: Connection) -> Checkpoint:
        last = connection.execute(
            select(Event.sequence, Event.hash).order_by(Event.sequence.desc()).limit(1)
        ).one_or_none()
        first = ledger_id(connection)
        if last is None or first is None:
            raise ConfigurationError("The ledger holds no event that could be signed.", "Begin a run first.")
        return Checkpoint.make(self.key, first, last.sequence, last.hash)


def when_run_ends(
    settings: AuditSettings, engine: Engine, *, required: bool
) -> Callable[[Engine], None] | None:
    """What signs the head when a run has ended; None where nothing is to sign.

    :param required: whether a run may not begin that could not be signed.  Where applications have to get back to a
        server that works, a key that is out of reach must not be in the way: then it is recorded instead.
    :raises ConfigurationError: key or file cannot be used, and *required*.
    """
    if not settings.signs and settings.checkpoint_file is None:
        return None
    try:
        seal = Seal.of(settings, engine)
    except ConfigurationError as error:
        if required:
            raise
        why = error.problem

        def tell(engine: Engine) -> None:
            with writing(engine) as connection:
                audit.append(connection, None, operator_name(), NOT_SIGNED_KIND, {"why": why})

        return tell
    return seal.run_ended if seal is not None else None


def ledger_id(connection: Connection) -> str | None:
    """Hash of the ledger's first event; None where it holds none."""
    return connection.execute(select(Event.hash).order_by(Event.sequence).limit(1)).scalar()
