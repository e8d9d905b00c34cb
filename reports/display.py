"""How facts are shown to people: keys of any bytes, counts, sizes, durations, moments.

A key is bytes.  Its text form keeps printable UTF-8 readable and writes every other byte as ``\\xNN`` and the backslash
as ``\\\\``, so that two keys never share a text and the text leads back to the bytes (:func:`key_from_text`).  What is
invisible or reorders its neighbours (control, bidirectional and zero-width characters, fillers) counts as not
printable, and so does a space where it cannot be seen.
"""

from __future__ import annotations

import re
import unicodedata
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final

UNKNOWN: Final = "–"
"""Shown where the ledger has no value."""

# Default-ignorable characters that Python counts as printable: they show nothing.  FE00 to FE0F and E0100 to E01EF
# are variation selectors.
_INVISIBLE: Final = frozenset(
    "\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u2800\u3164\uffa0"
    + "".join(map(chr, range(0xFE00, 0xFE10)))
    + "".join(map(chr, range(0xE0100, 0xE01F0)))
)
_ESCAPE: Final = re.compile(r"\\(?:(?P<byte>x[0-9a-f]{2})|(?P<slash>\\))")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def key_text(key: bytes) -> str:
    """The unambiguous text of *key*."""
    # surrogateescape turns each byte that is no UTF-8 into one lone surrogate, which is never printable.
    return _escape(key.decode("utf-8", "surrogateescape"))


def key_from_text(text: str) -> bytes:
    """The bytes that :func:`key_text` wrote as *text*.

    :raises ValueError: a backslash that begins no escape.
    """
    parts: list[bytes] = []
    position = 0
    while (slash := text.find("\\", position)) >= 0:
        parts.append(text[position:slash].encode("utf-8"))
        escape = _ESCAPE.match(text, slash)
        if escape is None:
            raise ValueError(f"the backslash at character {slash} begins no escape")
        parts.append(bytes.fromhex(escape["byte"][1:]) if escape["byte"] else b"\\")
        position = escape.end()
    parts.append(text[position:].encode("utf-8"))
    return b"".join(parts)


def plain_text(text: str) -> str:
    """Free text made safe to show: what cannot be seen becomes an escape, line ends become spaces."""
    joined = " ".join(text.split("\n")) if "\n" in text else text
    return _escape(joined, slash="\\")


def escape_bytes(text: str) -> str:
    """Every byte of *text* as ``\\xNN``."""
    return "".join(f"\\x{byte:02x}" for byte in text.encode("utf-8", "surrogateescape"))


def _escape(text: str, slash: str = "\\\\") -> str:
    hides_space = "  " in text or text[:1] == " " or text[-1:] == " "
    if text.isascii() and text.isprintable() and "\\" not in text and not hides_space:
        return text
    # A combining character would sit on whatever stands before the text.
    alone = bool(text) and unicodedata.combining(text[0]) > 0 and text[0].isprintable()
    head = escape_bytes(text[0]) if alone else ""
    if slash == "\\":
        return head + text[int(alone) :].translate(_SINGLE)
    written = head + text[int(alone) :].translate(_DOUBLED)
    return _HIDDEN_SPACE.sub(r"\\x20", written) if hides_space else written


class _Escapes(dict[int, str]):
    """Code point → how it is written, found out as they come; a bounded number is remembered."""

    def __missing__(self, code: int) -> str:
        char = chr(code)
        if 0xDC80 <= code <= 0xDCFF:
            written = f"\\x{code - 0xDC00:02x}"
        elif 0xD800 <= code <= 0xDFFF:
            written = f"\\u{code:04x}"
        elif char.isprintable() and char not in _INVISIBLE:
            written = char
        else:
            written = escape_bytes(char)
        if len(self) < _REMEMBERED:
            self[code] = written
        return written


_HIDDEN_SPACE: Final = re.compile(r"\A | \Z|(?<= ) ")
_REMEMBERED: Final = 10_000
_SINGLE: Final = _Escapes({ord("\\"): "\\"})
_DOUBLED: Final = _Escapes({ord("\\"): "\\\\"})


def count(number: int | None) -> str:
    """``1,234,567``."""
    return UNKNOWN if number is None else f"{number:,}"


def counted(number: int, one: str, many: str | None = None) -> str:
    """``1 key``, ``2 keys``."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def ended(sentence: str) -> str:
    """A text of somebody else as the end of a sentence: with a full stop, but not with two."""
    return sentence if sentence.rstrip(")\"'”").endswith((".", "!", "?", "…")) else f"{sentence}."


def size(number: int | None) -> str:
    """``1.50 MiB``; bytes below 1 KiB exactly."""
    if number is None:
        return UNKNOWN
    if abs(number) < 1024:
        return counted(number, "byte")
    value = float(number)
    for unit in ("KiB", "MiB", "GiB", "TiB"):
        value /= 1024
        if abs(value) < 1024 or unit == "TiB":
            break
    return f"{value:,.2f} {unit}" if abs(value) < 10 else f"{value:,.1f} {unit}"


def duration(seconds: float | None) -> str:
    """``420 ms``, ``12.3 s``, ``3 min 04 s``, ``2 h 05 min``."""
    if seconds is None:
        return UNKNOWN
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60:02d} min"


def latency(milliseconds: float | None) -> str:
    """``0.21 ms``, ``12.3 ms``, ``1,234 ms``."""
    if milliseconds is None:
        return UNKNOWN
    decimals = 2 if milliseconds < 10 else 1 if milliseconds < 100 else 0
    return f"{milliseconds:,.{decimals}f} ms"


def rate(number: float | None, unit: str) -> str:
    """``12,345 keys/s``; below ten with one decimal."""
    if number is None:
        return UNKNOWN
    return f"{number:,.1f} {unit}/s" if 0 < number < 10 else f"{number:,.0f} {unit}/s"


def byte_rate(number: float | None) -> str:
    """``1.50 MiB/s``."""
    return UNKNOWN if number is None else f"{size(int(number))}/s"


def percent(part: int, whole: int) -> str:
    """Rounded down to two decimals, so that only everything is 100%."""
    if whole <= 0:
        return UNKNOWN
    hundredths = part * 10_000 // whole
    if part and not hundredths:
        return "less than 0.01%"
    return f"{hundredths // 100}%" if hundredths % 100 == 0 else f"{hundredths / 100:.2f}%"


def moment(at: datetime | None, *, milliseconds: bool = False) -> str:
    """``2026-11-23 00:48:29 UTC``."""
    if at is None:
        return UNKNOWN
    # Several times as fast as a format string, and a table has two of them in each row.
    utc = at.astimezone(UTC).isoformat(" ", "milliseconds" if milliseconds else "seconds")
    return f"{utc.removesuffix('+00:00')} UTC"


@lru_cache(maxsize=4_096)
def iso_text(at: datetime) -> str:
    """``2026-11-23T00:48:29.123456+00:00``.  Remembered, because findings that were recorded together share it."""
    return at.astimezone(UTC).isoformat()


def expiry_time(milliseconds: int) -> datetime | None:
    """The moment of an absolute expiry, or None for no expiry and for times that no calendar holds."""
    if milliseconds < 0:
        return None
    try:
        return _EPOCH + timedelta(milliseconds=milliseconds)
    except OverflowError:
        return None


def expiry(milliseconds: int | None) -> str:
    """``2026-11-23 00:48:29.123 UTC (1795394909123 ms)``, or ``none``."""
    if milliseconds is None:
        return UNKNOWN
    if milliseconds == -1:
        return "none"
    at = expiry_time(milliseconds)
    return f"{milliseconds} ms" if at is None else f"{moment(at, milliseconds=True)} ({milliseconds} ms)"
