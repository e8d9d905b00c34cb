"""How rules are written as text: patterns and prefixes with ``\\xNN`` for any byte, sizes with units, ``a=b`` pairs.

Text becomes UTF-8.  Nothing here repeats what it was given: the caller names the setting, and a value put in the wrong
place may be a secret.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

from integrity.glob import LITERAL, PatternError, translate

MAX_PATTERN_LENGTH: Final = 1000
"""Characters; newer servers give up on a pattern with more stars."""
_BACKSLASH: Final = 0x5C
_HEX: Final = re.compile(rb"[0-9A-Fa-f]{2}")
_SIZE: Final = re.compile(r"(\d{1,18})(?:\.(\d{1,6}))?\s*([A-Za-z]*)", re.ASCII)
_UNITS: Final = {
    "": 1,
    "b": 1,
    **{f"{letter}b": 1000 ** (n + 1) for n, letter in enumerate("kmgt")},
    **{f"{letter}ib": 1024 ** (n + 1) for n, letter in enumerate("kmgt")},
}
_NUMBER: Final = re.compile(r"-?\d{1,10}", re.ASCII)


def _encoded(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:  # A terminal was given bytes that are no text.
        raise PatternError(r"bytes that are no text are written as \xNN") from None


def _byte(data: bytes, at: int) -> int:
    digits = _HEX.match(data, at)
    if digits is None:
        raise PatternError(r"\x needs two hexadecimal digits, as in \x00")
    return int(digits[0], 16)


def read_pattern(text: str) -> list[int]:
    r"""The glob that *text* writes; a ``\xNN`` in it is that byte and never a wildcard.

    :return: bytes, with :data:`~integrity.glob.LITERAL` added to those that mean themselves.
    :raises PatternError: it is empty or too long, holds a ``\x`` without digits, or a range that servers read
        differently.
    """
    if not text:
        raise PatternError("a pattern must not be empty")
    if len(text) > MAX_PATTERN_LENGTH:
        raise PatternError(f"a pattern holds at most {MAX_PATTERN_LENGTH} characters")
    data = _encoded(text)
    pattern: list[int] = []
    at = 0
    while at < len(data):
        if data[at] == _BACKSLASH and data[at + 1 : at + 2] == b"x":
            pattern.append(LITERAL | _byte(data, at + 2))
            at += 4
            continue
        taken = 2 if data[at] == _BACKSLASH else 1
        pattern += data[at : at + taken]
        at += taken
    translate(pattern)
    return pattern


def read_prefix(text: str) -> bytes:
    r"""The bytes that *text* writes; ``\xNN`` is that byte, ``\\`` one backslash.

    :raises PatternError: a backslash before anything else.
    """
    data = _encoded(text)
    prefix = bytearray()
    at = 0
    while at < len(data):
        if data[at] != _BACKSLASH:
            prefix.append(data[at])
            at += 1
        elif data[at + 1 : at + 2] == b"x":
            prefix.append(_byte(data, at + 2))
            at += 4
        elif data[at + 1 : at + 2] == b"\\":
            prefix.append(_BACKSLASH)
            at += 2
        else:
            raise PatternError(r"a backslash is written twice; only \\ and \xNN mean something here")
    return bytes(prefix)


def read_size(value: object) -> object:
    """Bytes from ``1500``, ``"10KB"`` (10,000) or ``"1MiB"`` (1,048,576); what is no text is returned as it is.

    :raises ValueError: a text that is no size, or no whole number of bytes.
    """
    if not isinstance(value, str):
        return value
    found = _SIZE.fullmatch(value.strip())
    unit = _UNITS.get(found[3].lower()) if found else None
    if found is None or unit is None:
        raise ValueError("a size is a number of bytes, or a number with KB, MB, GB, TB, KiB, MiB, GiB or TiB")
    fraction = found[2] or ""
    size, rest = divmod(int(found[1] + fraction) * unit, 10 ** len(fraction))
    if rest:
        raise ValueError("a size is a whole number of bytes")
    return size


def read_map(value: object) -> object:
    """Numbers by number from a table or from texts like ``1=0``; anything else is returned as it is.

    :raises ValueError: a text of another shape, or one number twice on the left.
    """
    pairs: Iterable[tuple[object, object]]
    if isinstance(value, Mapping):
        pairs = value.items()
    elif isinstance(value, list | tuple) and all(isinstance(item, str) for item in value):
        pairs = [_split(item, "1=0") for item in value]
    else:
        return value
    result: dict[int, object] = {}
    for left, right in pairs:
        text = str(left).strip()
        if not _NUMBER.fullmatch(text):
            raise ValueError("a database is a number, and a mapping of one is written as 1=0")
        number = int(text)
        if number in result:
            raise ValueError(f"database {number} is mapped twice")
        result[number] = right.strip() if isinstance(right, str) else right
    return result


def read_rename(value: object) -> object:
    """A table with ``from`` and ``to`` from a text like ``old:=new:``; what is no text is returned as it is.

    :raises ValueError: a text without an equals sign.
    """
    if not isinstance(value, str):
        return value
    old, new = _split(value, r"old:=new: (an equals sign inside of it as \x3d)")
    return {"from": old, "to": new}


def _split(text: str, example: str) -> tuple[str, str]:
    left, equals, right = text.partition("=")
    if not equals:
        raise ValueError(f"it is written as {example}")
    return left, right
