"""Room for MONITOR's lines on Dragonfly, which closes the connection without a word where too many wait to be sent.

The limit is ``pipeline_queue_limit``, 10,000 as it is delivered: a burst of pipelined commands reaches that however
fast the lines are read.  It can be changed while the server runs, and holds for MONITORs that are open already.  It is
also the number of commands that any client may have in its pipeline, so whoever raises it puts it back afterwards.  A
second limit, of bytes, stays as it is (``pipeline_buffer_limit``, 128 MB for each thread of the server).
"""

from __future__ import annotations

from contextlib import suppress
from typing import Final

from integrity.cluster.members import read_members
from integrity.endpoint import Endpoint
from integrity.errors import PermissionRefused, ProtocolError, ServerError

_LIMIT: Final = b"pipeline_queue_limit"
_LINES: Final = 1_000_000


def widen_queue(endpoint: Endpoint) -> int | None:
    """Let more lines wait; returns the limit to put back, or None where there is none or it is high enough.

    :raises ServerError: the server cannot be asked, or CONFIG is not allowed.
    """
    with endpoint.connect("monitor-check") as connection:
        match connection.command(b"CONFIG", b"GET", _LIMIT):
            case [_, bytes() as text] if text.isdigit() and int(text) < _LINES:
                connection.command(b"CONFIG", b"SET", _LIMIT, b"%d" % _LINES)
                return int(text)
    return None


def restore_queue(endpoint: Endpoint, limit: int) -> None:
    """Put the limit back.

    :raises ServerError: the server cannot be reached, or CONFIG is not allowed.
    """
    with endpoint.connect("monitor-check") as connection:
        connection.command(b"CONFIG", b"SET", _LIMIT, b"%d" % limit)


class WidenedQueues:
    """What was raised, on one server or on every node of a cluster, and has to be put back."""

    def __init__(self) -> None:
        self._before: dict[str, int] = {}
        """By where the server listens: whoever puts it back may come as another user."""

    def widen(self, endpoint: Endpoint) -> dict[str, int]:
        """Let more lines wait wherever that is allowed; the limits that were changed now, by server.

        :raises ServerError: a server cannot be asked.
        """
        changed: dict[str, int] = {}
        for place, server in _servers(endpoint):
            with suppress(PermissionRefused, ProtocolError):
                before = widen_queue(server)
                if before is not None:
                    self._before[place] = changed[str(server)] = before
        return changed

    def restore(self, endpoint: Endpoint) -> None:
        """Put the limits back; where a server is gone, its settings are gone with it."""
        if not self._before:
            return
        with suppress(ServerError):
            for place, server in _servers(endpoint):
                before = self._before.pop(place, None)
                if before is not None:
                    with suppress(ServerError):
                        restore_queue(server, before)


def _servers(endpoint: Endpoint) -> list[tuple[str, Endpoint]]:
    """Those whose MONITOR is read, and where they listen.

    :raises ServerError: no node of a cluster answers.
    """
    if not endpoint.is_cluster:
        return [("", endpoint)]
    return [(str(member.place), member.endpoint) for member in read_members(endpoint) if member.is_master]
