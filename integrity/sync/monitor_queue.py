"""Room for MONITOR's lines on Dragonfly, which closes the connection without a word where too many wait to be sent.

The limit is ``pipeline_queue_limit``, 10,000 as it is delivered: a burst of pipelined commands reaches that however
fast the lines are read.  It can be changed while the server runs, and holds for MONITORs that are open already.  It is
also the number of commands that any client may have in its pipeline, so whoever raises it puts it back afterwards.  A
second limit, of bytes, stays as it is (``pipeline_buffer_limit``, 128 MB for each thread of the server).
"""

from __future__ import annotations

from typing import Final

from integrity.endpoint import Endpoint

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
