"""Names of modules' types: nine characters of six bits each in a number of 64, and ten bits of a version."""

from __future__ import annotations

from typing import Final

_CHARACTERS: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


def module_name(identifier: int) -> str:
    """As TYPE answers it."""
    return "".join(_CHARACTERS[identifier >> shift & 63] for shift in range(58, 9, -6))


def module_version(identifier: int) -> int:
    """Of the encoding that the module chose."""
    return identifier & 1023
