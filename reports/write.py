"""Writing a run's report: HTML, JSON, CSV and Parquet, each whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from integrity.errors import LedgerError

if TYPE_CHECKING:
    from integrity.ledger import Ledger
    from reports.finding_batches import FindingBatch
    from reports.model import RunReport

HTML_NAME: Final = "report.html"
JSON_NAME: Final = "report.json"
CSV_NAME: Final = "findings.csv"
PARQUET_NAME: Final = "findings.parquet"
PAGE: Final = 5_000
"""Findings per ledger query; fewer would make a long list noticeably slower to read."""


class ReportFormat(StrEnum):
    """A form in which a report, or its findings, can be had."""

    HTML = "html"
    JSON = "json"
    CSV = "csv"
    PARQUET = "parquet"


DEFAULT_FORMATS: Final = (ReportFormat.HTML, ReportFormat.JSON, ReportFormat.CSV)
_NAMES: Final[Mapping[ReportFormat, str]] = {
    ReportFormat.HTML: HTML_NAME,
    ReportFormat.JSON: JSON_NAME,
    ReportFormat.CSV: CSV_NAME,
    ReportFormat.PARQUET: PARQUET_NAME,
}
_ARTIFACTS: Final[Mapping[ReportFormat, str]] = {
    ReportFormat.HTML: "report-html",
    ReportFormat.JSON: "report-json",
    ReportFormat.CSV: "findings-csv",
    ReportFormat.PARQUET: "findings-parquet",
}


@dataclass(frozen=True, slots=True)
class ReportFiles:
    """Where a report is."""

    html: Path
    json: Path
    csv: Path
    parquet: Path
    formats: tuple[ReportFormat, ...] = DEFAULT_FORMATS
    """Those of them that were written now."""

    @property
    def written(self) -> Mapping[ReportFormat, Path]:
        """The files that were written now."""
        paths = (self.html, self.json, self.csv, self.parquet)
        return {each: path for each, path in zip(ReportFormat, paths, strict=True) if each in self.formats}


class FindingSink(Protocol):
    """Something that takes findings as they come."""

    def take(self, batch: FindingBatch) -> None:
        """More of them."""


def write_report(
    ledger: Ledger, run_id: str, directory: Path, formats: Sequence[ReportFormat] = DEFAULT_FORMATS
) -> ReportFiles:
    """Write the report of a run into *directory* and record its files as artifacts of the run.

    Files of an earlier report there are replaced, each at once: a reader never sees half a file.

    :raises ConfigurationError: no such run.
    :raises LedgerError: the folder cannot be written, or the ledger cannot be read.
    """
    from reports.build import build_report

    report = build_report(ledger, run_id)
    chosen = tuple(each for each in ReportFormat if each in formats)
    html, json, csv, parquet = (directory / _NAMES[each] for each in ReportFormat)
    files = ReportFiles(html, json, csv, parquet, chosen)
    temporary = {
        each: path.with_name(f".{path.name}.{os.getpid()}.tmp") for each, path in files.written.items()
    }
    try:
        # The ledger keeps paths as text; a name it cannot hold is refused before anything is written.
        str(directory.resolve()).encode("utf-8")
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_forms(ledger, report, temporary, _NAMES)
        for each, path in files.written.items():
            os.replace(temporary[each], path)
        for each, path in files.written.items():
            ledger.add_artifact(report.run.run_id, _ARTIFACTS[each], path)
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


def write_forms(
    ledger: Ledger,
    report: RunReport,
    paths: Mapping[ReportFormat, Path],
    names: Mapping[ReportFormat, str] | None = None,
) -> int:
    """Write a report in the forms that *paths* names, and return the number of its findings.

    Findings are read once for all files that hold them; of a page alone none are counted.

    :param names: what the files will be called, where that is not what they are called now.
    :raises LedgerError: the ledger cannot be read.
    :raises OSError: a file cannot be written.
    """
    from reports.findings import reported_findings
    from reports.html import write_html

    called = {each: (names or {}).get(each, path.name) for each, path in paths.items()}
    if ReportFormat.HTML in paths:
        # The page names the files that hold what it leaves out.
        write_html(
            ledger,
            report,
            paths[ReportFormat.HTML],
            json_name=called.get(ReportFormat.JSON),
            csv_name=called.get(ReportFormat.CSV),
            parquet_name=called.get(ReportFormat.PARQUET),
        )
    findings = 0
    with ExitStack() as stack:
        sinks = list(_sinks(ledger, report, paths, stack))
        for batch in reported_findings(ledger, report, PAGE) if sinks else ():
            findings += len(batch)
            for sink in sinks:
                sink.take(batch)
    return findings


def _sinks(
    ledger: Ledger, report: RunReport, paths: Mapping[ReportFormat, Path], stack: ExitStack
) -> Iterator[FindingSink]:
    from reports.findings_table import CsvTable
    from reports.json_report import JsonReport
    from reports.repairs import all_repairs

    if (path := paths.get(ReportFormat.JSON)) is not None:
        yield stack.enter_context(JsonReport(report, all_repairs(ledger, report.run.run_id), path))
    if (path := paths.get(ReportFormat.CSV)) is not None:
        yield stack.enter_context(CsvTable(path))
    if (path := paths.get(ReportFormat.PARQUET)) is not None:
        from reports.findings_parquet import ParquetTable

        yield stack.enter_context(ParquetTable(path))


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:
        # Whatever hindered the writing is reported already and matters more than a left-over.
        return
