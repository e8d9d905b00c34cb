"""Refusing writes through ``min-replicas-to-write``: for servers whose ACL may not be changed.

It refuses everybody, Greenfly too.  Redis 6.2 lets scripts write all the same; 7.0 and later do not.
"""

from __future__ import annotations

from typing import Final

from integrity.errors import ProtocolError
from integrity.wire import Connection

_COUNT: Final = b"min-replicas-to-write"
_LAG: Final = b"min-replicas-max-lag"
_UNREACHABLE_COUNT: Final = 1_000_000
"""More replicas than any server has; nobody else sets it to this, so it tells a fence from a setting."""
_LAG_SECONDS: Final = 10


def read(connection: Connection) -> tuple[int, int]:
    """``min-replicas-to-write`` and ``min-replicas-max-lag`` (seconds).

    :raises ServerError: the server has no such settings, or does not allow the question.
    """
    return _number(connection, _COUNT), _number(connection, _LAG)


def try_out(connection: Connection) -> None:
    """Set what is set already.

    :raises ServerError: the server does not allow it.
    """
    count, _ = read(connection)
    connection.command(b"CONFIG", b"SET", _COUNT, b"%d" % count)


def refuse(connection: Connection) -> None:
    """Refuse writes from now on.

    :raises ServerError: the server does not allow it.
    """
    if read(connection)[1] == 0:
        connection.command(b"CONFIG", b"SET", _LAG, b"%d" % _LAG_SECONDS)
    connection.command(b"CONFIG", b"SET", _COUNT, b"%d" % _UNREACHABLE_COUNT)


def in_force(connection: Connection) -> bool:
    """Whether writes are refused by :func:`refuse`."""
    count, lag = read(connection)
    return count == _UNREACHABLE_COUNT and lag > 0


def restore(connection: Connection, count: int | None, lag: int | None) -> None:
    """Set what there was before.

    :raises ServerError: the server does not allow it.
    """
    for name, value in ((_COUNT, count), (_LAG, lag)):
        if value is not None:
            connection.command(b"CONFIG", b"SET", name, b"%d" % value)


def _number(connection: Connection, name: bytes) -> int:
    reply = connection.command(b"CONFIG", b"GET", name)
    if isinstance(reply, list) and len(reply) == 2 and isinstance(reply[1], bytes) and reply[1].isdigit():
        return int(reply[1])
    raise ProtocolError(
        connection.role, connection.where, f"has no setting {name.decode()}.", "Use a server that has it."
    )
