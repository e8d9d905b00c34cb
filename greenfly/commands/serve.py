"""``greenfly serve``"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Annotated

import typer

from greenfly.commands import options as o


def serve(
    webhook: Annotated[
        bool,
        typer.Option(
            "--webhook/--no-webhook",
            help="Also take rollback requests by POST /rollback (flows.webhook).",
            rich_help_panel=o.RUNNING,
        ),
    ] = False,
    flows: Annotated[
        bool,
        typer.Option("--flows/--no-flows", help="Serve the flows on Prefect.", rich_help_panel=o.RUNNING),
    ] = True,
    config: o.ConfigFile = None,
    state_dir: o.StateDir = None,
    quiet: o.Quiet = False,
) -> None:
    """Serve all flows with the schedules of the settings and the triggers of the rollback, until it is stopped.

    On the Prefect server that PREFECT_API_URL names, else on one of its own on loopback. Servers, passwords and
    schedules come from the configuration and GREENFLY_*: no secret is shown on Prefect's page.
    """
    from greenfly.console import make_progress
    from greenfly.orchestrator import serve_flows, wait_for_signal
    from integrity.errors import ConfigurationError

    if not flows and not webhook:
        raise ConfigurationError("There is nothing to serve.", "Leave --no-flows out, or add --webhook.")
    loaded = o.load(config, state_dir, {})
    progress = make_progress(quiet=quiet)
    with ExitStack() as stack:
        if webhook:
            from flows.webhook import serve_webhook

            url = stack.enter_context(serve_webhook(loaded.settings, progress))
            progress.say(f"Rollbacks can be asked for at {url}.")
        if flows:
            serve_flows(loaded.settings, progress, config_file=config)
        else:
            wait_for_signal()
