"""One direction: which server is followed, and which one follows."""

from __future__ import annotations

from dataclasses import dataclass, replace

from integrity.endpoint import Endpoint, Identity
from integrity.errors import Role
from integrity.ledger.vocabulary import Direction


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


def in_role(endpoint: Endpoint, role: Role) -> Endpoint:
    """The same server in another role."""
    return Endpoint(replace(endpoint.target, role=role))
