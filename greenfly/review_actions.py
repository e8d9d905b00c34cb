"""What the command lends to the review page: reading both servers, and beginning a rollback."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path

from integrity.errors import EnvironmentFailed
from integrity.ledger.models import Finding, Run
from integrity.settings import Settings
from integrity.verify.side_by_side import SideBySide, look_at_both
from reports.review import Actions, RollbackRequest


def actions_of(settings: Settings, config: Path | None, state_dir: Path | None) -> Actions:
    """The actions that these settings allow."""
    configured = settings.source.url is not None and settings.target.url is not None

    def compare(run: Run, finding: Finding, *, reveal: bool) -> SideBySide:
        return look_at_both(
            settings, run, finding.finding_class, finding.database, finding.key, reveal=reveal
        )

    def roll_back(request: RollbackRequest) -> None:
        _begin(settings, config, state_dir, request)

    return Actions(compare, roll_back) if configured else Actions()


def _begin(settings: Settings, config: Path | None, state_dir: Path | None, request: RollbackRequest) -> None:
    """Start the command in a process of its own: it goes on when the page is stopped.

    :raises EnvironmentFailed: the process cannot be started.
    """
    arguments = [sys.executable, "-m", "greenfly", "rollback", request.sync_run_id, "--yes", "--quiet"]
    arguments += ["--reason", request.reason]
    arguments += ["--config", str(config.resolve())] if config is not None else []
    arguments += ["--state-dir", str(state_dir.resolve())] if state_dir is not None else []
    arguments += ["--abandon-green"] if request.abandon_green else []
    log = settings.state_dir / "review" / f"rollback-{datetime.now(UTC):%Y%m%d-%H%M%S-%f}.log"
    try:
        log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with log.open("xb") as output:
            process = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=os.environ | {"GREENFLY_OPERATOR": request.by},
                start_new_session=True,
            )
        # Somebody has to take note of its end, or it stays in the table of processes.
        threading.Thread(target=process.wait, daemon=True).start()
    except OSError as error:
        raise EnvironmentFailed(
            f"The rollback could not be started ({error.strerror}).",
            f"Run it by hand, now: greenfly rollback {request.sync_run_id} --yes",
        ) from error
