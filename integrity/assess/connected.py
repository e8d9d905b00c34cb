"""Who is connected to a server, as far as an assessment is interested: all but Greenfly itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from integrity.endpoint import Endpoint
from integrity.errors import ProtocolError
from integrity.replies import Reply
from integrity.switch.clients import OWN_PREFIX


@dataclass(frozen=True, slots=True)
class Client:
    """One line of CLIENT LIST."""

    name: str
    flags: str
    """As Redis writes them: ``P`` subscribed, ``t`` and ``B`` tracking, ``b`` blocked, ``S`` replica, ``O`` monitor."""
    database: int
    last_command: str
    """Lower case, as ``set`` or ``client|list``; empty where the server does not tell."""
    user: str
    """Empty where the server does not tell."""
    fields: Mapping[str, str]
    """All that the server tells."""

    @property
    def is_replication(self) -> bool:
        """Whether it is a replica, or the link to a master."""
        return bool({"S", "M"} & set(self.flags)) and "O" not in self.flags

    @property
    def library(self) -> str:
        """Client library and version, where the client told (Redis ≥ 7.2, Dragonfly)."""
        return " ".join(filter(None, (self.fields.get("lib-name", ""), self.fields.get("lib-ver", ""))))

    def number(self, name: str) -> int:
        """A field that is a number; 0 where the server does not tell."""
        text = self.fields.get(name, "")
        return int(text) if text.lstrip("-").isdecimal() else 0


def connected_clients(endpoint: Endpoint) -> list[Client]:
    """Every connection that is not Greenfly's own.

    :raises PermissionRefused: the user may not list clients.
    :raises ServerError: the server cannot be reached, or its answer is not understood.
    """
    with endpoint.connect("assess") as connection:
        return clients_of(endpoint, connection.command(b"CLIENT", b"LIST"))


def clients_of(endpoint: Endpoint, reply: Reply) -> list[Client]:
    """The same of what a server answered to CLIENT LIST.

    :raises ProtocolError: it is not understood.
    """
    if not isinstance(reply, bytes):
        raise ProtocolError(
            endpoint.role, str(endpoint), "CLIENT LIST is no text.", "Check that this is a Redis server."
        )
    clients = [_client(line) for line in reply.decode("utf-8", "replace").splitlines() if line.strip()]
    return [client for client in clients if not client.name.startswith(OWN_PREFIX)]


def applications(clients: Iterable[Client]) -> list[Client]:
    """Those that are neither replicas nor the link to a master."""
    return [client for client in clients if not client.is_replication]


def _client(line: str) -> Client:
    fields = {name: value for name, _, value in (part.partition("=") for part in line.split(" "))}
    # Dragonfly calls a connection without a name by its number.
    name = fields.get("name", "")
    database = fields.get("db", "0")
    return Client(
        name="" if name == fields.get("id") else name,
        flags=fields.get("flags", ""),
        database=int(database) if database.isdecimal() else 0,
        last_command=fields.get("cmd", "").lower(),
        user=fields.get("user", ""),
        fields=fields,
    )
