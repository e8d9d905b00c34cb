"""The report as JSON: the same facts, all findings, written piece by piece.

The field names are those of :mod:`reports.model`; ``schema_version`` changes when one of them goes or changes its
meaning.  What was done about single keys (``repair_log``) and the findings come last, one per line, so that a file with
a million of them can still be read with line tools.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from datetime import datetime
from enum import Enum
from json.encoder import encode_basestring
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from reports.assessing import AssessmentView
from reports.display import iso_text, key_text
from reports.finding_batches import FindingBatch
from reports.model import RunReport
from reports.repairs import RepairView

SCHEMA_VERSION: Final = 1


def report_to_dict(report: RunReport) -> dict[str, object]:
    """All facts but the findings as plain JSON values."""
    facts: dict[str, object] = {"schema_version": SCHEMA_VERSION}
    for field in fields(report):
        facts[field.name] = _plain(getattr(report, field.name))
    return facts


def assessment_to_dict(assessment: AssessmentView) -> dict[str, object]:
    """An assessment as plain JSON values."""
    return {field.name: _plain(getattr(assessment, field.name)) for field in fields(assessment)}


def repair_to_dict(repair: RepairView) -> dict[str, object]:
    """What was done about one key as plain JSON values."""
    return {
        "at": iso_text(repair.at),
        "action": repair.action.value,
        "database": repair.database,
        "key": {"text": key_text(repair.key), "hex": repair.key.hex()},
        "before": {"source": repair.before_source, "target": repair.before_target},
        "after": {"source": repair.after_source, "target": repair.after_target},
        "finding": repair.before_detail,
        "detail": repair.detail,
    }


class JsonReport:
    """A report that takes its findings as they come."""

    def __init__(self, report: RunReport, repairs: Iterable[RepairView], path: Path) -> None:
        # A lone surrogate, as in a file name that is no UTF-8, becomes \udcNN, which is JSON's own escape for it.
        self._file = path.open("w", encoding="utf-8", errors="backslashreplace", newline="\n")
        head = json.dumps(report_to_dict(report), indent=2, ensure_ascii=False)
        self._file.write(head.removesuffix("\n}"))
        self._begin("repair_log")
        self._lines(json.dumps(repair_to_dict(repair), ensure_ascii=False) for repair in repairs)
        self._end()
        self._begin("findings")

    def take(self, batch: FindingBatch) -> None:
        """More findings."""
        self._lines(_finding_lines(batch))

    def _begin(self, name: str) -> None:
        """One more member of the object that is being written: a list with one element per line."""
        self._file.write(f',\n  "{name}": [')
        self._empty = True

    def _lines(self, rows: Iterable[str]) -> None:
        for row in rows:
            self._file.write("\n    " if self._empty else ",\n    ")
            self._file.write(row)
            self._empty = False

    def _end(self) -> None:
        self._file.write("]" if self._empty else "\n  ]")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._end()
            self._file.write("\n}\n")
        self._file.close()


def _finding_lines(batch: FindingBatch) -> Iterator[str]:
    """Findings as JSON objects; ``hex`` is the key exactly, ``text`` can be turned back into it."""
    digests = batch.digests
    rows = zip(
        map(_text, batch.finding_class),
        map(_text, batch.state),
        map(_text, batch.rule),
        batch.database,
        map(_text, batch.key_text),
        batch.key_hex,
        _sides(batch.source_kind, digests[0], batch.source_expiry_ms, batch.source_size),
        _sides(batch.target_kind, digests[1], batch.target_expiry_ms, batch.target_size),
        map(_text, batch.detail),
        map(iso_text, batch.first_seen_at),
        map(iso_text, batch.last_seen_at),
        batch.age_seconds,
        batch.times_seen,
        strict=True,
    )
    for kind, state, rule, database, text, exact, source, target, detail, first, last, age, times in rows:
        yield (
            f'{{"class": {kind}, "state": {state}, "rule": {rule}, "database": {database}, '
            f'"key": {{"text": {text}, "hex": "{exact}"}}, "source": {source}, "target": {target}, '
            f'"detail": {detail}, "first_seen_at": "{first}", "last_seen_at": "{last}", '
            f'"age_seconds": {round(age, 3)}, "times_seen": {times}}}'
        )


def _sides(
    kinds: Sequence[str | None],
    digests: Sequence[str | None],
    expiries: Sequence[int | None],
    sizes: Sequence[int | None],
) -> Iterator[str]:
    for kind, digest, expiry_ms, size in zip(kinds, digests, expiries, sizes, strict=True):
        yield (
            f'{{"kind": {_text(kind)}, "digest": {_text(digest)}, "expiry_ms": {_number(expiry_ms)}, '
            f'"size": {_number(size)}}}'
        )


def _text(value: str | None) -> str:
    return "null" if value is None else encode_basestring(value)


def _number(value: int | None) -> str:
    return "null" if value is None else str(value)


def _plain(value: object) -> object:
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    match value:
        case Enum():
            return value.value
        case datetime():
            return iso_text(value)
        case Mapping():
            return {str(_plain(name)): _plain(inner) for name, inner in value.items()}
        case tuple() | list():
            return [_plain(item) for item in value]
        case _:
            return value
