"""Redis glob patterns, as one compiled expression over a list of them.

A pattern means here what it means to ``KEYS`` and ``SCAN … MATCH`` (``stringmatchlen`` in Redis): ``*`` any bytes,
``?`` one byte, ``[abc]``, ``[^abc]`` and ``[a-z]`` one byte of a set, ``\\`` before a byte that means itself.  A
bracket that is not closed ends with the pattern.  Everything is bytes: ``?`` is one byte of a UTF-8 letter, not the
letter.

One thing is refused where Redis accepts it: a range from ASCII to a byte above 0x7F.  Redis compares ``char``, which
is signed on x86 and unsigned on ARM, so such a range means two things.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

LITERAL: Final = 0x100
"""Added to a byte of a pattern that means itself, whatever it is."""

_STAR, _ANY, _OPEN, _CLOSE, _NOT, _DASH, _ESCAPE = b"*?[]^-\\"


class PatternError(ValueError):
    """A text that is no pattern; the message says why and never repeats it."""


def translate(pattern: Sequence[int]) -> bytes:
    """The regular expression of one glob, to be matched with ``re.DOTALL`` and to the end.

    Each run of single-byte matchers between two stars is taken at its first place and never tried again (an atomic
    group): that finds every match a glob has, and a pattern full of stars stays linear in the key.

    :param pattern: bytes, or bytes with :data:`LITERAL` added.
    :raises PatternError: a range that servers read differently.
    """
    runs: list[list[bytes]] = [[]]
    stars = at = 0
    while at < len(pattern):
        element = pattern[at]
        if element == _STAR:
            stars += 1
            if runs[-1] or len(runs) == 1:
                runs.append([])
        elif element == _ANY:
            runs[-1].append(b".")
        elif element == _OPEN:
            matcher, at = _bracket(pattern, at + 1)
            runs[-1].append(matcher)
            continue
        else:
            if element == _ESCAPE and at + 1 < len(pattern):
                at += 1
            runs[-1].append(_literal(pattern[at]))
        at += 1
    first, *rest = (b"".join(run) for run in runs)
    if not rest:
        return first
    *middle, last = rest
    if not first and not middle and not last:
        # KEYS and SCAN take a lone star for "everything"; Redis's matcher finds no star in an empty key.
        return b".*" if stars == 1 else b".+"
    return first + b"".join(b"(?>.*?%b)" % run for run in middle) + b".*" + last


def _literal(element: int) -> bytes:
    return re.escape(bytes((element & 0xFF,)))


def _bracket(pattern: Sequence[int], at: int) -> tuple[bytes, int]:
    """The set that begins behind its bracket at *at*, and where the pattern goes on."""
    end = len(pattern)
    inverted = at < end and pattern[at] == _NOT
    at += inverted
    members: set[int] = set()
    while at < end:
        element = pattern[at]
        if element == _ESCAPE and at + 1 < end:
            at += 1
            members.add(pattern[at] & 0xFF)
        elif element == _CLOSE:
            at += 1
            break
        elif at + 2 < end and pattern[at + 1] == _DASH:
            low, high = sorted((element & 0xFF, pattern[at + 2] & 0xFF))
            if low < 0x80 <= high:
                raise PatternError(
                    "a range from ASCII to a byte above 0x7F means different things to different servers; "
                    "write two ranges"
                )
            members.update(range(low, high + 1))
            at += 2
        else:
            members.add(element & 0xFF)
        at += 1
    chosen = [byte for byte in range(256) if (byte in members) is not inverted]
    if not chosen:
        return b"(?!)", at
    return b"[%b]" % b"".join(b"\\x%02x" % byte for byte in chosen), at


def compile_patterns(patterns: Sequence[Sequence[int]]) -> re.Pattern[bytes]:
    """One expression whose :meth:`re.Pattern.match` finds a key that any of *patterns* matches as a whole.

    ``match.lastindex`` is the place of the first one that does, counted from 1.

    :raises PatternError: one of them cannot be translated.
    """
    return re.compile(b"|".join(rb"(?:%b)\Z()" % translate(pattern) for pattern in patterns), re.DOTALL)
