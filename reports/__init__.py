"""What people read: reports made from the ledger, never from a server.

Importing this package is cheap; Jinja and pandas are imported when a report is written.
"""

from reports.build import build_report
from reports.model import RunReport
from reports.write import ReportFiles, write_report

__all__ = ["ReportFiles", "RunReport", "build_report", "write_report"]
