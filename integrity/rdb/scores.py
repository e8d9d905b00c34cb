"""Scores of sorted sets as text, as a server answers them."""

from __future__ import annotations

from math import isnan
from typing import Final

from integrity.rdb.errors import MalformedBody

_SPECIAL: Final = {254: b"inf", 255: b"-inf"}
"""Lengths of a score in text that stand for a score themselves; 253 is not a number."""


def spelled(score: float) -> bytes:
    """The shortest text that is the same number.

    :raises MalformedBody: it is no number.
    """
    if isnan(score):
        raise MalformedBody("a score is no number")
    return repr(score).encode()


def text_score(size: int, text: bytes) -> bytes:
    """A score in the form of before Redis 4.0.

    :param size: the length that stands before *text*.
    :raises ValueError: it is no number.
    """
    if size < 253:
        return spelled(float(text))
    if size not in _SPECIAL:
        raise MalformedBody("a score is no number")
    return _SPECIAL[size]
