"""Both servers of a run, as its check phase saw them."""

from __future__ import annotations

from dataclasses import dataclass

from integrity.endpoint import Endpoint, Identity


@dataclass(frozen=True, slots=True)
class Servers:
    """Both servers as the check phase saw them."""

    source: Endpoint
    target: Endpoint
    source_identity: Identity
    target_identity: Identity
    databases: tuple[int, ...]
    """The databases of the source that this run is about, ascending."""
    target_databases: tuple[int, ...]
    """The databases of the target that are searched for keys that should not be there."""

    @property
    def source_keys(self) -> int:
        """Keys in the databases of the run, expired ones that linger included."""
        return sum(self.source_identity.databases.get(database, 0) for database in self.databases)

    @property
    def target_keys(self) -> int:
        """Keys in the searched databases of the target."""
        return sum(self.target_identity.databases.get(database, 0) for database in self.target_databases)
