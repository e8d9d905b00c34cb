"""Who is connected to a server: the applications, without Greenfly itself and without replication."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from integrity.endpoint import Endpoint, read_info
from integrity.errors import ProtocolError
from integrity.info import engine_of
from integrity.replies import ErrorReply, Reply
from integrity.wire import Connection, pack

OWN_PREFIX: Final = "greenfly:"
"""How the names of Greenfly's own connections begin."""


class Software(Protocol):
    """What runs on a server; an :class:`~integrity.endpoint.Identity` tells it too."""

    @property
    def engine(self) -> str:
        """``redis``, ``valkey`` or ``dragonfly``."""

    @property
    def version(self) -> str:
        """``7.0.15``."""


@dataclass(frozen=True, slots=True)
class NodeSoftware:
    """What runs on one node."""

    engine: str
    version: str


def software_of(node: Endpoint) -> NodeSoftware:
    """Ask one node.

    :raises ServerError: it cannot be reached, or refuses.
    """
    with node.connect("check") as connection:
        return NodeSoftware(*engine_of(read_info(connection, b"server")))


@dataclass(frozen=True, slots=True)
class ClientInfo:
    """One connection of an application, at one moment."""

    id: int
    host: str
    """The address it came from, without the port; the socket's path for a unix socket."""
    name: str
    """What it calls itself; often empty."""
    user: str | None
    """The ACL user; None where the server does not tell (Dragonfly, and Redis before 6.0)."""
    age: int
    """Seconds since it connected."""
    idle: int
    """Seconds since its last command."""
    last_command: str | None
    """In lower case, such as ``set`` or ``config|get``; None where the server does not tell (Dragonfly)."""
    flags: str
    """As the server writes them; their letters differ between engines."""
    database: int
    entrance: str
    """Where the server took it in: its port, ``unix`` for a unix socket, empty before Redis 6.2."""

    @property
    def blocked(self) -> bool:
        """Whether it waits in a command such as BLPOP (on Redis also one that CLIENT PAUSE delays)."""
        return "b" in self.flags

    @property
    def in_transaction(self) -> bool:
        """Whether it has begun a MULTI; Dragonfly does not tell."""
        return "x" in self.flags


def application_clients(connection: Connection, identity: Software) -> list[ClientInfo]:
    """Every connection but Greenfly's own, replicas, and the link to a master.

    :raises PermissionRefused: the user may not list clients.
    :raises ServerError: the server cannot be reached, or its answer is not understood.
    """
    dragonfly = identity.engine == "dragonfly"
    return [_client(connection, fields) for fields in _list(connection) if not _apart(fields, dragonfly)]


def own_entrance(connection: Connection) -> str:
    """The :attr:`~ClientInfo.entrance` of this connection itself.

    :raises ServerError: the server does not tell.
    """
    own = b"%d" % _number(connection, connection.command(b"CLIENT", b"ID"))
    for fields in _list(connection):
        if fields.get("id") == own.decode():
            return _entrance(fields)
    raise _strange(connection)


def kill(connection: Connection, clients: Sequence[ClientInfo]) -> int:
    """Close these connections, and return how many were still there.

    Those at Dragonfly's administration port cannot be closed from another port, and are passed over.

    :raises PermissionRefused: the user may not.
    :raises ServerError: the server cannot be reached.
    """
    killed = 0
    for reply in connection.exchange([pack(b"CLIENT", b"KILL", b"ID", b"%d" % c.id) for c in clients]):
        if isinstance(reply, ErrorReply) and "unable to kill" not in str(reply):
            raise connection.error_for(reply, "CLIENT KILL")
        killed += reply if isinstance(reply, int) else 0
    return killed


def _list(connection: Connection) -> list[dict[str, str]]:
    reply = connection.command(b"CLIENT", b"LIST")
    if not isinstance(reply, bytes):
        raise _strange(connection)
    return [_fields(line) for line in reply.decode("utf-8", "replace").splitlines() if line.strip()]


def _number(connection: Connection, reply: Reply) -> int:
    if not isinstance(reply, int):
        raise _strange(connection)
    return reply


def _entrance(fields: dict[str, str]) -> str:
    """Redis names a unix socket's path with the port 0, Dragonfly only says that it is one."""
    local = fields.get("laddr", "")
    port = local.rpartition(":")[2]
    return "unix" if port == "0" or local.startswith("unix") else port


def _host(fields: dict[str, str]) -> str:
    host, colon, _port = fields["addr"].rpartition(":")
    return host.strip("[]") if colon else fields["addr"]


def _fields(line: str) -> dict[str, str]:
    return {name: value for name, _, value in (part.partition("=") for part in line.split(" "))}


def _apart(fields: dict[str, str], dragonfly: bool) -> bool:
    """Whether it is no application: Greenfly, a replica, a master, or somebody who reads Dragonfly's web page."""
    if fields.get("name", "").startswith(OWN_PREFIX):
        return True
    if dragonfly:
        return "repl-phase" in fields or fields.get("http") == "true" or "M" in fields.get("flags", "")
    return bool({"S", "M"} & set(fields.get("flags", ""))) and "O" not in fields.get("flags", "")


def _client(connection: Connection, fields: dict[str, str]) -> ClientInfo:
    # Dragonfly calls a connection without a name by its number.
    name = fields.get("name", "")
    try:
        return ClientInfo(
            id=int(fields["id"]),
            host=_host(fields),
            name="" if name == fields["id"] else name,
            user=fields.get("user"),
            age=int(fields.get("age", "0")),
            idle=int(fields.get("idle", "0")),
            last_command=fields.get("cmd"),
            flags=fields.get("flags", ""),
            database=int(fields.get("db", "0")),
            entrance=_entrance(fields),
        )
    except (KeyError, ValueError) as error:
        raise _strange(connection) from error


def _strange(connection: Connection) -> ProtocolError:
    return ProtocolError(
        connection.role,
        connection.where,
        "the answer to CLIENT LIST is not understood.",
        "Check that this is a Redis-compatible server.",
    )
