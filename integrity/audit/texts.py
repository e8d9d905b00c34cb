"""JSON that has one spelling only, and reading it from files that nobody vouches for."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import BinaryIO, Final, TypeAlias

from integrity.ledger.audit import canonical

Table: TypeAlias = Mapping[str, object]

MOST_LINE_BYTES: Final = 64 * 1024 * 1024
"""No line of a bundle's own files is longer; what pretends to be is not read."""


def line_of(table: Table) -> bytes:
    """*table* as one line: sorted keys, no white space, ASCII, a line feed."""
    return canonical(table).encode("ascii") + b"\n"


def read_table(data: bytes) -> dict[str, object]:
    """The table that *data* spells, in the one spelling that :func:`line_of` gives.

    :raises ValueError: it spells none, or spells it otherwise.
    """
    table = parse_table(data)
    if line_of(table) != data:
        raise ValueError("it is not spelled as Greenfly spells it")
    return table


def parse_table(data: bytes) -> dict[str, object]:
    """The JSON table in *data*.

    :raises ValueError: there is none.
    """
    try:
        value = json.loads(data)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except ValueError:
        raise ValueError("it is not JSON") from None
    if not isinstance(value, dict):
        raise ValueError("it is not a JSON table")
    return value


def text_at(table: Table, name: str) -> str:
    """A text in *table*.

    :raises ValueError: there is none of that name.
    """
    value = table.get(name)
    if not isinstance(value, str):
        raise ValueError(f"its {name} is not a text")
    return value


def number_at(table: Table, name: str) -> int:
    """A whole number from 0 in *table*.

    :raises ValueError: there is none of that name.
    """
    value = table.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"its {name} is not a number")
    return value


def require_names(table: Table, names: frozenset[str]) -> None:
    """Refuse what is missing and what is not known.

    :raises ValueError: *table* has not exactly these names.
    """
    if table.keys() != names:
        odd = sorted(names - table.keys()) + sorted(table.keys() - names)
        raise ValueError(f"it has not exactly the names it should have ({shown(odd[0])})")


def shown(value: object) -> str:
    """Something that nobody vouches for, fit for a terminal: short, in quotes, ASCII, no control characters."""
    return ascii(str(value)[:80])


def require_time(text: str) -> str:
    """*text*, if it is a time as Greenfly writes it.

    :raises ValueError: it is none.
    """
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError("a time in it is none") from None
    if at.isoformat() != text:
        raise ValueError("a time in it is not spelled as Greenfly spells it")
    return text


def lines(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Number and bytes of each line, its line feed among them.

    :raises ValueError: a line is longer than any that Greenfly writes.
    """
    number = 0
    while line := file.readline(MOST_LINE_BYTES + 1):
        number += 1
        if len(line) > MOST_LINE_BYTES:
            raise ValueError(f"line {number} is longer than {MOST_LINE_BYTES:,} bytes")
        yield number, line
