"""What the report and the audit bundle of a run with very many findings cost.

    python -m benchmarks.report [--findings 5000000] [--ledger sqlite] [--state-dir FOLDER] [--only all,html,…]

Findings of eight classes are recorded in a new ledger, or those of the run that an earlier call left in ``--state-dir``
are used.  Then each command runs in a process of its own, as people start it; printed are its time, its own CPU time,
the most memory it held, and the size of what it wrote.  PostgreSQL is the one of ``GREENFLY_TEST_POSTGRES_URL``, or one
of this machine's programs; its own CPU time and memory are not counted.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from datetime import UTC, datetime, timedelta
from os import cpu_count, getloadavg
from pathlib import Path
from time import perf_counter
from typing import Final

from sqlalchemy import insert, text
from xxhash import xxh3_128_digest

from integrity.ledger import Ledger, open_ledger
from integrity.ledger.models import Finding, FindingClass, FindingState, PhaseName, RunKind, RunState, Verdict
from integrity.settings import load_settings
from tests.ledger import provide_postgres

_AT_A_TIME: Final = 50_000
_QUICKER: Final = "PRAGMA cache_size = -2000000"
"""Millions of rows in an index of digests are one long wait for the disk otherwise; only while they are recorded."""
_CLASSES: Final = (
    FindingClass.MISSING,
    FindingClass.EXTRA,
    FindingClass.VALUE,
    FindingClass.VALUE,
    FindingClass.EXPIRY,
    FindingClass.TYPE,
    FindingClass.FIELD_EXPIRY,
    FindingClass.UNREADABLE,
)
_KINDS: Final = ("string", "hash", "list", "set", "zset", "stream")
_STATES: Final = (FindingState.OPEN,) * 17 + (
    FindingState.EXCEPTION,
    FindingState.SETTLED,
    FindingState.REPAIRED,
)
_BUNDLE: Final = "bundle.zip"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Costs of reports and bundles of many findings.")
    parser.add_argument("--findings", type=int, default=1_000_000)
    parser.add_argument("--ledger", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--state-dir", type=Path, help="where the ledger and the files go, and stay")
    parser.add_argument("--only", default="", help="titles of what is to be measured, between commas")
    arguments = parser.parse_args()
    with ExitStack() as stack:
        folder = arguments.state_dir
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="greenfly-report-")))
        values: dict[str, object] = {"state_dir": folder}
        if arguments.ledger == "postgresql":
            provision = provide_postgres()
            if provision.start is None:
                sys.exit(f"PostgreSQL: {provision.found}")
            postgres = stack.enter_context(provision.start())
            stack.callback(postgres.close)
            values["ledger_url"] = postgres.database().render_as_string(hide_password=False)
        _measure(values, folder, arguments.findings, arguments.only)


def _measure(values: Mapping[str, object], folder: Path, count: int, only: str) -> None:
    settings = load_settings(dict(values), environ={}).settings
    with closing(open_ledger(settings)) as ledger:
        if not ledger.runs():
            began = perf_counter()
            _fill(ledger, count, values)
            print(f"{count:,} findings recorded in {perf_counter() - began:,.0f} s", flush=True)
    print(f"load of the machine {getloadavg()[0]:.1f} on {cpu_count()} cores", flush=True)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GREENFLY_")}
    environment["GREENFLY_STATE_DIR"] = str(folder)
    if "ledger_url" in values:
        environment["GREENFLY_LEDGER_URL"] = str(values["ledger_url"])
    chosen = {title.strip() for title in only.split(",") if title.strip()}
    for title, arguments, written in _commands(folder / "measured"):
        if not chosen or title in chosen:
            _run(title, arguments, written, environment)


def _commands(folder: Path) -> Iterator[tuple[str, Sequence[str], Path]]:
    """What is measured: a title, the command, what it writes."""
    for one in ("html", "json", "csv", "parquet"):
        yield one, ["report", "latest", "--format", one, "--output", str(folder / one)], folder / one
    every = [part for one in ("html", "json", "csv", "parquet") for part in ("--format", one)]
    yield "all", ["report", "latest", *every, "--output", str(folder / "all")], folder / "all"
    yield "export", ["audit", "export", "latest", "--to", str(folder / _BUNDLE)], folder / _BUNDLE
    yield "verify", ["audit", "verify", str(folder / _BUNDLE)], folder / _BUNDLE


def _run(title: str, arguments: Sequence[str], written: Path, environment: Mapping[str, str]) -> None:
    if title != "verify":
        if written.is_dir():
            shutil.rmtree(written)
        written.unlink(missing_ok=True)
        written.parent.mkdir(exist_ok=True)
    began = perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "greenfly", *arguments], env=environment, stdout=subprocess.DEVNULL
    )
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    seconds = perf_counter() - began
    files = [written] if written.is_file() else sorted(written.iterdir()) if written.is_dir() else []
    size = sum(file.stat().st_size for file in files)
    print(
        f"  {title:<8} {seconds:8.1f} s, {used.ru_utime + used.ru_stime:8.1f} s of CPU, "
        f"{used.ru_maxrss / 1024:6.0f} MiB at most, {size / 2**20:8.1f} MiB written, exit code {process.returncode}",
        flush=True,
    )


def _fill(ledger: Ledger, count: int, values: Mapping[str, object]) -> None:
    run = ledger.start_run(RunKind.VERIFY, load_settings(dict(values), environ={}).settings)
    run.identify(source={}, target={}, source_address="redis://blue", target_address="redis://green")
    run.phase_started(PhaseName.VERIFY, count)
    now = datetime.now(UTC)
    with ledger.engine.connect() as connection:
        if ledger.engine.dialect.name == "sqlite":
            connection.exec_driver_sql(_QUICKER)
        for start in range(0, count, _AT_A_TIME):
            rows = [_row(run.id, number, now) for number in range(start, min(count, start + _AT_A_TIME))]
            connection.execute(insert(Finding), rows)
            connection.commit()
    run.finish(RunState.FINISHED, verdict=Verdict.FAIL, reason=f"{count:,} findings")
    if ledger.engine.dialect.name == "postgresql":
        # What its own housekeeping does some time after so many rows came.
        with ledger.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("VACUUM ANALYZE finding"))


def _row(run_id: str, number: int, now: datetime) -> dict[str, object]:
    # Keys of several beginnings, now and then one that a spreadsheet or a page could take for something else.
    key = b"shop:%d:%s:%09d" % (number % 40, (b"cart", b"session", b"<i>x</i>")[number % 3], number)
    if number % 1_000 == 7:
        key = b'=HYPERLINK("http://x/%d")\xff\x00' % number
    kind = _CLASSES[number % len(_CLASSES)]
    missing, extra = kind is FindingClass.MISSING, kind is FindingClass.EXTRA
    expiry = 1_800_000_000_000 + number * 977 if number % 10 < 3 else -1
    return {
        "run_id": run_id,
        "phase": PhaseName.VERIFY,
        "finding_class": kind,
        "state": _STATES[number % len(_STATES)],
        "rule": "expected-expiry" if _STATES[number % len(_STATES)] is FindingState.EXCEPTION else None,
        "database": number % 3,
        "key": key,
        "key_digest": xxh3_128_digest(key),
        "source_kind": None if extra else _KINDS[number % len(_KINDS)],
        "target_kind": None if missing else _KINDS[number % len(_KINDS)],
        "source_digest": None if extra else xxh3_128_digest(b"s%d" % number),
        "target_digest": None if missing else xxh3_128_digest(b"t%d" % number),
        "source_expiry_ms": None if extra else expiry,
        "target_expiry_ms": None if missing else expiry + 5_000 * (kind is FindingClass.EXPIRY),
        "source_size": None if extra else number % 4_096,
        "target_size": None if missing else number % 4_096,
        "detail": f"the value differs at byte {number % 4_096}",
        "first_seen_at": now - timedelta(seconds=number % 1_000, microseconds=number % 997),
        "last_seen_at": now,
        "times_seen": 1 + number % 3,
    }


if __name__ == "__main__":
    main()
