"""The command line in this process: as :class:`tests.cli.Greenfly` runs it, without seconds of imports each time."""

from __future__ import annotations

import functools
import gc
import os
import signal
import sys
from collections.abc import Mapping
from contextlib import chdir, redirect_stderr, redirect_stdout
from io import StringIO
from typing import Final
from unittest import mock

import typer.main

from greenfly.cli import main
from tests.cli import UNASSESSED, CompletedRun, Greenfly

_COMMANDS: Final = functools.cache(typer.main.get_command)
"""Typer builds every command anew for every call, which one process need not."""


def run_here(greenfly: Greenfly, *arguments: str, env: Mapping[str, str] | None = None) -> CompletedRun:
    """Run one command to its end.  An exception that would be a traceback in a terminal goes on to the test."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GREENFLY_")}
    environment |= {"GREENFLY_STATE_DIR": str(greenfly.state_dir), "NO_COLOR": "1", **UNASSESSED}
    environment |= {"GREENFLY_VERIFY__RECHECK_DELAY": "0.05", **(env or {})}
    hook = sys.unraisablehook
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    out, err = StringIO(), StringIO()
    code: object = 0
    try:
        with (
            mock.patch.dict(os.environ, environment, clear=True),
            mock.patch.object(sys, "argv", ["greenfly", *arguments]),
            mock.patch.object(typer.main, "get_command", _COMMANDS),
            chdir(greenfly.folder),
            redirect_stdout(out),
            redirect_stderr(err),
        ):
            main()
    except SystemExit as ended:
        code = ended.code
    finally:
        sys.unraisablehook = hook
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if code:
        gc.collect()  # what a failed command left open is told in the test that ran it
    assert code is None or isinstance(code, int), code
    return CompletedRun(arguments, code or 0, out.getvalue(), err.getvalue())


def between(source: str, target: str) -> tuple[str, ...]:
    """The two flags that every command about two servers takes."""
    return ("--source", source, "--target", target)
