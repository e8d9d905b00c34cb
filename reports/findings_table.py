"""All findings as a CSV table, safe to open in a spreadsheet.

A spreadsheet runs a cell that begins with ``= + - @`` as a formula.  In the text of a key such a character becomes its
``\\xNN`` escape, at the beginning and after anything that another program could take for a separator, so that
:func:`reports.display.key_from_text` still gives the exact key.  Other texts get an apostrophe in front.  ``key_hex``
is always exact.  An absent expiry is ``none``; an empty cell means that nothing is recorded.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Final

from reports.display import escape_bytes, expiry_time, key_text, moment
from reports.findings import FindingView, Side

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
CHUNK: Final = 5_000

# The full-width forms count as formulas in spreadsheets of some locales.
_FORMULA: Final = re.compile(r"(?:(?<=[;,|\"'])|^)[=+\-@\uff1d\uff0b\uff0d\uff20]")
_DANGEROUS: Final = re.compile(r"\s*[=+\-@\t\r\uff1d\uff0b\uff0d\uff20]")


def write_csv(findings: Iterable[FindingView], path: Path) -> None:
    """Write the table, a chunk of rows at a time."""
    import pandas as pd

    rows = map(_row, findings)
    with path.open("w", encoding="utf-8", newline="") as file:
        pd.DataFrame(columns=list(COLUMNS)).to_csv(
            file, index=False, quoting=csv.QUOTE_ALL, lineterminator="\n"
        )
        for chunk in iter(lambda: list(islice(rows, CHUNK)), []):
            # Objects, not inferred types: a column of numbers with gaps would become floating point.
            frame = pd.DataFrame(chunk, columns=list(COLUMNS), dtype=object)
            frame.to_csv(file, index=False, header=False, quoting=csv.QUOTE_ALL, lineterminator="\n")


def safe_key_text(key: bytes) -> str:
    """The key's text with every character escaped that a spreadsheet could take for a formula's beginning."""
    return _FORMULA.sub(lambda match: escape_bytes(match[0]), key_text(key))


def safe_text(text: str) -> str:
    """*text* that no spreadsheet takes for a formula."""
    return f"'{text}" if _DANGEROUS.match(text) else text


def _row(finding: FindingView) -> tuple[str, ...]:
    return (
        finding.finding_class.value,
        finding.state.value,
        safe_text(finding.rule or ""),
        str(finding.database),
        safe_key_text(finding.key),
        finding.key.hex(),
        *_side(finding.source),
        *_side(finding.target),
        safe_text(finding.detail),
        finding.first_seen_at.isoformat(),
        finding.last_seen_at.isoformat(),
        f"{finding.age_seconds:.3f}",
        str(finding.times_seen),
    )


def _side(side: Side) -> Iterator[str]:
    yield safe_text(side.kind or "")
    yield side.digest or ""
    match side.expiry_ms:
        case None:
            yield from ("", "")
        case -1:
            yield from ("none", "none")
        case milliseconds:
            at = expiry_time(milliseconds)
            yield safe_text(str(milliseconds))
            yield moment(at, milliseconds=True) if at is not None else ""
    yield "" if side.size is None else str(side.size)
