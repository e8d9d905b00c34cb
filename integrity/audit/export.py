"""Exporting a run: everything an auditor needs, in one folder or zip file that is checked without the ledger."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from sqlalchemy import select

from integrity.audit import names
from integrity.audit.chain_file import write_chain
from integrity.audit.checkpoint import EVENT_KIND, Checkpoint
from integrity.audit.container import Stored, stored, write_container
from integrity.audit.keeping import read_kept
from integrity.audit.keys import PublicKey, SigningKey, load_trust
from integrity.audit.ledger_check import examine_ledger
from integrity.audit.manifest import (
    MANIFEST_NAME,
    SIGNATURE_NAME,
    FileEntry,
    Manifest,
    ManifestSignature,
    hash_file,
)
from integrity.audit.model import Facts
from integrity.audit.seal import Seal, ledger_id
from integrity.audit.side_files import ArtifactRow, artifacts_line, facts_line, keys_line
from integrity.audit.texts import parse_table
from integrity.errors import ArtifactError, LedgerError, Refused
from integrity.ledger import Ledger
from integrity.ledger.database import reading
from integrity.ledger.models import Artifact, Event, Run, RunState
from integrity.ledger.naming import operator_name
from integrity.settings import Settings
from integrity.version import __version__

EXPORTED_KIND: Final = "audit.exported"
ZIP_SUFFIX: Final = ".zip"
_NOT_INCLUDED: Final = frozenset({"report-html", "report-json", "findings-csv"})
"""The bundle has a report of its own, made when it was exported."""
_ODD: Final = re.compile(r"[^A-Za-z0-9._-]")


@dataclass(frozen=True, slots=True)
class Exported:
    """A bundle that was written."""

    path: Path
    run_id: str
    files: int
    bytes: int
    manifest_sha256: str
    key: PublicKey | None
    """That signed it; None where nobody did."""
    checkpoint: Checkpoint | None
    """That was made for it."""


def export(
    settings: Settings,
    ledger: Ledger,
    run: Run,
    to: Path,
    write_reports: Callable[[Path], int],
    *,
    hide_other_runs: bool = False,
    with_files: bool = False,
) -> Exported:
    """Write the bundle of a run that has ended.

    :param to: a new folder, or a new file that ends in ``.zip``.
    :param write_reports: writes :data:`integrity.audit.names.REPORTS` into a folder and returns the number of findings.
    :param hide_other_runs: tell of the events of other runs only their hashes.
    :param with_files: include the files that the run wrote, not only their hashes.
    :raises Refused: the run has not ended, or *to* is there already.
    :raises LedgerError: the ledger's chain is broken, or something cannot be written.
    :raises ArtifactError: a file that is to be included is missing or was changed.
    """
    _require_ended(run)
    if to.exists() or to.is_symlink():
        raise Refused(
            f"{to} is there already; a bundle never replaces anything.", "Name a new folder or file."
        )
    _require_sound(settings, ledger)
    seal = Seal.of(settings.audit, ledger.engine)
    checkpoint = seal.sign_head(ledger.engine) if seal is not None else None
    key = seal.key if seal is not None else None
    is_zip = to.suffix.lower() == ZIP_SUFFIX
    stage = to.with_name(f".{to.name}.{os.getpid()}.tmp")
    with _told(to), _removed_in_the_end(stage):
        stage.mkdir(mode=0o700)
        findings = write_reports(stage)
        rows = list(_artifacts(ledger, run, stage if with_files else None))
        _write(stage / names.ARTIFACTS, artifacts_line(rows))
        _write_record(settings, ledger, run, stage, findings, hide_other_runs=hide_other_runs)
        manifest = _seal_files(stage, key)
        digest = _finish(stage, to, manifest, is_zip=is_zip)
        size = to.stat().st_size if is_zip else sum(item.stat().st_size for item in to.iterdir())
    payload = {
        "name": to.name,
        "manifest_sha256": digest,
        "signed_by": key.public.id if key is not None else None,
        "hides_other_runs": hide_other_runs,
        "with_files": with_files,
    }
    ledger.record_event(EXPORTED_KIND, payload, run.id)
    files = len(manifest.files) + (2 if key is not None else 1)
    return Exported(to, run.id, files, size, digest, key.public if key is not None else None, checkpoint)


def _require_ended(run: Run) -> None:
    if run.state is RunState.RUNNING and run.lease_until > datetime.now(UTC):
        raise Refused(
            f"Run {run.id} is still going on, so its record is not complete.", "Export it when it has ended."
        )


def _require_sound(settings: Settings, ledger: Ledger) -> None:
    found = examine_ledger(ledger, load_trust(settings.audit), settings.audit.checkpoint_file, None)
    if not found.intact:
        raise LedgerError(
            f"The ledger is not what it was: {found.problem}.",
            "Nothing is exported from it; `greenfly audit verify` tells everything.",
        )


def _write_record(
    settings: Settings, ledger: Ledger, run: Run, stage: Path, findings: int, *, hide_other_runs: bool
) -> None:
    """Chain, checkpoints, keys, and what the bundle says about itself."""
    with reading(ledger.engine) as connection, (stage / names.CHAIN).open("xb") as file:
        # One transaction: what is appended meanwhile is in none of the files, or in all.
        state = write_chain(connection, file, run.id, hide_other_runs=hide_other_runs)
        first = ledger_id(connection)
        query = select(Event.sequence, Event.payload).where(
            Event.kind == EVENT_KIND, Event.sequence <= state.events
        )
        payloads = connection.execute(query.order_by(Event.sequence)).all()
    if not state.intact or first is None:
        raise LedgerError(
            f"The ledger's audit chain is broken at event {state.broken_at}: {state.problem}.",
            "Nothing is exported from it; `greenfly audit verify` tells more.",
        )
    checkpoints = [_recorded(row.sequence, row.payload) for row in payloads]
    checkpoints += list(_kept_elsewhere(settings, state.events))
    lines = {checkpoint.line(): checkpoint.sequence for checkpoint in checkpoints}
    ordered = sorted(lines, key=lambda line: (lines[line], line))
    _write(stage / names.CHECKPOINTS, b"".join(ordered))
    _write(stage / names.KEYS, keys_line(load_trust(settings.audit).keys.values()))
    facts = Facts(
        run_id=run.id,
        ledger=first,
        exported_at=datetime.now(UTC).isoformat(),
        exported_by=operator_name(),
        version=__version__,
        hides_other_runs=hide_other_runs,
        events=state.events,
        head=state.head,
        findings=findings,
    )
    _write(stage / names.FACTS, facts_line(facts))


def _recorded(sequence: int, payload: str) -> Checkpoint:
    try:
        return Checkpoint.read(parse_table(payload.encode("utf-8")))
    except ValueError as error:
        raise LedgerError(
            f"Event {sequence} of the ledger should be a checkpoint, and is none: {error}.",
            "Use the version of Greenfly that wrote it, or a newer one.",
        ) from None


def _kept_elsewhere(settings: Settings, events: int) -> Iterator[Checkpoint]:
    """Those in the file; what was signed since the chain was read is left to the next bundle."""
    path = settings.audit.checkpoint_file
    if path is None:
        return
    for kept in read_kept(path):
        if kept.checkpoint is not None and kept.checkpoint.sequence <= events:
            yield kept.checkpoint


def _artifacts(ledger: Ledger, run: Run, into: Path | None) -> Iterator[ArtifactRow]:
    """All files that the run wrote; each is copied once where *into* is given."""
    copied: dict[tuple[str, str], str] = {}
    for row in ledger.artifacts(run.id):
        held = None
        if into is not None and row.kind not in _NOT_INCLUDED:
            held = copied.get((row.path, row.sha256))
            if held is None:
                held = f"artifact-{len(copied) + 1:03}-{_ODD.sub('_', Path(row.path).name)[:100]}"
                _copy(row, into / held)
                copied[row.path, row.sha256] = held
        yield ArtifactRow(
            row.kind, Path(row.path).name, row.size, row.sha256, row.created_at.isoformat(), held
        )


def _copy(row: Artifact, to: Path) -> None:
    try:
        shutil.copyfile(row.path, to)
    except FileNotFoundError:
        raise ArtifactError(
            f"{row.path}, which the run wrote, is missing.", "Restore it, or export without --with-files."
        ) from None
    with to.open("rb") as file:
        entry = hash_file(to.name, file, to.stat().st_size)
    if entry.sha256 != row.sha256:
        raise ArtifactError(
            f"{row.path} is not the file that the run wrote: its SHA-256 is {entry.sha256}, the ledger says "
            f"{row.sha256}.",
            "Restore it, or export without --with-files.",
        )


def _seal_files(stage: Path, key: SigningKey | None) -> Manifest:
    """Manifest and signature."""
    entries: list[FileEntry] = []
    for path in sorted(stage.iterdir()):
        with path.open("rb") as file:
            entries.append(hash_file(path.name, file, path.stat().st_size))
            os.fsync(file.fileno())
    manifest = Manifest(tuple(entries), key.public.id if key is not None else None)
    data = manifest.to_bytes()
    _write(stage / MANIFEST_NAME, data)
    if key is not None:
        _write(stage / SIGNATURE_NAME, ManifestSignature.make(key, data).to_bytes())
    return manifest


def _finish(stage: Path, to: Path, manifest: Manifest, *, is_zip: bool) -> str:
    """Put the bundle in its place, whole or not at all; returns the SHA-256 of the manifest."""
    fixed = [name for name in (MANIFEST_NAME, SIGNATURE_NAME) if (stage / name).exists()]
    with (stage / MANIFEST_NAME).open("rb") as file:
        digest = hash_file(MANIFEST_NAME, file, (stage / MANIFEST_NAME).stat().st_size).sha256
    if not is_zip:
        stage.rename(to)
        return digest
    parts = [(stored(name, (stage / name).read_bytes()), stage / name) for name in fixed]
    parts += [(Stored(entry.name, entry.size, entry.crc32), stage / entry.name) for entry in manifest.files]
    packed = stage / ".packed"
    with packed.open("xb") as file:
        write_container(parts, file)
        file.flush()
        os.fsync(file.fileno())
    packed.rename(to)
    return digest


def _write(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def _told(to: Path) -> Iterator[None]:
    """Errors of the disk by the bundle's name."""
    try:
        yield
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise LedgerError(
            f"The bundle {to} cannot be written ({why}).",
            "Name a place with enough free space, and try again.",
        ) from error


@contextmanager
def _removed_in_the_end(stage: Path) -> Iterator[None]:
    try:
        yield
    finally:
        shutil.rmtree(stage, ignore_errors=True)
