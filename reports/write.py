"""Writing a run's report: HTML, JSON and CSV, each whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from integrity.errors import LedgerError
from integrity.ledger import Ledger

HTML_NAME: Final = "report.html"
JSON_NAME: Final = "report.json"
CSV_NAME: Final = "findings.csv"
PAGE: Final = 5_000
"""Findings per ledger query; fewer would make a long list noticeably slower to read."""


@dataclass(frozen=True, slots=True)
class ReportFiles:
    """Where a report is."""

    html: Path
    json: Path
    csv: Path


def write_report(ledger: Ledger, run_id: str, directory: Path) -> ReportFiles:
    """Write the report of a run into *directory* and record its files as artifacts of the run.

    Files of an earlier report there are replaced, each at once: a reader never sees half a file.

    :raises ConfigurationError: no such run.
    :raises LedgerError: the folder cannot be written, or the ledger cannot be read.
    """
    from reports.build import build_report
    from reports.findings import reported_findings
    from reports.findings_table import write_csv
    from reports.html import write_html
    from reports.json_report import write_json
    from reports.repairs import all_repairs

    report = build_report(ledger, run_id)
    run = report.run.run_id
    files = ReportFiles(directory / HTML_NAME, directory / JSON_NAME, directory / CSV_NAME)
    writers: tuple[tuple[str, Path, Callable[[Path], None]], ...] = (
        (
            "report-html",
            files.html,
            lambda path: write_html(ledger, report, path, json_name=JSON_NAME, csv_name=CSV_NAME),
        ),
        (
            "report-json",
            files.json,
            lambda path: write_json(
                report, reported_findings(ledger, report, PAGE), all_repairs(ledger, run), path
            ),
        ),
        ("findings-csv", files.csv, lambda path: write_csv(reported_findings(ledger, report, PAGE), path)),
    )
    temporary = {path: path.with_name(f".{path.name}.{os.getpid()}.tmp") for _, path, _ in writers}
    try:
        # The ledger keeps paths as text; a name it cannot hold is refused before anything is written.
        str(directory.resolve()).encode("utf-8")
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for _, path, write in writers:
            write(temporary[path])
        for _, path, _ in writers:
            os.replace(temporary[path], path)
        for kind, path, _ in writers:
            ledger.add_artifact(run, kind, path)
    except (OSError, UnicodeEncodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "its name is not UTF-8"
        shown = os.fsencode(directory).decode("utf-8", "backslashreplace")
        raise LedgerError(
            f"The report folder {shown} cannot be written ({why}).",
            "Name a writable folder with enough free space.",
        ) from error
    finally:
        for path in temporary.values():
            _remove(path)
    return files


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:
        # Whatever hindered the writing is reported already and matters more than a left-over.
        return
