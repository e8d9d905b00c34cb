"""Absolute expiries, in milliseconds since 1970, from servers that tell them and from those that do not.

Redis before 7.0 has no PEXPIRETIME.  There the remaining time (PTTL) is added to the server's own clock (TIME, asked
in the same write), so the result is off by as long as the server needs for the commands between the two.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeAlias

from integrity.errors import Refused
from integrity.replies import ErrorReply, Reply
from integrity.wire import every

Commands: TypeAlias = tuple[bytes, int]
"""Packed commands and how many replies they bring."""

NO_EXPIRY: Final = -1
NO_KEY: Final = -2

TIME_COMMAND: Final = b"*1\r\n$4\r\nTIME\r\n"


def expiry_prefix(*, absolute: bool) -> bytes:
    """The beginning of the packed command that asks for one key's expiry; ``$<length>\\r\\n<key>\\r\\n`` follows."""
    return b"*2\r\n$11\r\nPEXPIRETIME\r\n" if absolute else b"*2\r\n$4\r\nPTTL\r\n"


def clock_ms(reply: Reply) -> int:
    """A TIME reply in milliseconds.

    :raises Refused: it is something else; nearly always the user may not ask for it.
    """
    if isinstance(reply, list) and len(reply) == 2:
        seconds, micros = reply
        if isinstance(seconds, bytes | int) and isinstance(micros, bytes | int):
            return int(seconds) * 1000 + int(micros) // 1000
    said = str(reply) if isinstance(reply, ErrorReply) else "an answer of an unknown shape"
    raise Refused(f"A server does not tell its time ({said}).", "Allow its user to run TIME.")


def expiry_commands(arguments: Sequence[bytes], *, absolute: bool) -> Commands:
    """Packed commands that ask for the expiry of each key, preceded by TIME where they are relative."""
    commands = every(expiry_prefix(absolute=absolute), arguments)
    return (commands, len(arguments)) if absolute else (TIME_COMMAND + commands, len(arguments) + 1)


def take_expiries(replies: Sequence[Reply], *, absolute: bool) -> list[Reply]:
    """The replies to :func:`expiry_commands`, relative ones made absolute."""
    if absolute:
        return list(replies)
    now_ms = clock_ms(replies[0])
    return [reply + now_ms if isinstance(reply, int) and reply >= 0 else reply for reply in replies[1:]]
