"""Asking Sentinels where the master is, at every connect."""

from __future__ import annotations

from dataclasses import replace

from integrity.cluster.nodes import Place, node_target, seeds
from integrity.errors import AuthenticationFailed, ConfigurationError, ServerError, ServerNotReady
from integrity.replies import ErrorReply, Reply
from integrity.wire import Connection, Target, pack

_NAME = "greenfly:sentinel"


def connect_master(target: Target, *, name: str, database: int = 0) -> Connection:
    """A connection to the server that the Sentinels name, and that says itself that it is a master.

    :raises ConfigurationError: a Sentinel answers, and none knows a master of that name.
    :raises ServerNotReady: what they name is a replica, as it is for a moment during a failover.
    :raises ServerError: no Sentinel can be reached, or the master cannot.
    """
    connection = Connection(node_target(target, find_master(target)), name=name, database=database)
    try:
        role = connection.exchange([pack(b"ROLE")])[0]
        if isinstance(role, list) and role and role[0] != b"master":
            raise ServerNotReady(
                connection.role,
                connection.where,
                f"is no master, and the Sentinels of {target.address} name it as one.",
                "Wait until the failover has ended.",
            )
    except BaseException:
        connection.close()
        raise
    return connection


def find_master(target: Target) -> Place:
    """Where the master is, by the first Sentinel that knows.

    :raises ConfigurationError: a Sentinel answers, and none knows a master of that name.
    :raises ServerError: no Sentinel can be reached.
    """
    failed: ServerError | None = None
    answered = False
    question = pack(b"SENTINEL", b"GET-MASTER-ADDR-BY-NAME", target.address.service.encode())
    for place in seeds(target):
        try:
            reply = ask_sentinel(target, place, question)
        except ServerError as error:
            failed = error
            continue
        answered = True
        if isinstance(reply, list) and len(reply) == 2:
            host, port = reply
            if isinstance(host, bytes) and isinstance(port, bytes) and port.isdigit():
                return Place(host.decode("utf-8", "replace"), int(port))
    if failed is not None and not answered:
        raise failed
    raise ConfigurationError(
        f"{target.role.capitalize()} {target.address}: no Sentinel knows a master named {target.address.service!r}.",
        "See SENTINEL masters.",
    )


def ask_sentinel(target: Target, place: Place, question: bytes) -> Reply:
    """One Sentinel's answer.  Sentinels mostly ask for no password; one that does is given the master's.

    :raises ServerError: it cannot be reached, or refuses.
    """
    with_password = node_target(target, place)
    try:
        connection = Connection(replace(with_password, username=None, password=None), name=_NAME)
    except AuthenticationFailed:
        connection = Connection(with_password, name=_NAME)
    with connection:
        reply = connection.exchange([question])[0]
        if isinstance(reply, ErrorReply):
            raise connection.error_for(reply, "SENTINEL")
    return reply
