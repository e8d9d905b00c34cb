"""All findings as a CSV table, safe to open in a spreadsheet.

A spreadsheet runs a cell that begins with ``= + - @`` as a formula.  In the text of a key such a character becomes its
``\\xNN`` escape, at the beginning and after anything that another program could take for a separator, so that
:func:`reports.display.key_from_text` still gives the exact key.  Other texts get an apostrophe in front.  ``key_hex``
is always exact.  An absent expiry is ``none``; an empty cell means that nothing is recorded.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from reports.display import escape_bytes, expiry_time, iso_text, moment
from reports.finding_batches import FindingBatch

COLUMNS: Final = (
    "class",
    "state",
    "rule",
    "database",
    "key_text",
    "key_hex",
    *(
        f"{side}_{fact}"
        for side in ("source", "target")
        for fact in ("kind", "digest", "expiry_ms", "expiry", "size")
    ),
    "detail",
    "first_seen_at",
    "last_seen_at",
    "age_seconds",
    "times_seen",
)

# The full-width forms count as formulas in spreadsheets of some locales.
_FORMULA: Final = re.compile(r"(?:(?<=[;,|\"'])|^)[=+\-@\uff1d\uff0b\uff0d\uff20]")
_DANGEROUS: Final = re.compile(r"\s*[=+\-@\t\r\uff1d\uff0b\uff0d\uff20]")


class CsvTable:
    """A table that takes findings as they come."""

    def __init__(self, path: Path) -> None:
        # What no encoding holds (half a character in a name) is written as its escape.
        self._file = path.open("w", encoding="utf-8", errors="backslashreplace", newline="")
        self._writer = csv.writer(self._file, quoting=csv.QUOTE_ALL, lineterminator="\n")
        self._writer.writerow(COLUMNS)

    def take(self, batch: FindingBatch) -> None:
        """More rows."""
        digests = batch.digests
        self._writer.writerows(
            zip(
                batch.finding_class,
                batch.state,
                map(_safe_or_empty, batch.rule),
                batch.database,
                map(safe_key_text, batch.key_text),
                batch.key_hex,
                *_side(batch.source_kind, digests[0], batch.source_expiry_ms, batch.source_size),
                *_side(batch.target_kind, digests[1], batch.target_expiry_ms, batch.target_size),
                map(safe_text, batch.detail),
                map(iso_text, batch.first_seen_at),
                map(iso_text, batch.last_seen_at),
                (f"{age:.3f}" for age in batch.age_seconds),
                batch.times_seen,
                strict=True,
            )
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


def safe_key_text(text: str) -> str:
    """A key's text with every character escaped that a spreadsheet could take for a formula's beginning."""
    return _FORMULA.sub(lambda match: escape_bytes(match[0]), text)


def safe_text(text: str) -> str:
    """*text* that no spreadsheet takes for a formula."""
    return f"'{text}" if _DANGEROUS.match(text) else text


def _safe_or_empty(text: str | None) -> str:
    return safe_text(text) if text else ""


def _side(
    kinds: Sequence[str | None],
    digests: Sequence[str | None],
    expiries: Sequence[int | None],
    sizes: Sequence[int | None],
) -> tuple[Iterable[object], ...]:
    return (
        map(_safe_or_empty, kinds),
        digests,
        map(_expiry_number, expiries),
        map(_expiry_moment, expiries),
        sizes,
    )


def _expiry_number(milliseconds: int | None) -> str:
    return "" if milliseconds is None else "none" if milliseconds == -1 else safe_text(str(milliseconds))


@lru_cache(maxsize=4_096)
def _expiry_moment(milliseconds: int | None) -> str:
    if milliseconds is None:
        return ""
    at = expiry_time(milliseconds)
    return "none" if milliseconds == -1 else moment(at, milliseconds=True) if at is not None else ""
