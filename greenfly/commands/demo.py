"""``greenfly demo``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from greenfly.commands import options as o


def demo(
    keys: Annotated[int, typer.Option(min=100, max=10_000_000, help="How many keys blue gets.")] = 100_000,
    folder: Annotated[Path, typer.Option(help="Where the ledger, snapshot and report go.")] = Path(".demo"),
    as_json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Start a Redis and a Dragonfly of its own, fill one, migrate into the other, show the report.

    Green is a real Dragonfly where one is found (dragonfly on PATH, or Docker), else a second Redis, named as a
    stand-in. Everything it started is stopped at the end, also on Ctrl-C.
    """
    from greenfly.commands.finish import finish
    from greenfly.console import make_progress
    from greenfly.demo.run import run_demo
    from greenfly.orchestrator import prepare_environment

    prepare_environment(folder / "state")
    finish(run_demo(folder, keys, make_progress(quiet=quiet)), as_json=as_json)
