"""Reading the ledger's free-form JSON columns by type, and masking whatever might be a secret in them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Final

from integrity.address import mask_url
from integrity.settings import MASK
from reports.display import plain_text

Facts = Mapping[str, object]

_A_NAME: Final = re.compile(r"(?:.*_)?(?:port|pid|sequence)")
"""Numbers that count nothing: without commas."""
_SECRET_NAMES: Final = frozenset({"password", "passwd", "secret", "token"})


def integer(facts: Facts, name: str) -> int | None:
    """A whole number, or None where there is none."""
    value = facts.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def number(facts: Facts, name: str) -> float | None:
    """A number, or None where there is none."""
    value = facts.get(name)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def truth(facts: Facts, name: str) -> bool | None:
    """Yes or no, or None where neither is recorded."""
    value = facts.get(name)
    return value if isinstance(value, bool) else None


def text(facts: Facts, name: str) -> str | None:
    """A text, masked, or None where there is none."""
    value = facts.get(name)
    return masked_text(value) if isinstance(value, str) else None


def table(facts: Facts, name: str) -> Facts:
    """An inner table, empty where there is none."""
    value = facts.get(name)
    return value if isinstance(value, dict) else {}


def tables(facts: Facts, name: str) -> list[Facts]:
    """The tables of a list, empty where there is none."""
    value = facts.get(name)
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list | tuple) else []


@lru_cache(maxsize=4096)
def masked_text(value: str) -> str:
    """*value* fit to be shown: no password of a URL, nothing invisible.

    Remembered, because a million findings share a few kinds and details.
    """
    if "@" not in value and "=" not in value and value.isascii() and value.isprintable():
        return value
    return plain_text(mask_url(value))


def masked(value: object) -> object:
    """Plain JSON values with secrets masked.

    What the ledger holds is masked already; this second look is for a text that quotes an address by accident.
    """
    match value:
        case dict():
            return {
                str(name): MASK if str(name) in _SECRET_NAMES and inner is not None else masked(inner)
                for name, inner in value.items()
            }
        case list() | tuple():
            return [masked(item) for item in value]
        case str():
            return mask_url(value)
        case _:
            return value


def masked_table(facts: Facts) -> dict[str, object]:
    """A table with secrets masked."""
    plain = masked(dict(facts))
    return plain if isinstance(plain, dict) else {}


def flatten(facts: Facts, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Dotted names and texts of all values, for a table that people read."""
    for name, value in facts.items():
        dotted = plain_text(f"{prefix}{name}")
        if isinstance(value, dict) and value:
            yield from flatten(value, f"{dotted}.")
        elif isinstance(value, int) and _A_NAME.fullmatch(str(name)):
            yield dotted, str(value)
        else:
            yield dotted, _shown(value)


def _shown(value: object) -> str:
    match value:
        case None:
            return "not set"
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case float():
            return f"{value:,.3f}".rstrip("0").rstrip(".")
        case list():
            return ", ".join(_shown(item) for item in value) or "none"
        case dict():
            return "; ".join(f"{name} {shown}" for name, shown in flatten(value)) or "none"
        case _:
            return plain_text(str(value)) or "empty"
