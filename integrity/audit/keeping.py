"""The file in which checkpoints are kept away from the ledger: one JSON line each, of one ledger, only appended to."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from integrity.audit.checkpoint import Checkpoint
from integrity.audit.texts import lines, parse_table
from integrity.errors import ConfigurationError, LedgerError

_TAIL: Final = 1


@dataclass(frozen=True, slots=True)
class KeptLine:
    """One line of such a file."""

    place: str
    checkpoint: Checkpoint | None
    """None where the line is no checkpoint."""
    problem: str | None = None


def read_kept(path: Path) -> Sequence[KeptLine]:
    """All lines, each either a checkpoint or a problem.

    :raises ConfigurationError: the file is missing or cannot be read.
    """
    kept: list[KeptLine] = []
    try:
        with path.open("rb") as file:
            try:
                for number, line in lines(file):
                    kept.append(kept_line(f"{path.name}, line {number}", line))
            except ValueError as error:
                kept.append(KeptLine(path.name, None, str(error)))
    except OSError as error:
        raise ConfigurationError(
            f"The checkpoint file {path} cannot be read ({error.strerror}).",
            "Name the file to which checkpoints are appended, or restore it; without it nothing can be said about a "
            "cut-off chain.",
        ) from error
    return kept


def kept_line(place: str, line: bytes) -> KeptLine:
    """A checkpoint from its line, or what is wrong with it."""
    if not line.endswith(b"\n"):
        return KeptLine(place, None, "the line is cut short")
    try:
        return KeptLine(place, Checkpoint.read(parse_table(line)))
    except ValueError as error:
        return KeptLine(place, None, f"it is no checkpoint: {error}")


def require_usable(path: Path, ledger: str | None) -> None:
    """Refuse a file that cannot be appended to, or that belongs to another ledger.

    :param ledger: hash of the ledger's first event; None where it has none yet.
    :raises ConfigurationError: it is one of these.
    """
    try:
        handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
    except OSError as error:
        raise ConfigurationError(
            f"The checkpoint file {path} cannot be written ({error.strerror}).",
            "Correct audit.checkpoint_file, or give rights to append.",
        ) from error
    with os.fdopen(handle, "rb") as file:
        first = file.readline(64 * 1024)
    if not first:
        return
    kept = kept_line(f"{path}, line 1", first)
    if kept.checkpoint is None:
        raise ConfigurationError(f"{kept.place}: {kept.problem}.", "Correct audit.checkpoint_file.")
    if kept.checkpoint.ledger != ledger:
        raise ConfigurationError(
            f"The checkpoint file {path} belongs to another ledger, or the first event of this one was changed.",
            "Keep one file for each ledger; if this file is this ledger's, do not trust the ledger.",
        )


def append_kept(path: Path, checkpoint: Checkpoint) -> None:
    """Append one line and wait until it is on the disk.

    :raises LedgerError: it cannot be written.
    """
    try:
        handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        with os.fdopen(handle, "r+b", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            end = file.seek(0, os.SEEK_END)
            torn = False
            if end:
                file.seek(end - _TAIL)
                torn = file.read(_TAIL) != b"\n"
            # A line that a crash cut short stays what it is; this one must not be glued to it.
            line = (b"\n" if torn else b"") + checkpoint.line()
            if file.write(line) != len(line):
                raise OSError(0, "it took only a part of the line")
            os.fsync(file.fileno())
    except OSError as error:
        raise LedgerError(
            f"The checkpoint file {path} cannot be written ({error.strerror}).",
            "The checkpoint is in the ledger; give rights or space, then `greenfly audit checkpoint`.",
        ) from error
