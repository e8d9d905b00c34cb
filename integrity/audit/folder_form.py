"""A bundle as a folder."""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from integrity.audit.frame import (
    Frame,
    OpenFile,
    damage_problems,
    read_signature,
    settle,
    signature_problems,
)
from integrity.audit.keys import Trust
from integrity.audit.manifest import (
    FILE_NAME,
    MANIFEST_NAME,
    MOST_MANIFEST_BYTES,
    MOST_SIGNATURE_BYTES,
    SIGNATURE_NAME,
    FileEntry,
    Manifest,
    hash_file,
)
from integrity.audit.model import Problem, ProblemKind
from integrity.audit.pieces import FileReader, compare, part_file, pieces_of_file
from integrity.errors import ArtifactError


def open_folder(path: Path, trust: Trust, stack: ExitStack) -> Frame:
    """Look at all files of a folder; they stay open as long as *stack*.

    :raises ArtifactError: the folder cannot be read.
    """
    problems: list[Problem] = []
    readers = dict(_files(path, stack, problems))
    entries: dict[str, FileEntry] = {}
    for name, reader in readers.items():
        if name in (MANIFEST_NAME, SIGNATURE_NAME):
            continue
        try:
            with part_file(reader, 0, reader.size) as file:
                entries[name] = hash_file(name, file, reader.size)
        except ValueError as error:
            problems.append(Problem(ProblemKind.CHANGED, str(error), name))
    manifest_data = _small(readers.get(MANIFEST_NAME), MOST_MANIFEST_BYTES)
    signature = _small(readers.get(SIGNATURE_NAME), MOST_SIGNATURE_BYTES)
    settled = settle(manifest_data, _derived(signature, entries, readers), signature, trust)
    opened: dict[str, OpenFile] = {
        name: partial(part_file, reader, 0, reader.size) for name, reader in readers.items()
    }
    if manifest_data is None:
        problems.append(_no_manifest(readers.get(MANIFEST_NAME)))
    if settled is None:
        if manifest_data is not None:
            problems.append(_unreadable(manifest_data))
        if SIGNATURE_NAME in readers and read_signature(signature) is None:
            problems.append(Problem(ProblemKind.FORMAT, "it is no signature of a manifest", SIGNATURE_NAME))
        return Frame("folder", None, None, None, problems, {}, opened)
    for known in settled.files:
        if known.name in readers:
            found = compare(readers[known.name], list(known.pieces()))
            problems += damage_problems(found, in_container=False, files=opened)
    whole: dict[str, OpenFile] = {}
    expected = settled.manifest.by_name()
    by_hash = {entry.sha256: entry.name for entry in settled.manifest.files}
    by_hash[hashlib.sha256(settled.data).hexdigest()] = MANIFEST_NAME
    for name, entry in expected.items():
        actual = entries.get(name)
        if actual is None:
            if name not in readers and not any(problem.file == name for problem in problems):
                problems.append(Problem(ProblemKind.MISSING, "it is missing", name))
        elif actual == entry:
            whole[name] = opened[name]
        else:
            other = by_hash.get(actual.sha256)
            if other is not None:
                problems.append(Problem(ProblemKind.MISPLACED, f"it holds what belongs in {other}", name))
            found = compare(readers[name], list(pieces_of_file(entry)))
            problems += damage_problems(found, in_container=False, files=opened)
            if not found.damages:
                problems.append(Problem(ProblemKind.CHANGED, "its SHA-256 is another one", name))
    problems += [
        Problem(ProblemKind.EXTRA, "the manifest does not list it", name)
        for name in entries
        if name not in expected
    ]
    problems += list(signature_problems(settled, problems))
    damaged = {name: file for name, file in opened.items() if name not in whole}
    return Frame("folder", settled.manifest, settled.standing, settled.key, problems, whole, damaged)


def _files(path: Path, stack: ExitStack, problems: list[Problem]) -> Iterator[tuple[str, FileReader]]:
    """The plain files of the folder, by name; whatever else is in it is a problem and left alone."""
    try:
        found = sorted(path.iterdir())
        for item in found:
            mode = item.lstat().st_mode
            shown = ascii(item.name[:100])[1:-1]
            if stat.S_ISLNK(mode):
                problems.append(
                    Problem(ProblemKind.EXTRA, "it is a symbolic link; it is not followed", shown)
                )
            elif not stat.S_ISREG(mode):
                what = "a folder" if stat.S_ISDIR(mode) else "no plain file"
                problems.append(Problem(ProblemKind.EXTRA, f"it is {what}, which no bundle holds", shown))
            elif not FILE_NAME.fullmatch(item.name):
                problems.append(Problem(ProblemKind.EXTRA, "no file of a bundle has such a name", shown))
            else:
                yield item.name, stack.enter_context(FileReader(item))
    except OSError as error:
        raise ArtifactError(
            f"The bundle {path} cannot be read ({error.strerror}).", "Check its rights."
        ) from error


def _derived(
    signature: bytes | None, entries: dict[str, FileEntry], readers: dict[str, FileReader]
) -> Iterator[bytes]:
    """The manifest that follows from the files, or that lies under another name."""
    signed = read_signature(signature)
    if signed is None:
        return
    ordered = tuple(sorted(entries.values(), key=lambda entry: entry.name))
    yield Manifest(ordered, signed.public_key.id).to_bytes()
    for entry in ordered:
        if entry.sha256 == signed.manifest_sha256:
            data = _small(readers[entry.name], MOST_MANIFEST_BYTES)
            if data is not None:
                yield data


def _small(reader: FileReader | None, most: int) -> bytes | None:
    if reader is None or reader.size > most:
        return None
    return reader.read_at(0, reader.size)


def _no_manifest(reader: FileReader | None) -> Problem:
    if reader is None:
        return Problem(ProblemKind.MISSING, "it is missing; is this a bundle?", MANIFEST_NAME)
    return Problem(ProblemKind.FORMAT, f"it has {reader.size:,} bytes, more than any manifest", MANIFEST_NAME)


def _unreadable(data: bytes) -> Problem:
    try:
        Manifest.read(data)
    except ValueError as error:
        return Problem(ProblemKind.FORMAT, f"it is no manifest: {error}", MANIFEST_NAME)
    return Problem(ProblemKind.FORMAT, "it is no manifest", MANIFEST_NAME)
