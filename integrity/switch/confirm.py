"""Whether applications have moved, by the servers' own client lists and not by what the environment says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic, sleep
from typing import Final

from integrity.cluster.members import Member, on_each, read_members
from integrity.endpoint import Endpoint, Identity
from integrity.errors import ServerError
from integrity.switch.clients import ClientInfo, application_clients, kill

_LOOK_SECONDS: Final = 0.1
_NAMED_SECONDS: Final = 0.1
_STEADY_LOOKS: Final = 3
"""How often in a row the side that was left must be without an application."""


@dataclass(frozen=True, slots=True)
class Moved:
    """Where applications are connected."""

    left: int
    """Connections to the side that they were to leave; −1 where it cannot be asked."""
    arrived: int
    """Connections to the side that they were to go to."""
    stragglers: tuple[str, ...]
    """Hosts of those that stayed, with how many connections each."""

    @property
    def complete(self) -> bool:
        """Whether somebody has come, and nobody stayed."""
        return self.arrived > 0 and self.left <= 0

    def to_dict(self) -> dict[str, object]:
        """Plain JSON values."""
        return {"left": self.left, "arrived": self.arrived, "stragglers": list(self.stragglers)}


def applications(endpoint: Endpoint, identity: Identity) -> list[ClientInfo]:
    """The applications' connections, to whichever node.

    :raises ServerError: a node cannot be asked, and is not known to be dead.
    """
    found: list[ClientInfo] = []

    def look(member: Member) -> None:
        with member.endpoint.connect("clients") as connection:
            found.extend(application_clients(connection, identity))

    on_each(read_members(endpoint), look)
    return found


def close_applications(endpoint: Endpoint, identity: Identity) -> int:
    """Close every application's connection, so that whoever was connected reads its environment again.

    :raises ServerError: a node cannot be asked, and is not known to be dead.
    """
    seen: dict[str, set[int]] = {}
    closed: list[int] = []
    members = read_members(endpoint)

    def look(member: Member) -> None:
        with member.endpoint.connect("clients") as connection:
            seen[member.name] = {client.id for client in application_clients(connection, identity)}

    def close(member: Member) -> None:
        with member.endpoint.connect("clients") as connection:
            there = application_clients(connection, identity)
            closed.append(kill(connection, [client for client in there if client.id in seen[member.name]]))

    dead = on_each(members, look)
    # One of Greenfly's own says its name right after it was opened, and is none the second time.
    sleep(_NAMED_SECONDS)
    on_each([member for member in members if member not in dead], close)
    return sum(closed)


def wait_until_moved(
    left: tuple[Endpoint, Identity | None],
    arrived: tuple[Endpoint, Identity],
    until: float,
    wait: Callable[[float], None],
) -> Moved:
    """Look at both client lists until everybody has moved, or the time (monotonic) is over.

    :param left: the side that applications were to leave; no identity where it is dead and is not asked.
    :raises ServerError: the side they were to go to cannot be asked.
    """
    steady = 0
    while True:
        moved = _look(left, arrived)
        steady = steady + 1 if moved.complete else 0
        if steady >= _STEADY_LOOKS or monotonic() >= until:
            return moved
        wait(_LOOK_SECONDS)


def _look(left: tuple[Endpoint, Identity | None], arrived: tuple[Endpoint, Identity]) -> Moved:
    there = applications(*arrived)
    endpoint, identity = left
    stayed: list[ClientInfo] = []
    count = -1
    if identity is not None:
        try:
            stayed = applications(endpoint, identity)
            count = len(stayed)
        except ServerError:
            count = -1  # It went away; nobody can be connected to it.
    hosts = Counter(client.host for client in stayed)
    return Moved(count, len(there), tuple(f"{host} ({n})" for host, n in hosts.most_common(10)))
