"""What the files of a report tell without being trusted: facts of the JSON form, and how many findings there are.

All are read front to back; memory does not grow with the number of findings.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final

from integrity.audit.texts import Table, parse_table

_REPAIRS: Final = b'  "repair_log": ['
_FINDINGS: Final = b'  "findings": ['
_MOST_HEAD_BYTES: Final = 256 * 1024 * 1024
_CHUNK: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class ReportFacts:
    """The JSON form of a report."""

    head: Table
    """Everything but repairs and findings."""
    findings: int


def read_report(file: BinaryIO) -> ReportFacts:
    """Facts and number of findings of ``report.json``.

    :raises ValueError: it is not written as Greenfly writes it.
    """
    head: list[bytes] = []
    size, count, inside, closed, listed = 0, 0, False, False, False
    for start, chunk in _chunks(file):
        if not listed and start and chunk.startswith(_REPAIRS):
            listed = True
        if not listed:
            head.append(chunk)
            size += len(chunk)
            if size > _MOST_HEAD_BYTES:
                raise ValueError("its facts are larger than any that Greenfly writes")
        elif start and chunk.startswith(_FINDINGS):
            inside, closed = not chunk.startswith(_FINDINGS + b"]"), chunk.startswith(_FINDINGS + b"]")
        elif inside and start and chunk.startswith(b"  ]"):
            inside, closed = False, True
        elif inside and start:
            count += 1
    if not listed or not closed:
        raise ValueError("its list of findings is not where it belongs")
    text = b"".join(head).rstrip()
    return ReportFacts(parse_table(text.removesuffix(b",") + b"\n}"), count)


def count_csv_rows(file: BinaryIO) -> int:
    """Rows of a CSV table below its heading; a line feed between quotes ends none."""
    rows, quoted = 0, False
    for _, chunk in _chunks(file):
        quoted ^= bool(chunk.count(b'"') & 1)
        rows += chunk.endswith(b"\n") and not quoted
    return rows - 1


def count_parquet_rows(file: BinaryIO) -> int:
    """Rows of a Parquet table.

    :raises ValueError: it is none.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        rows: int = pq.ParquetFile(file).metadata.num_rows
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"it is no Parquet table ({type(error).__name__})") from None
    return rows


def holds_title(file: BinaryIO, run_id: str) -> bool:
    """Whether a page's title names this run."""
    beginning = file.read(_CHUNK)
    title = beginning.partition(b"<title>")[2].partition(b"</title>")[0]
    return f"run {run_id} ".encode() in title


def _chunks(file: BinaryIO) -> Iterator[tuple[bool, bytes]]:
    """Lines, long ones in several chunks, and whether a chunk begins one."""
    start = True
    while chunk := file.readline(_CHUNK):
        yield start, chunk
        start = chunk.endswith(b"\n")
