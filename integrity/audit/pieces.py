"""Where something was changed: what is there, laid beside pieces of which each is known by its bytes or its hash."""

from __future__ import annotations

import io
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Self

from integrity.audit.container import Reader, Stored, central_headers, local_header
from integrity.audit.manifest import FileEntry, block_hash
from integrity.audit.model import Span

_FIXED_PIECE: Final = 1024


class FileReader:
    """A file on the disk, read at any place; symbolic links are not followed.  Use as a context manager.

    :raises OSError: it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        self.size = os.fstat(self._handle).st_size

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._handle)

    def read_at(self, offset: int, size: int) -> bytes:
        """At most *size* bytes, fewer at the end."""
        parts: list[bytes] = []
        while size > 0 and (data := os.pread(self._handle, min(size, 1 << 24), offset)):
            parts.append(data)
            offset += len(data)
            size -= len(data)
        return b"".join(parts)


class Part(io.RawIOBase):
    """A stretch of a reader as a file."""

    def __init__(self, reader: Reader, start: int, size: int) -> None:
        super().__init__()
        self._reader = reader
        self._start = self._at = start
        self._end = start + size

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a place, as in any file."""
        base = {os.SEEK_SET: self._start, os.SEEK_CUR: self._at, os.SEEK_END: self._end}[whence]
        self._at = max(self._start, base + offset)
        return self._at - self._start

    def readinto(self, buffer: object) -> int:
        """The next bytes."""
        view = memoryview(buffer)  # type: ignore[arg-type]
        data = self._reader.read_at(self._at, max(0, min(len(view), self._end - self._at)))
        view[: len(data)] = data
        self._at += len(data)
        return len(data)


def part_file(reader: Reader, start: int, size: int) -> io.BufferedReader:
    """A stretch of *reader* as a buffered file."""
    return io.BufferedReader(Part(reader, start, size), 1 << 16)


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of what is examined: known to the byte, or by its hash, or known to be wrong where neither is given."""

    start: int
    length: int
    file: str | None
    """None for what belongs to the container itself."""
    offset: int
    """In that file."""
    label: str
    expected: bytes | None = None
    digest: str | None = None

    def fits(self, data: bytes) -> bool:
        """Whether *data* is this piece."""
        if len(data) != self.length:
            return False
        return data == self.expected if self.expected is not None else block_hash(data) == self.digest


def pieces_of_file(entry: FileEntry, start: int = 0) -> Iterator[Piece]:
    """The blocks of a file that begins at *start*."""
    for number, digest in enumerate(entry.blocks):
        offset = number * entry.block_bytes
        length = min(entry.block_bytes, entry.size - offset)
        yield Piece(start + offset, length, entry.name, offset, entry.name, digest=digest)


def pieces_of_bytes(data: bytes, start: int, file: str | None, label: str) -> Iterator[Piece]:
    """Stretches of something that is known to the byte."""
    for offset in range(0, len(data), _FIXED_PIECE):
        part = data[offset : offset + _FIXED_PIECE]
        yield Piece(start + offset, len(part), file, offset, label, expected=part)


@dataclass(frozen=True, slots=True)
class Known:
    """A file that is known to the byte, but for one gap that is known to be wrong."""

    name: str
    before: bytes
    gap: int = 0
    """Bytes."""
    behind: bytes = b""
    crc32: int = 0
    """As the container states it; where there is a gap, nobody knows what it should be."""

    @classmethod
    def whole(cls, name: str, data: bytes) -> Self:
        """A file without a gap."""
        return cls(name, data, crc32=zlib.crc32(data))

    @property
    def size(self) -> int:
        """Bytes."""
        return len(self.before) + self.gap + len(self.behind)

    def pieces(self, start: int = 0) -> Iterator[Piece]:
        """Its stretches, where it begins at *start*."""
        yield from pieces_of_bytes(self.before, start, self.name, self.name)
        at = len(self.before)
        if self.gap:
            yield Piece(start + at, self.gap, self.name, at, self.name)
        for piece in pieces_of_bytes(self.behind, start + at + self.gap, self.name, self.name):
            yield replace(piece, offset=piece.offset + at + self.gap)


def pieces_of_container(fixed: Sequence[Known], entries: Sequence[FileEntry]) -> list[Piece]:
    """The whole zip form: manifest and signature, then files known by their hashes, then the directory."""
    pieces: list[Piece] = []
    parts = [Stored(known.name, known.size, known.crc32) for known in fixed]
    parts += [Stored(entry.name, entry.size, entry.crc32) for entry in entries]
    contents = {known.name: known for known in fixed}
    by_name = {entry.name: entry for entry in entries}
    place = 0
    for part in parts:
        header = local_header(part)
        pieces += pieces_of_bytes(header, place, None, f"the header of {part.name}")
        place += len(header)
        if part.name in contents:
            pieces += contents[part.name].pieces(place)
        else:
            pieces += pieces_of_file(by_name[part.name], place)
        place += part.size
    for header in central_headers(parts):
        pieces += pieces_of_bytes(header, place, None, "the directory at the end")
        place += len(header)
    return pieces


@dataclass(frozen=True, slots=True)
class Damage:
    """Neighbouring pieces of one file, or of the container, that are not as they were exported."""

    file: str | None
    label: str
    bytes: Span
    """In that file as it was exported; in the container, where it belongs to that."""
    place: Span
    """In what was examined, as it was exported."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """What is there beside what was exported."""

    damages: tuple[Damage, ...]
    longer_by: int
    """Bytes; negative where some are missing."""
    to_the_end: bool
    """Whether everything from the first damage on is missing or different."""


def compare(
    reader: Reader, pieces: Sequence[Piece], seen: Callable[[Piece, bytes], None] = lambda _piece, _data: None
) -> Comparison:
    """Read all of *reader* and lay it beside *pieces*.

    Where bytes came in or went missing, everything behind them has moved: what fits again when it is counted from the
    end is not damaged.

    :param seen: told of each piece with what stands in its place.
    """
    expected = pieces[-1].start + pieces[-1].length if pieces else 0
    longer_by = reader.size - expected
    bad: list[int] = []
    for number, piece in enumerate(pieces):
        data = reader.read_at(piece.start, piece.length)
        seen(piece, data)
        if not piece.fits(data):
            bad.append(number)
            if longer_by:
                break
    if not longer_by:
        damages = [_exactly(reader, pieces[number]) for number in bad]
        return Comparison(tuple(_merged(damages)), 0, bool(bad) and bad[-1] == len(pieces) - 1)
    if not bad:
        span = Span(expected, reader.size - 1)
        last = pieces[-1] if pieces else Piece(0, 0, None, 0, "")
        return Comparison((Damage(last.file, last.label, span, span),), longer_by, to_the_end=True)
    first, end = bad[0], len(pieces) - 1
    while end > first and pieces[end].start + longer_by >= 0:
        piece = pieces[end]
        if not piece.fits(reader.read_at(piece.start + longer_by, piece.length)):
            break
        end -= 1
    damages = [_whole(piece) for piece in pieces[first : end + 1]]
    return Comparison(tuple(_merged(damages)), longer_by, end == len(pieces) - 1)


def _whole(piece: Piece) -> Damage:
    return _damage(piece, 0, piece.length - 1)


def _exactly(reader: Reader, piece: Piece) -> Damage:
    """Where the bytes are known, exactly those that differ."""
    if piece.expected is None:
        return _whole(piece)
    data = reader.read_at(piece.start, piece.length)
    wrong = [
        place for place in range(piece.length) if data[place : place + 1] != piece.expected[place : place + 1]
    ]
    return _damage(piece, wrong[0], wrong[-1])


def _damage(piece: Piece, first: int, last: int) -> Damage:
    place = Span(piece.start + first, piece.start + last)
    inside = place if piece.file is None else Span(piece.offset + first, piece.offset + last)
    return Damage(piece.file, piece.label, inside, place)


def _merged(damages: Sequence[Damage]) -> Iterator[Damage]:
    """Neighbours of the same file as one."""
    held: Damage | None = None
    for damage in damages:
        if (
            held is not None
            and (held.file, held.label) == (damage.file, damage.label)
            and held.place.last + 1 == damage.place.first
        ):
            held = Damage(
                held.file,
                held.label,
                Span(held.bytes.first, damage.bytes.last),
                Span(held.place.first, damage.place.last),
            )
            continue
        if held is not None:
            yield held
        held = damage
    if held is not None:
        yield held


def lines_at(file: io.BufferedReader, span: Span) -> Span:
    """The lines of *file* that hold its bytes *span*."""
    first = last = 1
    place = 0
    while place < span.last and (data := file.read(min(1 << 20, span.last - place))):
        if place < span.first:
            first += data[: span.first - place].count(b"\n")
        last += data.count(b"\n")
        place += len(data)
    return Span(first, last)
