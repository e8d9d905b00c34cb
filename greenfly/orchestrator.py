"""Starting and serving flows from the command line: on the server of PREFECT_API_URL, else on a local one of our own.

The local server is Prefect's own, started for one flow and stopped after it.  Prefect could embed one by itself, but
that one would share our terminal: Ctrl-C would end it before the flow could tell it how it ended.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from threading import Event
from time import monotonic, sleep
from typing import TYPE_CHECKING, Final
from urllib.error import URLError
from urllib.request import urlopen

from flows.sequence import Outcome
from greenfly.demo.process import end_process, free_port
from integrity.address import mask_url
from integrity.errors import OrchestratorFailed
from integrity.ledger.database import prepare_state_dir
from integrity.progress import Progress
from integrity.settings import CONFIG_FILE_VARIABLE, Settings, config_path

if TYPE_CHECKING:
    from flows.parameters import FlowParameters

START_SECONDS: Final = 180.0
"""A server needs some 10 s, 20 s on a fresh home, longer on a busy machine."""

_CONSOLE_LEVEL: Final = "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"
_DEFAULTS: Final = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    # What a flow logs is on the server; the terminal belongs to the progress and the outcome.
    _CONSOLE_LEVEL: "CRITICAL",
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
def local_server(state_dir: Path, *, port: int = 0, page: bool = False) -> Iterator[None]:
    """A Prefect server on loopback for as long as the block runs; nothing where PREFECT_API_URL names one.

    :param port: 0 takes a free one.
    :param page: whether it also serves Prefect's page.
    :raises OrchestratorFailed: it does not answer within :data:`START_SECONDS`.
    """
    prepare_environment(state_dir)
    if os.environ.get("PREFECT_API_URL"):
        yield
        return
    port = port or free_port()
    log_path = Path(os.environ["PREFECT_HOME"]) / "server.log"
    command = [
        sys.executable,
        "-m",
        "greenfly.prefect_server",
        "start",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        *(() if page else ("--no-ui",)),
    ]
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=_page_variables(log_path.parent) | dict(os.environ),
        )
        try:
            _wait_until_healthy(process, port, log_path)
            os.environ["PREFECT_API_URL"] = f"http://127.0.0.1:{port}/api"
            yield
        finally:
            os.environ.pop("PREFECT_API_URL", None)
            end_process(process)


def _page_variables(home: Path) -> dict[str, str]:
    """Where Prefect prepares its page, if that cannot be where its package is: else there would be none."""
    found = find_spec("prefect")
    if found is None or found.origin is None or os.access(Path(found.origin).parent / "server", os.W_OK):
        return {}
    return {"PREFECT_UI_STATIC_DIRECTORY": str(home / "page")}


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


def run_flow(settings: Settings, progress: Progress, name: str, parameters: FlowParameters) -> Outcome | None:
    """Run a flow in this process and wait for its outcome; None where it made no run.

    Settings go to the flow in memory: flow parameters are shown on Prefect's page, and a URL can hold a password.

    :raises OrchestratorFailed: Prefect's server could not be started or reached.
    :raises GreenflyError: the run broke off.
    """
    prepare_environment(settings.state_dir)
    known = os.environ.get("PREFECT_API_URL")
    progress.say(
        f"Starting the flow on Prefect at {mask_url(known.removesuffix('/api'))}."
        if known
        else "Starting the flow on Prefect (a local server needs some seconds)."
    )
    with local_server(settings.state_dir):
        from httpx import HTTPError
        from prefect.exceptions import PrefectException
        from prefect.logging.handlers import APILogHandler

        from flows.deployments import FLOWS
        from flows.running import in_this_process

        with in_this_process(settings, progress) as outcomes:
            try:
                FLOWS[name](parameters)
            except (PrefectException, HTTPError, RuntimeError) as error:
                raise OrchestratorFailed(
                    f"Prefect could not run the flow ({type(error).__name__}: {error}).",
                    f"Check PREFECT_API_URL, or run the same job without an orchestrator: greenfly {name}.",
                ) from error
            finally:
                # Logs travel in the background; the server must not end before the last of them has arrived.
                APILogHandler().flush()
        return outcomes[-1] if outcomes else None


def serve_flows(settings: Settings, progress: Progress, *, config_file: Path | None) -> None:
    """Serve all flows as deployments until this process is told to stop.

    Flow runs are processes of their own, which read their settings like this one.

    :param config_file: the configuration file, where one was named.
    :raises OrchestratorFailed: Prefect's server could not be started or reached.
    :raises ConfigurationError: a schedule cannot be used.
    """
    # Nobody waits for one outcome here: what flow runs log is what there is to be seen.
    os.environ.setdefault(_CONSOLE_LEVEL, "INFO")
    prepare_environment(settings.state_dir)
    prepare_state_dir(settings.state_dir)
    os.environ["GREENFLY_STATE_DIR"] = str(settings.state_dir.resolve())
    if (path := config_path(config_file)) is not None:
        os.environ[CONFIG_FILE_VARIABLE] = str(path.resolve())
    with local_server(settings.state_dir, port=settings.flows.server_port, page=True):
        from httpx import HTTPError
        from prefect.exceptions import PrefectException

        from flows.deployments import deployments, serve_until_stopped

        served = deployments(settings)
        schedules = settings.flows.schedules.by_flow()

        def tell() -> None:
            for deployment in served:
                when = schedules.get((deployment.flow_name or "").removeprefix("greenfly-"))
                progress.say(
                    f"Serving {deployment.flow_name}/{deployment.name}"
                    + (f", at {when} ({settings.flows.timezone})." if when else ".")
                )
            progress.say(f"Prefect answers at {os.environ['PREFECT_API_URL'].removesuffix('/api')}.")

        try:
            serve_until_stopped(settings, served, tell)
        except (PrefectException, HTTPError, RuntimeError) as error:
            raise OrchestratorFailed(
                f"Prefect does not serve the flows any more ({type(error).__name__}: {error}).",
                "Check PREFECT_API_URL; a rollback needs no orchestrator: greenfly rollback.",
            ) from error


def wait_for_signal() -> None:
    """Return never; a signal ends it."""
    Event().wait()
