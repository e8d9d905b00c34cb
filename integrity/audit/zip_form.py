"""A bundle as a zip file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

from integrity.audit.container import (
    Placed,
    Stored,
    ends_in_first_file,
    local_header,
    walk_directory,
    walk_headers,
)
from integrity.audit.frame import (
    FileHashes,
    Frame,
    OpenFile,
    Settled,
    damage_problems,
    read_signature,
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
        lying = _small(reader, front, MANIFEST_NAME, MOST_MANIFEST_BYTES) or _small(
            reader, back, MANIFEST_NAME, MOST_MANIFEST_BYTES
        )
        attempt = settle(lying, _derived(reader, front, back, complete, text), text, trust)
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
    problems += [
        _in_container(problem, fixed) for problem in list(signature_problems(settled, list(problems)))
    ]
    if settled.of_another:
        problems += _checksum_problems(reader, [*front, *back])
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


def _checksum_problems(reader: FileReader, placed: Sequence[Placed]) -> Iterator[Problem]:
    """Where no manifest can be relied upon: files that do not fit the checksum that zip itself keeps twice."""
    told = set()
    for one in placed:
        name = one.part.name
        if name in told or name in (MANIFEST_NAME, SIGNATURE_NAME) or not FILE_NAME.fullmatch(name):
            continue
        try:
            with part_file(reader, one.start, one.part.size) as file:
                entry = hash_file(name, file, one.part.size)
        except ValueError:
            continue
        if entry.crc32 != one.part.crc32:
            told.add(name)
            last = max(0, one.part.size - 1)
            yield Problem(
                ProblemKind.CHANGED,
                "it does not fit the checksum of the container; where in it cannot be told",
                name,
                bytes=Span(0, last),
                container_bytes=Span(one.start, one.start + last),
            )


def _in_container(problem: Problem, fixed: Sequence[Known]) -> Problem:
    """With its place in the container, where it belongs to a file at its beginning."""
    place = 0
    for known in fixed:
        place += len(local_header(Stored(known.name, known.size, known.crc32)))
        if known.name == problem.file and problem.bytes is not None:
            span = Span(place + problem.bytes.first, place + problem.bytes.last)
            return replace(problem, container_bytes=span)
        place += known.size
    return problem


def _rank(settled: Settled | None) -> int:
    """How much a manifest is worth: signed, readable, none."""
    if settled is None:
        return 0
    return 1 if settled.standing in (None, Standing.FALSE) else 2


def _derived(
    reader: FileReader,
    front: Sequence[Placed],
    back: Sequence[Placed],
    complete: bool,
    signature: bytes | None,
) -> Iterator[bytes]:
    """The manifests that follow from the files, wherever they are by now."""
    signed = read_signature(signature)
    if signed is None:
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
        yield Manifest(tuple(entries), signed.public_key.id).to_bytes()


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
    if ends_in_first_file(reader):
        end = Span(reader.size, reader.size)
        yield Problem(
            ProblemKind.CUT_OFF, "it ends within the manifest; nothing can be judged", container_bytes=end
        )
        return
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
            "its first header is not as Greenfly writes it, and nothing behind it can be judged; if it was packed anew "
            "by another program, unpack it and verify the folder",
            container_bytes=Span(0, max(0, reader.size - 1)),
        )
        return
    first = front[0].part.name
    if first != MANIFEST_NAME:
        yield Problem(ProblemKind.MISSING, f"the first file is {_shown(first)}", MANIFEST_NAME)
        return
    data = _small(reader, front, MANIFEST_NAME, MOST_MANIFEST_BYTES)
    why = "it is larger than any manifest"
    if data is not None:
        try:
            Manifest.read(data)
        except ValueError as error:
            why = f"it is no manifest: {error}"
    yield Problem(
        ProblemKind.FORMAT,
        f"{why}; nothing behind it can be judged",
        MANIFEST_NAME,
        bytes=Span(0, front[0].part.size - 1),
        container_bytes=Span(0, max(0, reader.size - 1)),
    )


def _shown(name: str) -> str:
    return ascii(name[:80])[1:-1]
