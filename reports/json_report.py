"""The report as JSON: the same facts, all findings, written piece by piece.

The field names are those of :mod:`reports.model`; ``schema_version`` changes when one of them goes or changes its
meaning.  What was done about single keys (``repair_log``) and the findings come last, one per line, so that a file with
a million of them can still be read with line tools.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import Final, TextIO

from reports.assessing import AssessmentView
from reports.display import key_text
from reports.findings import FindingView, Side
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


def finding_to_dict(finding: FindingView) -> dict[str, object]:
    """One finding as plain JSON values; ``hex`` is the key exactly, ``text`` can be turned back into it."""
    return {
        "class": finding.finding_class.value,
        "state": finding.state.value,
        "rule": finding.rule,
        "database": finding.database,
        "key": {"text": key_text(finding.key), "hex": finding.key.hex()},
        "source": _side(finding.source),
        "target": _side(finding.target),
        "detail": finding.detail,
        "first_seen_at": _time(finding.first_seen_at),
        "last_seen_at": _time(finding.last_seen_at),
        "age_seconds": round(finding.age_seconds, 3),
        "times_seen": finding.times_seen,
    }


def repair_to_dict(repair: RepairView) -> dict[str, object]:
    """What was done about one key as plain JSON values."""
    return {
        "at": _time(repair.at),
        "action": repair.action.value,
        "database": repair.database,
        "key": {"text": key_text(repair.key), "hex": repair.key.hex()},
        "before": {"source": repair.before_source, "target": repair.before_target},
        "after": {"source": repair.after_source, "target": repair.after_target},
        "finding": repair.before_detail,
        "detail": repair.detail,
    }


def write_json(
    report: RunReport, findings: Iterable[FindingView], repairs: Iterable[RepairView], path: Path
) -> None:
    """Write the report with all repairs and findings; one of them at a time is in memory."""
    # A lone surrogate, as in a file name that is no UTF-8, becomes \udcNN, which is JSON's own escape for it.
    with path.open("w", encoding="utf-8", errors="backslashreplace", newline="\n") as file:
        head = json.dumps(report_to_dict(report), indent=2, ensure_ascii=False)
        file.write(head.removesuffix("\n}"))
        _write_lines(file, "repair_log", map(repair_to_dict, repairs))
        _write_lines(file, "findings", map(finding_to_dict, findings))
        file.write("\n}\n")


def _write_lines(file: TextIO, name: str, rows: Iterable[dict[str, object]]) -> None:
    """One more member of the object that is being written: a list with one element per line."""
    file.write(f',\n  "{name}": [')
    separator = "\n"
    for row in rows:
        file.write(f"{separator}    {json.dumps(row, ensure_ascii=False)}")
        separator = ",\n"
    file.write("\n  ]" if separator == ",\n" else "]")


def _side(side: Side) -> dict[str, object]:
    return {"kind": side.kind, "digest": side.digest, "expiry_ms": side.expiry_ms, "size": side.size}


def _time(at: datetime) -> str:
    return at.astimezone(UTC).isoformat()


def _plain(value: object) -> object:
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    match value:
        case Enum():
            return value.value
        case datetime():
            return _time(value)
        case Mapping():
            return {str(_plain(name)): _plain(inner) for name, inner in value.items()}
        case tuple() | list():
            return [_plain(item) for item in value]
        case _:
            return value
