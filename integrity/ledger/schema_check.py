"""What is wrong with a ledger: its schema, rows whose owner is gone, its chain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, Engine, Table, func, inspect, select

from integrity.ledger.audit import ChainState, verify_chain
from integrity.ledger.database import SCHEMA_HEAD
from integrity.ledger.schema import live_runs, version_of
from integrity.ledger.tables import METADATA
from integrity.ledger.transactions import reading, shown

_BY_ID_ALONE: Final = {"run": "parent_id", "event": "run_id", "waiver": "run_id"}
"""Columns that hold a run's id without a foreign key: what they tell is to outlive the run."""


@dataclass(frozen=True, slots=True)
class LedgerCheck:
    """What was found."""

    address: str
    """Without a password."""
    version: str | None
    """The schema's revision; None where there is no schema."""
    head: str
    pending: tuple[str, ...]
    """Revisions that are not applied yet, the oldest first."""
    unknown: bool
    """Whether a newer version of Greenfly made the schema; then nothing else was looked at."""
    live_runs: tuple[str, ...]
    deviations: tuple[str, ...] = ()
    """Where the tables are not what their revision says."""
    orphans: tuple[str, ...] = ()
    """Rows that belong to something that is not there, as ``table.column: number``."""
    chain: ChainState | None = None

    @property
    def sound(self) -> bool:
        """Whether nothing is wrong; a migration that is due is nothing wrong."""
        chain_holds = self.chain is None or self.chain.intact
        return not self.unknown and not self.deviations and not self.orphans and chain_holds

    def to_dict(self) -> dict[str, object]:
        """Plain JSON values."""
        return {
            "ledger": self.address,
            "schema": self.version,
            "head": self.head,
            "pending": list(self.pending),
            "unknown": self.unknown,
            "live_runs": list(self.live_runs),
            "deviations": list(self.deviations),
            "orphans": list(self.orphans),
            "chain": None
            if self.chain is None
            else {
                "events": self.chain.events,
                "head": self.chain.head,
                "broken_at": self.chain.broken_at,
                "problem": self.chain.problem,
            },
            "sound": self.sound,
        }


def check_ledger(engine: Engine) -> LedgerCheck:
    """Look at everything in one moment's state; nothing is written.

    :raises LedgerError: the database cannot be read.
    """
    from integrity.ledger.migrate import known_revisions

    known = known_revisions()
    with reading(engine) as connection:
        version = version_of(connection)
        if version is None:
            return LedgerCheck(shown(engine), None, SCHEMA_HEAD, tuple(known), unknown=False, live_runs=())
        if version not in known:
            return LedgerCheck(shown(engine), version, SCHEMA_HEAD, (), unknown=True, live_runs=())
        current = version == SCHEMA_HEAD
        return LedgerCheck(
            shown(engine),
            version,
            SCHEMA_HEAD,
            tuple(known[known.index(version) + 1 :]),
            unknown=False,
            live_runs=tuple(live_runs(connection)),
            # Only the newest schema is described by the models.
            deviations=tuple(_deviations(connection)) if current else (),
            orphans=tuple(_orphans(connection)),
            chain=verify_chain(connection),
        )


def _deviations(connection: Connection) -> list[str]:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    context = MigrationContext.configure(connection, opts={"compare_type": True})
    return [_told(difference) for difference in compare_metadata(context, METADATA)]


def _told(difference: object) -> str:
    """One difference of Alembic's, shortly: what it would do to mend it, and to what."""
    if isinstance(difference, list):
        return "; ".join(_told(each) for each in difference)
    if not isinstance(difference, tuple):
        return str(difference)
    names = [str(getattr(part, "name", part)) for part in difference[1:] if part is not None]
    return f"{difference[0]} {' '.join(names[:4])}"


def _orphans(connection: Connection) -> list[str]:
    present = inspect(connection)
    found = []
    for table in METADATA.sorted_tables:
        if not present.has_table(table.name):
            continue  # An older schema.
        columns = {column["name"] for column in present.get_columns(table.name)}
        for name, parent in _references(table):
            if name not in columns:
                continue
            number = _without_parent(connection, table, name, parent)
            if number:
                found.append(f"{table.name}.{name}: {number}")
    return found


def _references(table: Table) -> list[tuple[str, Table]]:
    references = [(key.parent.name, key.column.table) for key in table.foreign_keys]
    by_id = _BY_ID_ALONE.get(table.name)
    if by_id is not None:
        references.append((by_id, METADATA.tables["run"]))
    return sorted(references, key=lambda reference: reference[0])


def _without_parent(connection: Connection, table: Table, name: str, parent: Table) -> int:
    other = parent.alias()
    exists = select(other.c.id).where(other.c.id == table.c[name]).exists()
    query = select(func.count()).select_from(table).where(table.c[name].is_not(None), ~exists)
    return int(connection.execute(query).scalar_one())
