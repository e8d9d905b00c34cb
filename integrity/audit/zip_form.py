"""A bundle as a zip file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from integrity.audit.container import Placed, Stored, local_header, walk_directory, walk_headers
from integrity.audit.frame import (
    FileHashes,
    Frame,
    OpenFile,
    Settled,
    damage_problems,
    settle,
    signature_problems,
)
from integrity.audit.keys import Standing, Trust
from integrity.audit.manifest import (
    FILE_NAME,
    MANIFEST_NAME,
    MOST_MANIFEST_BYTES,
    MOST_SIGNATURE_BYTES,
    SIGNATURE_NAME,
    Manifest,
    ManifestSignature,
    hash_file,
)
from integrity.audit.model import Problem, ProblemKind, Span
from integrity.audit.pieces import FileReader, Known, compare, part_file, pieces_of_container


def open_zip(reader: FileReader, trust: Trust) -> Frame:
    """Look at a container and all files in it."""
    front, complete = walk_headers(reader)
    back = walk_directory(reader)
    signature = _small(reader, front, SIGNATURE_NAME, MOST_SIGNATURE_BYTES)
    settled = None
    for text in (signature, _small(reader, back, SIGNATURE_NAME, MOST_SIGNATURE_BYTES)):
        attempt = settle(_candidates(reader, front, back, complete, text), text, trust)
        if settled is None or (attempt is not None and _rank(attempt) > _rank(settled)):
            settled = attempt
    if settled is None:
        return Frame("zip", None, None, None, list(_not_ours(reader, front, complete)), {}, {})
    fixed = [_with_stated_crc(known, [*front, *back]) for known in settled.files]
    hashes = FileHashes()
    comparison = compare(reader, pieces_of_container(fixed, settled.manifest.files), hashes.see)
    opened = dict(_opened(reader, settled, fixed))
    problems = list(damage_problems(comparison, in_container=True, files=opened))
    problems += _order_problems(settled, front, complete)
    if not any(problem.file == SIGNATURE_NAME for problem in problems):
        problems += signature_problems(settled)
    touched = {damage.file for damage in comparison.damages}
    if comparison.longer_by:
        opened = {}
    for entry in settled.manifest.files:
        if entry.name in opened and entry.name not in touched and hashes.of(entry.name) != entry.sha256:
            problems.append(Problem(ProblemKind.CHANGED, "its SHA-256 is another one", entry.name))
            touched.add(entry.name)
    whole = {name: file for name, file in opened.items() if name not in touched}
    damaged = {name: file for name, file in opened.items() if name in touched}
    return Frame("zip", settled.manifest, settled.standing, settled.key, problems, whole, damaged)


def _rank(settled: Settled | None) -> int:
    """How much a manifest is worth: signed, readable, none."""
    if settled is None:
        return 0
    return 1 if settled.standing in (None, Standing.FALSE) else 2


def _candidates(
    reader: FileReader,
    front: Sequence[Placed],
    back: Sequence[Placed],
    complete: bool,
    signature: bytes | None,
) -> Iterator[bytes]:
    """The manifest at the front; then what follows from the files, wherever they are by now."""
    for placed in (front, back):
        data = _small(reader, placed, MANIFEST_NAME, MOST_MANIFEST_BYTES)
        if data is not None:
            yield data
    if signature is None:
        return
    try:
        key = ManifestSignature.read(signature).public_key
    except ValueError:
        return
    for placed in (front if complete else (), back):
        files = [one for one in placed if one.part.name not in (MANIFEST_NAME, SIGNATURE_NAME)]
        if not files or not all(FILE_NAME.fullmatch(one.part.name) for one in files):
            continue
        try:
            entries = []
            for one in files:
                with part_file(reader, one.start, one.part.size) as file:
                    entries.append(hash_file(one.part.name, file, one.part.size))
        except ValueError:
            continue
        yield Manifest(tuple(entries), key.id).to_bytes()


def _small(reader: FileReader, placed: Sequence[Placed], name: str, most: int) -> bytes | None:
    for one in placed:
        if one.part.name == name and one.part.size <= most and one.start >= 0:
            return reader.read_at(one.start, one.part.size)
    return None


def _with_stated_crc(known: Known, placed: Sequence[Placed]) -> Known:
    """A file with a gap has the checksum that the container states, as nobody knows it."""
    if not known.gap:
        return known
    stated = next((one.part.crc32 for one in placed if one.part.name == known.name), 0)
    return Known(known.name, known.before, known.gap, known.behind, stated)


def _opened(reader: FileReader, settled: Settled, fixed: Sequence[Known]) -> Iterator[tuple[str, OpenFile]]:
    """Each file at the place where it belongs."""
    place = 0
    parts = [Stored(known.name, known.size, known.crc32) for known in fixed]
    parts += [Stored(entry.name, entry.size, entry.crc32) for entry in settled.manifest.files]
    for part in parts:
        place += len(local_header(part))
        yield part.name, partial(part_file, reader, place, part.size)
        place += part.size


def _order_problems(settled: Settled, front: Sequence[Placed], complete: bool) -> Iterator[Problem]:
    """Whole files that are missing, added or in another order, in a container that is otherwise well made."""
    if not complete:
        return
    expected = [MANIFEST_NAME] + ([SIGNATURE_NAME] if settled.manifest.signed_by is not None else [])
    expected += [entry.name for entry in settled.manifest.files]
    found = [one.part.name for one in front]
    if found == expected:
        return
    for name in expected:
        if name not in found:
            yield Problem(ProblemKind.MISSING, "it is missing", name)
    for number, name in enumerate(found):
        if name not in expected or name in found[:number]:
            why = "it is there twice" if name in expected else "the manifest does not list it"
            yield Problem(ProblemKind.EXTRA, why, _shown(name))
    if sorted(found) == sorted(expected):
        for should, name in zip(expected, found, strict=True):
            if should != name:
                yield Problem(ProblemKind.MISPLACED, f"{name} stands where it belongs", should)


def _not_ours(reader: FileReader, front: Sequence[Placed], complete: bool) -> Iterator[Problem]:
    """Why there is no manifest."""
    if not front:
        begin = reader.read_at(0, 4)
        if begin != b"PK\3\4":
            yield Problem(
                ProblemKind.FORMAT,
                "this is no zip file, or its beginning is missing",
                container_bytes=Span(0, 0),
            )
            return
        yield Problem(
            ProblemKind.CONTAINER,
            "its first header is not as Greenfly writes it; if it was packed anew by another program, unpack it and "
            "verify the folder, or it ends before the end of the manifest",
            container_bytes=Span(0, max(0, reader.size - 1)),
        )
        return
    first = front[0].part.name
    if first != MANIFEST_NAME:
        yield Problem(ProblemKind.MISSING, f"the first file is {_shown(first)}", MANIFEST_NAME)
        return
    data = _small(reader, front, MANIFEST_NAME, MOST_MANIFEST_BYTES)
    if data is None:
        yield Problem(ProblemKind.FORMAT, "it is larger than any manifest", MANIFEST_NAME)
        return
    try:
        Manifest.read(data)
        why = "it is none"
    except ValueError as error:
        why = str(error)
    span = Span(front[0].start, front[0].start + len(data) - 1)
    yield Problem(
        ProblemKind.FORMAT,
        f"it is no manifest: {why}",
        MANIFEST_NAME,
        bytes=Span(0, len(data) - 1),
        container_bytes=span,
    )


def _shown(name: str) -> str:
    return ascii(name[:80])[1:-1]
