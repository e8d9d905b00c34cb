"""What people read: reports made from the ledger, never from a server.

Importing this package costs nothing: the ledger, Jinja and pyarrow are imported when a report is made.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from reports.build import build_report
    from reports.model import RunReport
    from reports.write import ReportFiles, write_report

__all__ = ["ReportFiles", "RunReport", "build_report", "write_report"]

_HOMES: Final = {
    "ReportFiles": "reports.write",
    "RunReport": "reports.model",
    "build_report": "reports.build",
    "write_report": "reports.write",
}


def __getattr__(name: str) -> object:
    """The command line names the formats of a report without waiting for what makes one."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
