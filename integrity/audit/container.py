"""The zip form of a bundle: stored, not compressed, and the same bytes for the same files.

Any unzip program opens it.  It is written here and not by a library because a checker makes every byte of it anew, also
those that no unzip program looks at, and a library's bytes change with its version.
"""

from __future__ import annotations

import shutil
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, Protocol

_LOCAL: Final = struct.Struct("<4s5H3I2H")
_CENTRAL: Final = struct.Struct("<4s6H3I5H2I")
_END: Final = struct.Struct("<4s4H2IH")
_END64: Final = struct.Struct("<4sQ2H2I4Q")
_LOCATOR: Final = struct.Struct("<4sIQI")
_EXTRA: Final = struct.Struct("<2H")
_LARGE: Final = 0xFFFFFFFF
_DATE: Final = 0x21
"""1 January 1980, the oldest that zip knows: the time of export is a fact of the bundle, not of its container."""
_MODE: Final = 0o100644 << 16
_MADE_ON_UNIX: Final = 3 << 8
_PLAIN: Final = 20
_WITH_64: Final = 45


@dataclass(frozen=True, slots=True)
class Stored:
    """One file in the container."""

    name: str
    size: int
    crc32: int


class Reader(Protocol):
    """Something with a size that is read at any place."""

    @property
    def size(self) -> int:
        """Bytes."""

    def read_at(self, offset: int, size: int) -> bytes:
        """At most *size* bytes, fewer at the end."""


def local_header(part: Stored, large: int = _LARGE) -> bytes:
    """What stands before a file.

    :param large: from which size on the 64-bit form is used.
    """
    name = part.name.encode("ascii")
    is_large = part.size >= large
    size = _LARGE if is_large else part.size
    extra = _EXTRA.pack(1, 16) + struct.pack("<2Q", part.size, part.size) if is_large else b""
    version = _WITH_64 if is_large else _PLAIN
    return (
        _LOCAL.pack(b"PK\3\4", version, 0, 0, 0, _DATE, part.crc32, size, size, len(name), len(extra))
        + name
        + extra
    )


def central_headers(parts: Sequence[Stored], large: int = _LARGE) -> Iterator[bytes]:
    """The directory at the end: one header for each file, then the end record."""
    offset, directory = 0, 0
    for part in parts:
        header = _central_header(part, offset, large)
        yield header
        directory += len(header)
        offset += len(local_header(part, large)) + part.size
    count, is_large = len(parts), offset >= large or directory >= large or len(parts) >= 0xFFFF
    end = b""
    if is_large:
        end += _END64.pack(
            b"PK\6\6", 44, _MADE_ON_UNIX | _WITH_64, _WITH_64, 0, 0, count, count, directory, offset
        )
        end += _LOCATOR.pack(b"PK\6\7", 0, offset + directory, 1)
    shown = min(count, 0xFFFF)
    place, length = (_LARGE, _LARGE) if is_large else (offset, directory)
    yield end + _END.pack(b"PK\5\6", 0, 0, shown, shown, length, place, 0)


def _central_header(part: Stored, offset: int, large: int) -> bytes:
    name = part.name.encode("ascii")
    wide = [part.size, part.size] if part.size >= large else []
    far = offset >= large
    numbers = wide + ([offset] if far else [])
    extra = _EXTRA.pack(1, 8 * len(numbers)) + struct.pack(f"<{len(numbers)}Q", *numbers) if numbers else b""
    version = _WITH_64 if numbers else _PLAIN
    size = _LARGE if wide else part.size
    fixed = _CENTRAL.pack(
        b"PK\1\2",
        _MADE_ON_UNIX | version,
        version,
        *(0, 0, 0, _DATE, part.crc32, size, size, len(name), len(extra), 0, 0, 0),
        _MODE,
        _LARGE if far else offset,
    )
    return fixed + name + extra


def write_container(files: Sequence[tuple[Stored, Path]], out: BinaryIO, large: int = _LARGE) -> None:
    """Write the container front to back.

    :raises ValueError: a file has not the size it is said to have.
    """
    for part, path in files:
        out.write(local_header(part, large))
        with path.open("rb") as file:
            before = out.tell()
            shutil.copyfileobj(file, out, 1 << 20)
            if out.tell() - before != part.size:
                raise ValueError(f"{part.name} changed while it was read")
    for header in central_headers([part for part, _ in files], large):
        out.write(header)


def stored(name: str, data: bytes) -> Stored:
    """A small file."""
    return Stored(name, len(data), zlib.crc32(data))


# -- reading ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Placed:
    """A file as the container says it holds it."""

    part: Stored
    start: int
    """Of its content."""


def walk_headers(reader: Reader, large: int = _LARGE) -> tuple[list[Placed], bool]:
    """Files by their local headers, front to back, as long as each header is exactly as it would be written.

    :returns: the files, and whether the directory follows the last one.
    """
    found: list[Placed] = []
    offset = 0
    while True:
        fixed = reader.read_at(offset, _LOCAL.size)
        if len(fixed) < _LOCAL.size or fixed[:4] != b"PK\3\4":
            return found, fixed[:4] in (b"PK\1\2", b"PK\5\6", b"PK\6\6")
        _, _, _, _, _, _, crc, size, _, name_length, extra_length = _LOCAL.unpack(fixed)
        rest = reader.read_at(offset + _LOCAL.size, name_length + extra_length)
        if size == _LARGE and extra_length == 20 and len(rest) == name_length + 20:
            (size,) = struct.unpack_from("<Q", rest, name_length + _EXTRA.size)
        part = _part(rest[:name_length], size, crc)
        if part is None or local_header(part, large) != fixed + rest:
            return found, False
        start = offset + len(fixed) + len(rest)
        if start + size > reader.size:
            return found, False
        found.append(Placed(part, start))
        offset = start + size


def ends_in_first_file(reader: Reader) -> bool:
    """Whether the container begins as it would be written, and ends before the end of its first file."""
    fixed = reader.read_at(0, _LOCAL.size)
    pattern = local_header(Stored("manifest.json", 0, 0))
    if len(fixed) < _LOCAL.size:
        return pattern.startswith(fixed[:14]) and len(fixed) > 0
    crc, size = struct.unpack_from("<2I", fixed, 14)
    header = local_header(Stored("manifest.json", size, crc))
    begin = reader.read_at(0, len(header))
    return header.startswith(begin) and len(header) + size > reader.size


def walk_directory(reader: Reader, large: int = _LARGE) -> list[Placed]:
    """Files by the directory at the end, read backward from the end; places are moved by what came in or went missing.

    For a container whose beginning is damaged: nothing in it is relied upon before a signature fits.
    """
    end = reader.read_at(max(0, reader.size - _END.size), _END.size)
    if len(end) < _END.size or end[:4] != b"PK\5\6":
        return []
    _, _, _, _, count, length, place, _ = _END.unpack(end)
    behind = _END.size
    if place == _LARGE:
        behind += _END64.size + _LOCATOR.size
        wide = reader.read_at(max(0, reader.size - behind), _END64.size)
        if len(wide) < _END64.size or wide[:4] != b"PK\6\6":
            return []
        count, length, place = _END64.unpack(wide)[7:10]
    start = reader.size - behind - length
    if start < 0 or length > 64 * 1024 * 1024:
        return []
    directory, shift = reader.read_at(start, length), start - place
    found: list[Placed] = []
    cursor = 0
    while cursor + _CENTRAL.size <= len(directory):
        fields = _CENTRAL.unpack_from(directory, cursor)
        crc, size, name_length, extra_length, offset = (
            fields[7],
            fields[9],
            fields[10],
            fields[11],
            fields[16],
        )
        name_end = cursor + _CENTRAL.size + name_length
        extra = directory[name_end : name_end + extra_length]
        numbers = [number for (number,) in struct.iter_unpack("<Q", extra[4 : 4 + (len(extra) - 4) // 8 * 8])]
        if size == _LARGE and len(numbers) >= 2:
            size = numbers[0]
        if offset == _LARGE and numbers:
            offset = numbers[-1]
        part = _part(directory[cursor + _CENTRAL.size : name_end], size, crc)
        if part is None:
            return []
        found.append(Placed(part, offset + shift + len(local_header(part, large))))
        cursor = name_end + extra_length
    return found if len(found) == count else []


def _part(name: bytes, size: int, crc: int) -> Stored | None:
    try:
        text = name.decode("ascii")
    except UnicodeDecodeError:
        return None
    return Stored(text, size, crc) if text else None
