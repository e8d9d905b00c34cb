"""Proving a snapshot whole without a server: every byte of every file, and that the files are about the same keys.

Checked are the hashes of the files, the RDB file's magic number, version, entries and CRC-64, for every row of the
manifest its name, type, expiry, offset, length and hash in the RDB file, and the header's counts and fingerprints
against the manifest's digests.  Not checked is that a body decodes to the value whose digest the row holds: only a
server can tell, and ``greenfly snapshot restore`` asks it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from integrity.errors import ArtifactError
from integrity.snapshot.artifact import Artifact
from integrity.snapshot.files import FileFacts, hash_file
from integrity.snapshot.header import HEADER_NAME, MANIFEST_NAME, RDB_NAME, Header
from integrity.snapshot.manifest import ManifestRow
from integrity.snapshot.sealing import Keys
from integrity.snapshot.totals import SnapshotTotals
from integrity.snapshot.walk import Damage, Walk
from integrity.transfer.payload import KIND_BY_RDB_TYPE

_MOST_PROBLEMS: Final = 100
_PROGRESS_KEYS: Final = 5_000


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is broken."""

    file: str
    what: str
    offset: int | None = None
    """Plain bytes from the beginning of the file."""
    database: int | None = None
    key: bytes | None = None


@dataclass(slots=True)
class Inspection:
    """What a check of one snapshot found."""

    header: Header
    keys: int = 0
    """Rows that were held against the RDB file."""
    problems: list[Problem] = field(default_factory=list)
    unlisted: int = 0
    """Problems beyond those."""
    recorded: bool | None = None
    """Whether the files are those that the ledger recorded; None where it knows nothing of them."""

    @property
    def whole(self) -> bool:
        """Whether nothing is broken."""
        return not self.problems

    def add(self, problem: Problem) -> None:
        """Note one problem; more than a hundred are only counted."""
        if len(self.problems) < _MOST_PROBLEMS:
            self.problems.append(problem)
        else:
            self.unlisted += 1


def inspect_snapshot(
    directory: Path,
    keys: Keys,
    *,
    recorded: Mapping[str, str] | None = None,
    on_progress: Callable[[int, int], None] = lambda keys, size: None,
) -> Inspection:
    """Check a snapshot.

    :param recorded: file name → SHA-256, from the ledger.
    :param on_progress: told keys and bytes as they are checked.
    :raises ArtifactError: the header cannot be used, or the key that opens the snapshot is missing or wrong.
    """
    artifact = Artifact.open(directory, keys)
    inspection = Inspection(artifact.header)
    seen: dict[str, FileFacts] = {}
    places = {artifact.rdb_name: artifact.rdb, artifact.manifest.name: artifact.manifest}
    damaged = {name for name, path in places.items() if not _file_fits(name, path, inspection, seen)}
    if recorded:
        inspection.recorded = _as_recorded(artifact, recorded, inspection, seen)
    totals = SnapshotTotals()
    if artifact.manifest.name in damaged:
        # Where it is damaged cannot be told from inside, and a damaged one says nothing about the other file.
        _check_rdb_alone(artifact, inspection)
        return inspection
    try:
        _check_rows(artifact, inspection, totals, on_progress)
    except ArtifactError as error:
        inspection.add(Problem(_named(error, artifact), error.problem))
        return inspection
    _check_totals(artifact.header, totals, inspection)
    return inspection


def require_whole(inspection: Inspection, directory: Path) -> None:
    """Refuse a snapshot that is not whole.

    :raises ArtifactError: by its first problem.
    """
    if not inspection.whole:
        first = inspection.problems[0]
        others = len(inspection.problems) + inspection.unlisted - 1
        more = f" ({others:,} more)" if others else ""
        raise ArtifactError(
            f"The snapshot {directory} is damaged: {first.file}: {first.what}{more}.",
            "`greenfly snapshot verify` lists what is broken; use another snapshot, or another copy of this one.",
        )


def _file_fits(name: str, path: Path, inspection: Inspection, seen: dict[str, FileFacts]) -> bool:
    """Whether a file on the disk is the one that the header knows as *name*."""
    entry = inspection.header.files[name]
    try:
        facts = seen[name] = hash_file(path)
    except ArtifactError as error:
        inspection.add(Problem(name, error.problem))
        return False
    if facts.bytes != entry.bytes:
        inspection.add(
            Problem(name, f"it has {facts.bytes:,} bytes, the header says {entry.bytes:,}", facts.bytes)
        )
    elif facts.xxh3_128 != entry.xxh3_128:
        inspection.add(Problem(name, "its XXH3-128 is not the header's: it was changed or exchanged"))
    elif entry.sha256 is not None and facts.sha256 != entry.sha256:
        inspection.add(Problem(name, "its SHA-256 is not the header's: it was changed or exchanged"))
    else:
        return True
    return False


def _as_recorded(
    artifact: Artifact, recorded: Mapping[str, str], inspection: Inspection, seen: Mapping[str, FileFacts]
) -> bool:
    """Whether the files are those that the ledger recorded when they were written."""
    same = True
    for name, digest in recorded.items():
        try:
            facts = seen.get(name) or hash_file(artifact.directory / name)
        except ArtifactError as error:
            inspection.add(Problem(name, error.problem))
            same = False
            continue
        if facts.sha256 != digest:
            inspection.add(Problem(name, "its SHA-256 is not the one that the ledger recorded"))
            same = False
    return same


def _check_rdb_alone(artifact: Artifact, inspection: Inspection) -> None:
    try:
        with artifact.open_rdb() as walk:
            walk.drain()
            _check_plain_rdb(artifact, walk, inspection)
    except ArtifactError as error:
        inspection.add(Problem(artifact.rdb_name, error.problem))


def _check_rows(
    artifact: Artifact,
    inspection: Inspection,
    totals: SnapshotTotals,
    on_progress: Callable[[int, int], None],
) -> None:
    done = size = 0
    with artifact.open_manifest() as manifest, artifact.open_rdb() as walk:
        if manifest.definition != artifact.header.checksum_definition:
            inspection.add(
                Problem(artifact.manifest.name, "its digests are of another definition than the header says")
            )
        for row in manifest:
            _check_row(artifact, walk, row, inspection)
            totals.count(row.database, row.kind, row.key, row.digest, row.length, +1)
            inspection.keys += 1
            done += 1
            size += row.length
            if done == _PROGRESS_KEYS:
                on_progress(done, size)
                done = size = 0
            if walk.at_end and inspection.problems:
                break
        on_progress(done, size)
        if not walk.at_end or not inspection.problems:
            try:
                walk.finish()
            except Damage as damage:
                inspection.add(Problem(artifact.rdb_name, damage.what, damage.offset))
        walk.drain()
        _check_plain_rdb(artifact, walk, inspection)


def _check_row(artifact: Artifact, walk: Walk, row: ManifestRow, inspection: Inspection) -> None:
    try:
        walk.enter(row)
        walk.skim(row)
    except Damage as damage:
        inspection.add(Problem(artifact.rdb_name, damage.what, damage.offset, row.database, row.key))
        walk.pass_over(row)
    kind = KIND_BY_RDB_TYPE[row.rdb_type]
    if row.digest is not None and kind not in (row.kind, "module"):
        inspection.add(
            Problem(
                artifact.manifest.name,
                f"the kind {row.kind!r} does not go with the RDB type {row.rdb_type}",
                None,
                row.database,
                row.key,
            )
        )


def _check_plain_rdb(artifact: Artifact, walk: Walk, inspection: Inspection) -> None:
    """What the whole file tells, when it was read to its end."""
    entry = artifact.header.plain_files().get(RDB_NAME)
    told = any(problem.file == artifact.rdb_name for problem in inspection.problems)
    if entry is not None and (entry.bytes, entry.xxh3_128) != (walk.size, walk.xxh3) and not told:
        inspection.add(Problem(artifact.rdb_name, "its plain content is not the one that the header knows"))
    if not walk.checksum_fits and not told:
        inspection.add(Problem(artifact.rdb_name, "its CRC-64 does not fit", max(0, walk.size - 8)))


def _check_totals(header: Header, totals: SnapshotTotals, inspection: Inspection) -> None:
    """Whether the header's counts and fingerprints are those of the manifest's rows."""
    if (totals.keys, totals.uncompared) != (header.keys, header.without_digest):
        inspection.add(
            Problem(
                HEADER_NAME,
                f"it counts {header.keys:,} keys ({header.without_digest:,} without a digest), "
                f"the manifest {totals.keys:,} ({totals.uncompared:,})",
            )
        )
    mine = totals.databases()
    for number in sorted(mine.keys() | header.databases.keys()):
        counted, told = mine.get(number), header.databases.get(number)
        if counted is None or told is None or (counted.keys, counted.kinds) != (told.keys, told.kinds):
            inspection.add(Problem(HEADER_NAME, "its counts are not the manifest's", None, number))
        elif counted.fingerprint != told.fingerprint:
            inspection.add(
                Problem(HEADER_NAME, "its fingerprint is not that of the manifest's digests", None, number)
            )


def _named(error: ArtifactError, artifact: Artifact) -> str:
    return artifact.manifest.name if MANIFEST_NAME in error.problem else artifact.rdb_name
