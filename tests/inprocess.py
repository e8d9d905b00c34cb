"""The command line in this process: as :class:`tests.cli.Greenfly` runs it, without seconds of imports each time."""

from __future__ import annotations

import functools
import gc
import os
import signal
import sqlite3
import sys
from collections.abc import Mapping
from contextlib import chdir, closing, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Final
from unittest import mock

import typer.main
from sqlalchemy import Connection, StaticPool, create_engine

import integrity.ledger.migrate
from greenfly.cli import main
from integrity.ledger.database import SCHEMA_HEAD
from integrity.ledger.migrate import migrate_on
from integrity.ledger.schema import version_of
from tests.cli import UNASSESSED, CompletedRun, Greenfly

_COMMANDS: Final = functools.cache(typer.main.get_command)
"""Typer builds every command anew for every call, which one process need not."""


@functools.cache
def _new_ledger() -> tuple[str, ...]:
    """What all migrations together make of an empty SQLite file, as statements."""
    engine = create_engine("sqlite://", poolclass=StaticPool)
    with engine.begin() as connection:
        migrate_on(connection, SCHEMA_HEAD)
    with closing(engine.raw_connection()) as raw:
        assert isinstance(raw.driver_connection, sqlite3.Connection)
        statements = tuple(raw.driver_connection.iterdump())
    engine.dispose()
    return tuple(each for each in statements if each not in ("BEGIN TRANSACTION;", "COMMIT;"))


def _migrate_on(connection: Connection, revision: str) -> None:
    """The same schema as the migrations make one by one, in a tenth of the time; they are tested by themselves."""
    if connection.dialect.name != "sqlite" or revision != SCHEMA_HEAD or version_of(connection) is not None:
        migrate_on(connection, revision)
        return
    for statement in _new_ledger():
        connection.exec_driver_sql(statement)


def run_here(greenfly: Greenfly, *arguments: str, env: Mapping[str, str] | None = None) -> CompletedRun:
    """Run one command to its end.  An exception that would be a traceback in a terminal goes on to the test."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GREENFLY_")}
    environment |= {"GREENFLY_STATE_DIR": str(greenfly.state_dir), "NO_COLOR": "1", **UNASSESSED}
    environment |= {"GREENFLY_VERIFY__RECHECK_DELAY": "0.05", **(env or {})}
    return run_in(greenfly.folder, environment, *arguments)


def run_in(folder: Path, environment: Mapping[str, str], *arguments: str) -> CompletedRun:
    """The same with all that the command sees: the folder it runs in, and every variable."""
    hook = sys.unraisablehook
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    out, err = StringIO(), StringIO()
    code: object = 0
    try:
        with (
            mock.patch.dict(os.environ, environment, clear=True),
            mock.patch.object(sys, "argv", ["greenfly", *arguments]),
            mock.patch.object(typer.main, "get_command", _COMMANDS),
            mock.patch.object(integrity.ledger.migrate, "migrate_on", _migrate_on),
            chdir(folder),
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
