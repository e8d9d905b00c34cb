r"""How somebody says which keys they look for: as text, as hexadecimal digits, by how they begin, by a pattern."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from integrity.errors import ConfigurationError
from integrity.glob import LITERAL, PatternError, compile_patterns
from integrity.rule_text import read_pattern, read_prefix

_STAR, _ANY, _OPEN = b"*?["
_ESCAPE: Final = 0x5C
_CLOSE: Final = 0x5D


class KeyForm(StrEnum):
    """How the text is meant."""

    TEXT = "text"
    r"""One key; ``\xNN`` is that byte, ``\\`` a backslash."""
    BEGINS = "begins"
    """How keys begin, written like text."""
    PATTERN = "pattern"
    """A glob, as in a run's rules."""
    HEX = "hex"
    """One key as hexadecimal digits; with a star at its end, how keys begin."""


@dataclass(frozen=True, slots=True)
class KeyWanted:
    """One key, or what keys have in common."""

    exact: bytes | None = None
    begins: bytes = b""
    """Every key that is wanted begins so."""
    pattern: re.Pattern[bytes] | None = None
    """None where :attr:`begins` says everything."""
    holds: bytes = b""
    """Every key that is wanted holds this; the longest part of the pattern that is known."""


def read_wanted(text: str, form: KeyForm) -> KeyWanted | None:
    """What *text* looks for; None where it is empty.

    :raises ConfigurationError: it cannot be read in this form.
    """
    if not text:
        return None
    try:
        match form:
            case KeyForm.TEXT:
                return KeyWanted(exact=read_prefix(text))
            case KeyForm.BEGINS:
                return KeyWanted(begins=read_prefix(text))
            case KeyForm.HEX:
                digits = text.removesuffix("*")
                data = bytes.fromhex(digits)
                return KeyWanted(begins=data) if digits != text else KeyWanted(exact=data)
            case KeyForm.PATTERN:
                return _pattern(read_pattern(text))
    except PatternError as error:
        raise ConfigurationError(f"The key cannot be looked for: {error}.", "Correct it.") from error
    except (ValueError, UnicodeEncodeError):
        raise ConfigurationError(
            "The key cannot be looked for: it is not written in this form.",
            "Hexadecimal digits come in pairs; anything else can be written as text.",
        ) from None


def _pattern(elements: Sequence[int]) -> KeyWanted:
    runs, ends_in_star = _literals(elements)
    begins = runs[0]
    if ends_in_star and len(runs) == 2 and not runs[1]:
        return KeyWanted(begins=begins)
    return KeyWanted(begins=begins, pattern=compile_patterns([elements]), holds=max(runs, key=len))


def _literals(elements: Sequence[int]) -> tuple[list[bytes], bool]:
    """The parts between wildcards, the first of which the key begins with; whether one star, at the end, is all."""
    runs: list[bytearray] = [bytearray()]
    at, stars, others = 0, 0, 0
    while at < len(elements):
        element = elements[at]
        if element in (_STAR, _ANY, _OPEN):
            stars += element == _STAR
            others += element != _STAR
            runs.append(bytearray())
            if element == _OPEN:
                at = _behind_bracket(elements, at + 1)
                continue
        else:
            if element == _ESCAPE and at + 1 < len(elements):
                at += 1
            runs[-1].append(elements[at] & (LITERAL - 1))
        at += 1
    # An empty beginning is left to the pattern: a lone star says something about the empty key.
    only_star = stars == 1 and others == 0 and bool(runs[0])
    return [bytes(run) for run in runs], only_star


def _behind_bracket(elements: Sequence[int], at: int) -> int:
    while at < len(elements):
        if elements[at] == _ESCAPE and at + 1 < len(elements):
            at += 2
            continue
        at += 1
        if elements[at - 1] == _CLOSE:
            break
    return at
