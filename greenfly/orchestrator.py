"""Starting a flow from the command line, on Prefect's embedded server where no other is configured."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from flows.sequence import Outcome
from integrity.errors import OrchestratorFailed
from integrity.ledger.database import prepare_state_dir
from integrity.progress import Progress
from integrity.settings import Settings

_QUIET_DEFAULTS: Final = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    # The embedded server needs up to 20 s on a fresh home, longer on a busy machine.
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
    "PREFECT_LOGGING_LEVEL": "WARNING",
}


def prepare_environment(state_dir: Path) -> None:
    """Set Prefect's variables that the user did not set; must run before Prefect is imported.

    :raises LedgerError: the state folder cannot be written.
    """
    # Absolute: the embedded server runs in another working folder.
    home = (state_dir / "prefect").resolve()
    if "PREFECT_HOME" not in os.environ:
        # Prefect creates only the last folder of its home's path, and goes on without one where it cannot.
        prepare_state_dir(home)
    for name, value in (_QUIET_DEFAULTS | {"PREFECT_HOME": str(home)}).items():
        os.environ.setdefault(name, value)


def run_migrate_flow(settings: Settings, progress: Progress) -> Outcome:
    """Run the migrate flow in this process and wait for its outcome.

    Settings go to the flow in memory: flow parameters are shown on Prefect's page, and a URL can hold a password.

    :raises OrchestratorFailed: Prefect's server could not be started or reached.
    :raises GreenflyError: the run broke off.
    """
    prepare_environment(settings.state_dir)
    progress.say("Starting the flow on Prefect (its embedded server needs some seconds).")
    from httpx import HTTPError
    from prefect.exceptions import PrefectException

    from flows.prefect_flows import MigrateParameters, in_this_process, migrate_flow

    with in_this_process(settings, progress) as outcomes:
        try:
            migrate_flow(MigrateParameters(label=settings.label))
        except (PrefectException, HTTPError, RuntimeError) as error:
            raise OrchestratorFailed(
                f"Prefect could not run the flow ({type(error).__name__}: {error}).",
                "Check PREFECT_API_URL and that the state folder can be written, or run the same job without an "
                "orchestrator: greenfly migrate.",
            ) from error
    return outcomes[-1]
