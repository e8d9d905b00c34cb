"""The ledger as Prometheus reads it.

The ledger is only read.  One that cannot be read is told as ``greenfly_ledger_up 0`` and nothing else, since old
numbers would look like new ones.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from threading import Lock
from time import monotonic
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector
from sqlalchemy import Engine

from integrity.audit.settings import AuditSettings
from integrity.errors import GreenflyError, LedgerError
from integrity.ledger import Ledger
from integrity.ledger.database import SCHEMA_HEAD, connect, reading
from integrity.ledger.endurance import endurance_of
from integrity.ledger.schema import require_not_newer, version_of
from integrity.settings import Settings
from integrity.version import __version__
from reports.metrics import catalogue as c
from reports.metrics.counting import FindingCounter
from reports.metrics.live import put_live
from reports.metrics.ranges import put_ranges
from reports.metrics.record import ChainReader
from reports.metrics.runs import current_runs, put_phases, put_runs, read_runs
from reports.metrics.sheet import Sheet
from reports.metrics.snapshots import SnapshotLister

_FRESH_SECONDS: Final = 1.0
"""Whoever asks sooner gets the same answer again."""
_PATIENCE_SECONDS: Final = 1.0
"""How long a reading waits for a database that is away: a scrape has a timeout of its own."""


def to_stderr(text: str) -> None:
    """One line on stderr."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


class Exporter(Collector):
    """Reads one ledger when it is asked; for any thread.

    :param say: told once when the ledger cannot be read any more, and once when it can again.
    """

    def __init__(self, settings: Settings, say: Callable[[str], None] = to_stderr) -> None:
        self._settings = settings
        self._say = say
        self._lock = Lock()
        self._engine: Engine | None = None
        self._findings = FindingCounter()
        self._chain = ChainReader()
        self._snapshots = SnapshotLister(settings.snapshot_dir)
        self._sheet: Sheet | None = None
        self._read_at = float("-inf")
        self._problem: str | None = None

    def close(self) -> None:
        """Give the connections to the ledger back."""
        with self._lock:
            if self._engine is not None:
                self._engine.dispose()
                self._engine = None

    def registry(self) -> CollectorRegistry:
        """A registry that holds nothing but this."""
        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        return registry

    def describe(self) -> Iterable[Family]:
        """Nothing: what there is depends on the ledger."""
        return []

    def collect(self) -> Iterable[Family]:
        """Read the ledger, unless that was done just now."""
        return list(self.sheet().families())

    def sheet(self) -> Sheet:
        """The values as of now."""
        with self._lock:
            if self._sheet is None or monotonic() - self._read_at >= _FRESH_SECONDS:
                self._sheet = self._read_or_tell()
                self._read_at = monotonic()
            return self._sheet

    def forget(self) -> None:
        """Read anew the next time, however soon that is."""
        with self._lock:
            self._sheet = None

    def require_readable(self) -> None:
        """Read the ledger once.

        :raises LedgerError: it cannot be reached, or has a schema that this version does not read.
        """
        with self._lock:
            self._read(Sheet())

    def _read_or_tell(self) -> Sheet:
        sheet, begun = Sheet(), monotonic()
        problem = None
        try:
            self._read(sheet)
        except GreenflyError as error:
            problem = str(error)
        except LookupError as error:
            problem = f"The ledger holds a word that this version does not know ({error})."
        if problem is not None:
            sheet = Sheet()
        sheet.put(c.BUILD_INFO, 1, __version__)
        sheet.put(c.LEDGER_UP, problem is None)
        sheet.put(c.LEDGER_READ_SECONDS, monotonic() - begun)
        sheet.put_time(c.LEDGER_READ_AT, sheet.now)
        if problem != self._problem:
            self._problem = problem
            self._say(f"Metrics: {problem}" if problem else "Metrics: the ledger can be read again.")
        return sheet

    def _read(self, sheet: Sheet) -> None:
        if self._engine is None:
            self._engine = connect(self._settings)
            endurance_of(self._engine).seconds = _PATIENCE_SECONDS
        engine = self._engine
        if not self._has_schema(engine):
            return
        ledger = Ledger(engine, AuditSettings())
        runs = read_runs(engine)
        current = current_runs(runs, sheet.now)
        put_runs(sheet, runs)
        put_phases(sheet, engine, current)
        put_ranges(sheet, engine, current)
        self._findings.put(sheet, ledger, current)
        put_live(sheet, engine, current)
        self._chain.put(sheet, engine, current)
        self._snapshots.put(sheet, ledger)

    @staticmethod
    def _has_schema(engine: Engine) -> bool:
        """Whether there is a ledger yet: it is made by the first run, not by whoever looks on.

        :raises LedgerError: its schema is another one than this version reads.
        """
        with reading(engine) as connection:
            version = version_of(connection)
        if version is not None and version != SCHEMA_HEAD:
            require_not_newer(engine, version)
            raise LedgerError(
                f"The ledger's schema is {version}, and this version reads {SCHEMA_HEAD}.",
                "Upgrade it; the metrics come back by themselves.",
            )
        return version is not None
