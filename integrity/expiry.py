"""Absolute expiries, in milliseconds since 1970, from servers that tell them and from those that do not.

Redis before 7.0 has no PEXPIRETIME.  There the remaining time (PTTL) is added to the server's own clock (TIME, asked
in the same write), so the result is off by as long as the server needs for the commands between the two.
"""

from __future__ import annotations

from typing import Final

from integrity.wire import Reply

NO_EXPIRY: Final = -1
NO_KEY: Final = -2

TIME_COMMAND: Final = b"*1\r\n$4\r\nTIME\r\n"


def expiry_prefix(*, absolute: bool) -> bytes:
    """The beginning of the packed command that asks for one key's expiry; ``$<length>\\r\\n<key>\\r\\n`` follows."""
    return b"*2\r\n$11\r\nPEXPIRETIME\r\n" if absolute else b"*2\r\n$4\r\nPTTL\r\n"


def clock_ms(reply: Reply) -> int:
    """A TIME reply in milliseconds.

    :raises ValueError: it is something else.
    """
    if isinstance(reply, list) and len(reply) == 2:
        seconds, micros = reply
        if isinstance(seconds, bytes) and isinstance(micros, bytes):
            return int(seconds) * 1000 + int(micros) // 1000
    raise ValueError("TIME answered in an unknown shape")


def absolute_expiry(reply: Reply, now_ms: int) -> int | None:
    """The expiry in a PEXPIRETIME reply (*now_ms* = 0) or a PTTL reply; None where it is no number."""
    if not isinstance(reply, int):
        return None
    return reply + now_ms if reply >= 0 else reply
