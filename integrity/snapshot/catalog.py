"""Which snapshots there are: the folders of the snapshot folder, and what the ledger recorded beside them."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Final

from sqlalchemy import select

from integrity.errors import ArtifactError
from integrity.ledger import Ledger
from integrity.ledger.database import reading
from integrity.ledger.models import Artifact, Event, Run, RunState
from integrity.snapshot.folder import LOCK_NAME, PARTIAL
from integrity.snapshot.header import HEADER_NAME, RDB_NAME, Header, read_header
from integrity.snapshot.sealing import SUFFIX

PRUNED_EVENT: Final = "snapshot.pruned"
RECORDED_KINDS: Final = ("rdb", "manifest", "header", "seal")
_SURELY_LEFT: Final = timedelta(hours=1)


class SnapshotState(StrEnum):
    """What there is of a snapshot."""

    WHOLE = "whole"
    """All its files, of the right sizes; ``snapshot verify`` looks inside."""
    DAMAGED = "damaged"
    """A header that cannot be used, or files that are missing or of the wrong size."""
    BEING_TAKEN = "being taken"
    PARTIAL = "partial"
    """Left behind by a process that is gone."""
    MISSING = "missing"
    """Only in the ledger."""
    PRUNED = "pruned"
    """Only in the ledger, which also knows that it was pruned."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One snapshot."""

    id: str
    """The folder's name, which is the id of its run."""
    directory: Path
    state: SnapshotState
    taken_at: datetime | None = None
    source: str | None = None
    """Masked address."""
    keys: int | None = None
    size: int | None = None
    """Bytes on the disk."""
    encrypted: bool | None = None
    note: str | None = None
    """What is wrong with it."""


def list_snapshots(folder: Path, ledger: Ledger | None) -> list[Entry]:
    """All snapshots in *folder* and in the ledger, newest first."""
    entries = [entry for path in _folders(folder) if (entry := look_at(path, ledger)) is not None]
    if ledger is not None:
        here = {entry.directory.resolve() for entry in entries}
        entries += _recorded_elsewhere(ledger, here)
    earliest = datetime.min.replace(tzinfo=UTC)
    return sorted(entries, key=lambda entry: (entry.taken_at or earliest, entry.id), reverse=True)


def look_at(path: Path, ledger: Ledger | None) -> Entry | None:
    """What a folder is; None where it has nothing of a snapshot."""
    if path.name.endswith(PARTIAL):
        identifier = path.name.removesuffix(PARTIAL)
        state = SnapshotState.BEING_TAKEN if _is_alive(path, identifier, ledger) else SnapshotState.PARTIAL
        return Entry(identifier, path, state, _modified(path), size=_size(path))
    if not (path / HEADER_NAME).is_file():
        return None
    try:
        header = read_header(path / HEADER_NAME)
    except ArtifactError as error:
        return Entry(
            path.name, path, SnapshotState.DAMAGED, _modified(path), size=_size(path), note=error.problem
        )
    note = _wrong_files(path, header)
    return Entry(
        path.name,
        path,
        SnapshotState.DAMAGED if note else SnapshotState.WHOLE,
        header.ended_at,
        header.address,
        header.keys,
        _size(path),
        header.encrypted,
        note,
    )


def find_snapshot(wanted: str, folder: Path, ledger: Ledger | None) -> Path:
    """The folder of a snapshot that is named by its path, its id, an unambiguous part of it, or ``latest``.

    :raises ArtifactError: there is none, or several.
    """
    path = Path(wanted)
    if path.is_dir():
        return path
    entries = list_snapshots(folder, ledger)
    if wanted == "latest":
        found = [entry for entry in entries if entry.state is SnapshotState.WHOLE][:1]
    else:
        found = [e for e in entries if wanted and (e.id.startswith(wanted) or e.id.endswith(wanted))]
        exact = [entry for entry in found if entry.id == wanted]
        found = exact or found
        # An attempt that broke off is not meant where there is a whole snapshot beside it.
        found = [e for e in found if e.state in {SnapshotState.WHOLE, SnapshotState.DAMAGED}] or found
    if len(found) > 1:
        raise ArtifactError(
            f"Several snapshots match {wanted!r}: {', '.join(e.id for e in found[:5])}.",
            "Write more of the id.",
        )
    if not found:
        raise ArtifactError(
            f"There is no snapshot {wanted!r}, neither as a folder nor in {folder}.",
            "`greenfly snapshot list` shows all; --state-dir names another place.",
        )
    if found[0].state not in {SnapshotState.WHOLE, SnapshotState.DAMAGED}:
        raise ArtifactError(
            f"The snapshot {found[0].id} cannot be read: it is {found[0].state.value} ({found[0].directory}).",
            "Use another one, or restore its folder from where snapshots are kept.",
        )
    return found[0].directory


def recorded_hashes(ledger: Ledger, directory: Path) -> dict[str, str]:
    """File name → SHA-256 of the files that the ledger recorded when the snapshot of this name was written."""
    query = (
        select(Artifact.path, Artifact.sha256)
        .where(Artifact.run_id == directory.resolve().name, Artifact.kind.in_(RECORDED_KINDS))
        .order_by(Artifact.id)
    )
    with reading(ledger.engine) as connection:
        return {Path(path).name: digest for path, digest in connection.execute(query)}


def _folders(folder: Path) -> Sequence[Path]:
    try:
        # A symbolic link is someone else's: it is not followed, and so never pruned.
        return [path for path in folder.iterdir() if path.is_dir() and not path.is_symlink()]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ArtifactError(f"{folder} cannot be read ({error.strerror}).", "Check its rights.") from error


def _recorded_elsewhere(ledger: Ledger, here: set[Path]) -> Iterator[Entry]:
    """Snapshots that the ledger knows and that the folder does not hold."""
    query = (
        select(Artifact.run_id, Artifact.path, Artifact.created_at, Run.source_address)
        .join(Run, Run.id == Artifact.run_id)
        .where(Artifact.kind == "header")
        .order_by(Artifact.id)
    )
    gone = select(Event.run_id).where(Event.kind == PRUNED_EVENT)
    with reading(ledger.engine) as connection:
        pruned = set(connection.scalars(gone))
        rows = {Path(row.path).parent: row for row in connection.execute(query)}
    for directory, row in rows.items():
        if directory.resolve() in here:
            continue
        entry = look_at(directory, ledger) if directory.is_dir() else None
        state = SnapshotState.PRUNED if row.run_id in pruned else SnapshotState.MISSING
        yield entry or Entry(row.run_id, directory, state, row.created_at, row.source_address)


def _is_alive(path: Path, run_id: str, ledger: Ledger | None) -> bool:
    """Whether a process still writes this partial folder."""
    if ledger is not None:
        query = select(Run.id).where(
            Run.id == run_id, Run.state == RunState.RUNNING, Run.lease_until > datetime.now(UTC)
        )
        with reading(ledger.engine) as connection:
            if connection.scalar(query) is not None:
                return True
    try:
        with (path / LOCK_NAME).open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return False
    except FileNotFoundError:
        # Without a lock its age must tell: the lock is the first file in the folder, and the last to go.
        modified = _modified(path)
        return modified is not None and datetime.now(UTC) - modified < _SURELY_LEFT
    except OSError:
        return True


def _wrong_files(path: Path, header: Header) -> str | None:
    expected: Mapping[str, int | None] = {name: entry.bytes for name, entry in header.files.items()}
    if header.encrypted:
        expected = {**expected, HEADER_NAME + SUFFIX: None}
    elsewhere = header.foreign.path if header.foreign is not None else None
    for name, size in expected.items():
        place = Path(elsewhere) if elsewhere and name == RDB_NAME else path / name
        try:
            found = place.stat().st_size
        except OSError:
            return f"{name if place.parent == path else place} is missing"
        if size is not None and found != size:
            return f"{name} has {found:,} bytes instead of {size:,}"
    return None


def _size(path: Path) -> int | None:
    try:
        return sum(file.stat().st_size for file in path.iterdir() if file.is_file())
    except OSError:
        return None


def _modified(path: Path) -> datetime | None:
    try:
        return datetime.fromtimestamp(path.stat().st_mtime, UTC)
    except OSError:
        return None
