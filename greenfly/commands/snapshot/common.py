"""What the snapshot commands share: flags, and a ledger that may be out of reach."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from greenfly.commands import options as o

if TYPE_CHECKING:
    from integrity.ledger import Ledger
    from integrity.settings import Settings

Wanted = Annotated[
    str,
    typer.Argument(metavar="DIR|RUN", help="A snapshot's folder, its run id or a part of it, or latest."),
]
IdentityFile = Annotated[
    Path | None,
    typer.Option(help="File of age identities that opens encrypted snapshots.", rich_help_panel=o.RUNNING),
]


def identity_overrides(identity_file: Path | None) -> dict[str, object | None]:
    """The settings that the flag makes."""
    return {"snapshot": o.without_empty({"identity_file": identity_file})}


@contextmanager
def ledger_if_reachable(settings: Settings) -> Iterator[Ledger | None]:
    """The ledger, or None with a word on stderr: reading a snapshot must work when nothing else does."""
    from integrity.errors import LedgerError
    from integrity.ledger import open_ledger

    ledger = None
    try:
        ledger = open_ledger(settings)
    except LedgerError as error:
        sys.stderr.write(f"Without the ledger: {error.problem}\n")
    try:
        yield ledger
    finally:
        if ledger is not None:
            ledger.close()
