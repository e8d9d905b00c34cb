"""The lines of MONITOR: who ran which command, with which arguments.

A line is ``+1795377089.505182 [0 127.0.0.1:49608] "SET" "k\\x00" "…"``, with the arguments escaped as ``sdscatrepr`` of
Redis does it, so that neither a quote nor an end of line stands in them as itself.  Many lines are cut apart by one
call of the regular expression engine, and only what names keys is unescaped: a value is never looked at.
"""

from __future__ import annotations

import re
from typing import Final

_TEXT: Final = rb'[^"\\\r\n]*+(?:\\[^\r\n][^"\\\r\n]*+)*+'
"""An escaped argument, without its quotes."""
_HEAD: Final = rb'^\+[0-9]+\.[0-9]+ \[[0-9]+ ([^"\r\n]+)\] "([^"\\\r\n]*+)"'
_LINE: Final = re.compile(_HEAD + rb'((?: "(' + _TEXT + rb')"(?: "[^\r\n]*")?)?)\r$', re.MULTILINE)
_BEGINNING: Final = re.compile(_HEAD + rb' "(' + _TEXT + rb')"')
_ARGUMENT: Final = re.compile(rb' "(' + _TEXT + rb')"')
_VALID: Final = re.compile(rb'[^\\]*+(?:\\(?:["\\nrtab]|x[0-9a-fA-F]{2})[^\\]*+)*+')


class MalformedLine(ValueError):
    """A line that is not what a server's MONITOR writes."""


Line = tuple[bytes, bytes, bytes, bytes]
"""The client's address (``lua`` for what a script ran), the command, all its arguments, the first of them; escaped."""


def cut(block: bytes) -> list[Line]:
    """The lines of *block*, which ends with one.

    :raises MalformedLine: not every line of it is one of MONITOR's.
    """
    lines: list[Line] = _LINE.findall(block)
    if len(lines) != block.count(b"\n"):
        raise MalformedLine
    return lines


def beginning(part: bytes) -> tuple[bytes, bytes, bytes] | None:
    """Client, command and first argument of a line of which only the beginning is known; None where they are not."""
    match = _BEGINNING.match(part)
    return None if match is None else (match[1], match[2], match[3])


def arguments(text: bytes, most: int | None = None) -> list[bytes]:
    """The arguments of a line, still escaped; no more than *most* of them.

    :raises MalformedLine: they do not follow each other as they should.
    """
    found: list[bytes] = []
    at = 0
    while at < len(text) and (most is None or len(found) < most):
        match = _ARGUMENT.match(text, at)
        if match is None:
            raise MalformedLine
        found.append(match[1])
        at = match.end()
    return found


def unescape(text: bytes) -> bytes:
    """The bytes that an escaped argument stands for.

    :raises MalformedLine: an escape that no server writes.
    """
    if b"\\" not in text:
        return text
    if _VALID.fullmatch(text) is None:
        raise MalformedLine
    # Python's own escapes mean the same for all that are valid here, and are undone without a loop of ours.
    return text.decode("unicode_escape").encode("latin-1")
