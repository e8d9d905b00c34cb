"""How fast the review page answers over many findings, on SQLite and on PostgreSQL.

    python -m benchmarks.review [--findings 1000000] [--rounds 15] [--ledger both]

Every page is asked for over HTTP from a server in this process, by somebody who has signed in, in rounds.  Printed are
median and slowest answer of each page in milliseconds.  PostgreSQL is the one of ``GREENFLY_TEST_POSTGRES_URL``, or
one of this machine's programs; without any, only SQLite is measured.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime, timedelta
from os import cpu_count, getloadavg
from pathlib import Path
from time import monotonic, perf_counter, sleep

import httpx
import uvicorn
from sqlalchemy import insert, text
from xxhash import xxh3_128_digest

from greenfly.demo.process import free_port
from integrity.ledger import Ledger, open_ledger
from integrity.ledger.database import writing
from integrity.ledger.models import (
    Finding,
    FindingClass,
    FindingState,
    PhaseName,
    RunKind,
    RunState,
    Verdict,
)
from integrity.ledger.review_models import Role
from integrity.ledger.tokens import add_token
from integrity.settings import Settings, load_settings
from reports.review import Actions, build_app
from tests.ledger import provide_postgres

_AT_A_TIME = 10_000
_CLASSES = (FindingClass.VALUE, FindingClass.MISSING, FindingClass.EXPIRY)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Answer times of the review page over many findings.")
    parser.add_argument("--findings", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--ledger", choices=("sqlite", "postgresql", "both"), default="both")
    arguments = parser.parse_args()
    if arguments.ledger != "postgresql":
        with tempfile.TemporaryDirectory(prefix="greenfly-review-") as folder:
            _measure("SQLite", {"state_dir": Path(folder)}, arguments.findings, arguments.rounds)
    if arguments.ledger == "sqlite":
        return
    provision = provide_postgres()
    if provision.start is None:
        print(f"PostgreSQL: {provision.found}")
        return
    with tempfile.TemporaryDirectory(prefix="greenfly-review-") as folder, provision.start() as postgres:
        url = postgres.database().render_as_string(hide_password=False)
        values = {"state_dir": Path(folder), "ledger_url": url}
        _measure(provision.found, values, arguments.findings, arguments.rounds)
        postgres.close()


def _measure(name: str, values: dict[str, object], count: int, rounds: int) -> None:
    settings = load_settings(values, environ={}).settings
    with closing(open_ledger(settings)) as ledger:
        began = perf_counter()
        run = _fill(ledger, settings, count)
        print(
            f"\n{name}, {count:,} findings (recorded in {perf_counter() - began:,.0f} s), {rounds} rounds; "
            f"load of the machine {getloadavg()[0]:.1f} on {cpu_count()} cores"
        )
        with _served(ledger, settings) as client:
            for title, path in _pages(run, count):
                times = []
                for _ in range(rounds):
                    began = perf_counter()
                    answer = client.get(path)
                    times.append((perf_counter() - began) * 1000)
                    answer.raise_for_status()
                ended = "  (its time was up)" if "its time was up" in answer.text else ""
                print(
                    f"  {title:<46} {statistics.median(times):8.1f} ms, slowest {max(times):8.1f} ms{ended}"
                )


def _pages(run: str, count: int) -> Iterator[tuple[str, str]]:
    here = f"/runs/{run}/findings"
    middle = f"user:{count // 2:08d}"
    yield "runs", "/"
    yield "one run", f"/runs/{run}"
    yield "findings, first page", here
    yield "findings, a page in the middle", f"{here}?after={count // 2}"
    yield "open ones, a page in the middle", f"{here}?state=open&after={count // 2}"
    yield "repaired ones of class expiry", f"{here}?state=repaired&class=expiry"
    yield "one key", f"{here}?key={middle}"
    yield "keys that begin with", f"{here}?key={middle[:-3]}&form=begins"
    yield "pattern with a known beginning", f"{here}?key=user:*7&form=pattern"
    yield "pattern that one key in the middle matches", f"{here}?key=*{middle[-7:]}&form=pattern"
    yield "pattern that no key matches", f"{here}?key=*nothing*&form=pattern"
    yield "a database", f"{here}?database=2"
    yield "a type that no key has", f"{here}?type=zset"
    yield "older than a day", f"{here}?older=1d"
    yield "one finding", f"{here}/{count // 2}"
    yield "how it goes", f"/runs/{run}/progress"


def _fill(ledger: Ledger, settings: Settings, count: int) -> str:
    run = ledger.start_run(RunKind.VERIFY, settings)
    run.identify(source={}, target={}, source_address="redis://blue", target_address="redis://green")
    run.phase_started(PhaseName.VERIFY, count)
    now = datetime.now(UTC)
    for start in range(0, count, _AT_A_TIME):
        rows = [_row(run.id, number, now) for number in range(start, min(count, start + _AT_A_TIME))]
        with writing(ledger.engine) as connection:
            connection.execute(insert(Finding), rows)
    run.finish(RunState.FINISHED, verdict=Verdict.FAIL, reason="they differ")
    if ledger.engine.dialect.name == "postgresql":
        # What its own housekeeping does some time after so many rows came.
        with ledger.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("VACUUM ANALYZE finding"))
    return run.id


def _row(run_id: str, number: int, now: datetime) -> dict[str, object]:
    key = b"user:%08d" % number
    return {
        "run_id": run_id,
        "phase": PhaseName.VERIFY,
        "finding_class": _CLASSES[number % 10 % 3],
        "state": FindingState.OPEN if number % 20 else FindingState.SETTLED,
        "database": number % 3,
        "key": key,
        "key_digest": xxh3_128_digest(key),
        "source_kind": "string",
        "target_kind": "string",
        "source_digest": b"\x01" * 16,
        "target_digest": b"\x02" * 16,
        "source_size": 12,
        "target_size": 12,
        "detail": "the value differs at byte 7 of 12",
        "first_seen_at": now - timedelta(seconds=number % 1_000),
        "last_seen_at": now,
        "times_seen": 2,
    }


@contextmanager
def _served(ledger: Ledger, settings: Settings) -> Iterator[httpx.Client]:
    port = free_port()
    app = build_app(ledger, settings, Actions(), port)
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_config=None, lifespan="off"))
    thread = threading.Thread(target=server.run)
    thread.start()
    _, token = add_token(ledger.engine, "benchmark", Role.VIEWER, "benchmark", 1)
    with ExitStack() as stack:
        stack.callback(thread.join, 10)
        stack.callback(setattr, server, "should_exit", True)
        until = monotonic() + 20
        while not server.started and monotonic() < until:
            sleep(0.01)
        client = stack.enter_context(
            httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=60)
        )
        client.post("/sign-in", data={"token": token})
        yield client


if __name__ == "__main__":
    main()
