"""Starting a flow from the command line: on the server that PREFECT_API_URL names, else on a local one of our own.

The local server is Prefect's own, started for one flow and stopped after it.  Prefect could embed one by itself, but
that one would share our terminal: Ctrl-C would end it before the flow could tell it how it ended.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep
from typing import Final
from urllib.error import URLError
from urllib.request import urlopen

from flows.sequence import Outcome
from greenfly.demo.process import end_process, free_port
from integrity.errors import OrchestratorFailed
from integrity.ledger.database import prepare_state_dir
from integrity.progress import Progress
from integrity.settings import Settings

START_SECONDS: Final = 180.0
"""A server needs some 10 s, 20 s on a fresh home, longer on a busy machine."""

_DEFAULTS: Final = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    # What a flow logs is on the server; the terminal belongs to the progress and the outcome.
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_HANDLERS_CONSOLE_FLOW_RUNS_LEVEL": "CRITICAL",
}


def prepare_environment(state_dir: Path) -> None:
    """Set Prefect's variables that the user did not set; must run before Prefect is imported.

    :raises LedgerError: the state folder cannot be written.
    """
    # Absolute: the server runs in another working folder.  Prefect creates only the last folder of this path.
    home = (state_dir / "prefect").resolve()
    if "PREFECT_HOME" not in os.environ:
        prepare_state_dir(home)
    for name, value in (_DEFAULTS | {"PREFECT_HOME": str(home)}).items():
        os.environ.setdefault(name, value)


@contextmanager
def local_server(state_dir: Path) -> Iterator[None]:
    """A Prefect server on loopback for as long as the block runs; nothing where PREFECT_API_URL names one.

    :raises OrchestratorFailed: it does not answer within :data:`START_SECONDS`.
    """
    prepare_environment(state_dir)
    if os.environ.get("PREFECT_API_URL"):
        yield
        return
    port = free_port()
    log_path = Path(os.environ["PREFECT_HOME"]) / "server.log"
    command = [
        sys.executable,
        "-m",
        "prefect",
        "server",
        "start",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--no-ui",
    ]
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            _wait_until_healthy(process, port, log_path)
            os.environ["PREFECT_API_URL"] = f"http://127.0.0.1:{port}/api"
            yield
        finally:
            os.environ.pop("PREFECT_API_URL", None)
            end_process(process)


def _wait_until_healthy(process: subprocess.Popen[bytes], port: int, log_path: Path) -> None:
    deadline = monotonic() + START_SECONDS
    while monotonic() < deadline and process.poll() is None:
        try:
            with urlopen(f"http://127.0.0.1:{port}/api/health", timeout=5) as answer:
                if answer.status == 200:
                    return
        except (URLError, OSError):
            sleep(0.2)
    raise OrchestratorFailed(
        "Prefect's local server did not start.",
        f"Its log is {log_path}. Or run the same job without an orchestrator: greenfly migrate.",
    )


def run_migrate_flow(settings: Settings, progress: Progress) -> Outcome:
    """Run the migrate flow in this process and wait for its outcome.

    Settings go to the flow in memory: flow parameters are shown on Prefect's page, and a URL can hold a password.

    :raises OrchestratorFailed: Prefect's server could not be started or reached.
    :raises GreenflyError: the run broke off.
    """
    prepare_environment(settings.state_dir)
    progress.say("Starting the flow on Prefect (a local server needs some seconds).")
    with local_server(settings.state_dir):
        from httpx import HTTPError
        from prefect.exceptions import PrefectException
        from prefect.logging.handlers import APILogHandler

        from flows.prefect_flows import MigrateParameters, in_this_process, migrate_flow

        with in_this_process(settings, progress) as outcomes:
            try:
                migrate_flow(MigrateParameters.showing(settings))
            except (PrefectException, HTTPError, RuntimeError) as error:
                raise OrchestratorFailed(
                    f"Prefect could not run the flow ({type(error).__name__}: {error}).",
                    "Check PREFECT_API_URL, or run the same job without an orchestrator: greenfly migrate.",
                ) from error
            finally:
                # Logs travel in the background; the server must not end before the last of them has arrived.
                APILogHandler().flush()
        return outcomes[-1]
