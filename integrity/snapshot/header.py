"""The header of a snapshot: what was taken, when, and by which hashes its files are known.

The last entry is a hash of the others, so that a header is known to be as it was written.  Of an encrypted snapshot
there are two: ``header.json.age`` tells all, and ``header.json``, which anyone may read, leaves out what would let
one guess at content (the hashes of the plain files and the fingerprints).  The readable one must follow from the
sealed one to the byte.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Final, Literal, TypeAlias, get_args

import xxhash
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, field_validator

from integrity.errors import ArtifactError

Format: TypeAlias = Literal["greenfly-snapshot/1", "greenfly-snapshot/2", "greenfly-snapshot/3"]
FORMAT: Final[Format] = "greenfly-snapshot/2"
FORMAT_OF_FOREIGN: Final[Format] = "greenfly-snapshot/3"
"""Of a snapshot whose RDB file a server wrote."""
_KNOWN: Final = get_args(Format)
RDB_NAME, MANIFEST_NAME, HEADER_NAME = "dump.rdb", "manifest.parquet", "header.json"
CONSISTENCY: Final = "scan: each batch of keys is one moment, the whole is not a point in time under writes"
POINT_IN_TIME: Final = "replication: all keys are as they were at one moment"
AS_THE_FILE: Final = "file: as consistent as the RDB file is; servers write one moment"
_MOST_BYTES: Final = 16 * 1024 * 1024
_HASH: Final = r"^[0-9a-f]{32}$"
_Count = Annotated[int, Field(ge=0)]
_Xxh3 = Annotated[str, Field(pattern=_HASH)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FileEntry(_Part):
    """One file."""

    bytes: _Count
    xxh3_128: _Xxh3
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    """Of encrypted files, which others may have had in their hands."""


class DatabaseEntry(_Part):
    """One database."""

    keys: _Count
    kinds: dict[str, _Count]
    fingerprint: _Xxh3 | None = None
    """Over the keys that have a digest."""


class ForeignRdb(_Part):
    """An RDB file that a server wrote, as it was found when it was indexed."""

    path: str | None = None
    """Where it lies, if not in the snapshot's folder."""
    replication_id: str | None = None
    """Of a file that was received as a replica: the history of its server."""
    replication_offset: _Count | None = None
    """Where in that history the file stands."""
    aux: dict[str, str] = {}
    """What the file tells about itself."""
    checksum: bool = True
    """Whether it has a CRC-64 at its end; servers can be told to leave it out."""
    functions: tuple[str, ...] = ()
    """Names of the function libraries in the file; they are in no manifest and not restored."""
    module_data: tuple[str, ...] = ()
    """Modules that left data of their own beside the keys; it is not restored."""
    masked: _Count = 0
    """Keys that a Dragonfly marked as sticky, or with flags of Memcached; the marks are not restored."""

    def left_behind(self) -> list[str]:
        """Sentences about what is in the file and is not restored."""
        told = []
        if self.functions:
            told.append(f"Function libraries in the file are not written: {', '.join(self.functions)}.")
        if self.module_data:
            told.append(f"Data that modules keep beside keys is not written: {', '.join(self.module_data)}.")
        if self.masked:
            told.append(
                f"Dragonfly's marks (sticky, Memcached flags) are not written: {self.masked:,} keys have one."
            )
        return told


class Header(_Part):
    """All that a header tells."""

    format: Format
    greenfly_version: str
    checksum_definition: str
    consistency: str
    source: dict[str, JsonValue]
    started_at: datetime
    ended_at: datetime
    keys: _Count
    vanished_while_reading: _Count
    without_digest: _Count
    duplicates_dropped: _Count
    rdb_version: Annotated[int, Field(ge=1, le=9999)]
    databases: dict[Annotated[int, Field(ge=0)], DatabaseEntry]
    files: dict[str, FileEntry]
    """As they lie in the folder."""
    encryption: Literal["age/v1 x25519"] | None = None
    contents: dict[str, FileEntry] | None = None
    """Of an encrypted snapshot: the plain files."""
    foreign: ForeignRdb | None = None
    """None where Greenfly wrote the RDB file itself."""
    header_xxh3_128: _Xxh3 | None = None

    @field_validator("source", mode="before")
    @classmethod
    def _plain(cls, value: object) -> object:
        """As it comes back out of the file: tuples are lists there."""
        return json.loads(json.dumps(value)) if isinstance(value, dict) else value

    @property
    def encrypted(self) -> bool:
        """Whether the files are."""
        return self.encryption is not None

    @property
    def address(self) -> str:
        """The source's masked address."""
        return str(self.source.get("address", "?"))

    @property
    def size(self) -> int:
        """Bytes of all files on the disk, without the headers."""
        return sum(entry.bytes for entry in self.files.values())

    def plain_files(self) -> dict[str, FileEntry]:
        """The files as they are without encryption."""
        return self.contents or {} if self.encrypted else self.files

    def to_bytes(self) -> bytes:
        """The header's file, closed by the hash of everything before it."""
        values = self.model_dump(mode="json", exclude_none=True, exclude={"header_xxh3_128"})
        values["header_xxh3_128"] = _hash_of(values)
        return _text(values)

    def public(self) -> Header:
        """The header without what only those may know who can read the snapshot."""
        databases = {
            number: entry.model_copy(update={"fingerprint": None}) for number, entry in self.databases.items()
        }
        foreign = self.foreign.model_copy(update={"functions": (), "aux": {}}) if self.foreign else None
        return self.model_copy(update={"contents": None, "databases": databases, "foreign": foreign})


def parse_header(data: bytes, path: Path) -> Header:
    """A header from its bytes.

    :param path: the file's name, for the error.
    :raises ArtifactError: it is none, it was changed, or a newer version of Greenfly wrote it.
    """
    try:
        values = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{path} is damaged: it is not JSON ({error}).", _OTHER_COPY) from error
    written = values.get("format") if isinstance(values, dict) else None
    if not isinstance(values, dict) or not isinstance(written, str) or "greenfly-snapshot/" not in written:
        raise ArtifactError(f"{path} is not the header of a Greenfly snapshot.", "Name a snapshot's folder.")
    if written not in _KNOWN:
        raise ArtifactError(
            f"{path} has the format {written!r}, which this version does not know.",
            "Use the version of Greenfly that wrote it, or a newer one.",
        )
    claimed = values.get("header_xxh3_128")
    if written != _KNOWN[0] and (claimed != _hash_of(_without_hash(values)) or data != _text(values)):
        raise ArtifactError(f"{path} was changed after it was written: its own hash differs.", _OTHER_COPY)
    try:
        return Header.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ArtifactError(f"{path} is damaged: {place}: {first['msg']}.", _OTHER_COPY) from None


def read_header(path: Path) -> Header:
    """The header in the file *path*.

    :raises ArtifactError: it is missing or damaged.
    """
    return parse_header(read_small(path), path)


def read_small(path: Path) -> bytes:
    """The bytes of a file that is small when it is what it should be.

    :raises ArtifactError: it is missing, cannot be read, or is large.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except FileNotFoundError:
        raise ArtifactError(f"{path} is missing.", "Name the folder of a whole snapshot.") from None
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read ({error.strerror}).", "Check its rights.") from error
    if len(data) > _MOST_BYTES:
        raise ArtifactError(f"{path} is damaged: no header is that large.", _OTHER_COPY)
    return data


_OTHER_COPY: Final = "Use another snapshot, or another copy of this one."


def _without_hash(values: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in values.items() if name != "header_xxh3_128"}


def _hash_of(values: Mapping[str, object]) -> str:
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return xxhash.xxh3_128_hexdigest(text.encode("ascii"))


def _text(values: Mapping[str, object]) -> bytes:
    return json.dumps(values, indent=2).encode("ascii") + b"\n"
