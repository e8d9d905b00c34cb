"""One direction: which server is followed, and which one follows."""

from __future__ import annotations

from dataclasses import dataclass, replace

from integrity.endpoint import Endpoint, Identity, read_info
from integrity.errors import Role, ServerRestarted
from integrity.ledger.vocabulary import Direction
from integrity.wire import Connection


@dataclass(frozen=True, slots=True)
class Link:
    """Two servers and a direction."""

    direction: Direction
    source: Endpoint
    """The one whose changes are followed."""
    target: Endpoint
    source_identity: Identity
    target_identity: Identity

    def identified_again(self) -> Link:
        """The same, with who the two servers are now.

        :raises ServerError: one cannot be reached.
        """
        return replace(self, source_identity=self.source.identify(), target_identity=self.target.identify())


def require_not_restarted(connection: Connection, before: Identity) -> None:
    """Refuse to go on with a server that is another process by now: what it holds has to be looked at first.

    :raises ServerRestarted: it has, since *before*.
    """
    now = read_info(connection, b"server").get("run_id")
    if now is None:  # Dragonfly tells it elsewhere.
        now = read_info(connection, b"replication").get("master_replid", "")
    if now != before.run_id:
        raise ServerRestarted(
            connection.role, connection.where, "has restarted since it was last looked at.", "See its log."
        )


def in_role(endpoint: Endpoint, role: Role) -> Endpoint:
    """The same server in another role."""
    return Endpoint(replace(endpoint.target, role=role))
