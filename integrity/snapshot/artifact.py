"""A finished snapshot, opened for reading."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from integrity.errors import ArtifactError
from integrity.snapshot.files import open_seekable, open_stream
from integrity.snapshot.foreign_walk import ForeignWalk
from integrity.snapshot.header import (
    HEADER_NAME,
    MANIFEST_NAME,
    RDB_NAME,
    Header,
    parse_header,
    read_header,
    read_small,
)
from integrity.snapshot.manifest import ManifestReader
from integrity.snapshot.sealing import SUFFIX, Keys, unseal
from integrity.snapshot.walk import RdbWalk, Walk


class Artifact:
    """One snapshot's folder, its header read and, where it is encrypted, held against its sealed copy."""

    def __init__(self, directory: Path, header: Header, keys: Keys) -> None:
        suffix = SUFFIX if header.encrypted else ""
        elsewhere = header.foreign.path if header.foreign is not None else None
        self.directory = directory
        self.header = header
        self.rdb_name = RDB_NAME if elsewhere else RDB_NAME + suffix
        """As the header names it."""
        self.rdb = Path(elsewhere) if elsewhere else directory / self.rdb_name
        """Where it lies: a file that was only read stays where it was."""
        self.manifest = directory / (MANIFEST_NAME + suffix)
        self._keys = keys

    @classmethod
    def open(cls, directory: Path, keys: Keys) -> Self:
        """Open a snapshot's folder.

        :raises ArtifactError: the header is missing, damaged, changed or unknown, or *keys* do not open it.
        """
        path = directory / HEADER_NAME
        header = read_header(path)
        if header.encrypted:
            seal = directory / (HEADER_NAME + SUFFIX)
            sealed = parse_header(unseal(seal, keys), seal)
            if sealed.public().to_bytes() != read_small(path):
                raise ArtifactError(
                    f"{path} does not agree with its sealed copy {seal.name}: one of the two was changed or exchanged.",
                    "Use another snapshot, or another copy of this one.",
                )
            header = sealed
        artifact = cls(directory, header, keys)
        if set(header.files) != {artifact.rdb_name, artifact.manifest.name}:
            raise ArtifactError(
                f"{path} is damaged: it names other files than {artifact.rdb_name} and {artifact.manifest.name}.",
                "Use another snapshot, or another copy of this one.",
            )
        return artifact

    @contextmanager
    def open_manifest(self) -> Iterator[ManifestReader]:
        """The manifest.

        :raises ArtifactError: it is missing or damaged.
        """
        with open_seekable(self.manifest, self._keys) as file, ManifestReader(file, self.manifest) as reader:
            yield reader

    @contextmanager
    def open_rdb(self) -> Iterator[Walk]:
        """The RDB file, at its beginning.

        :raises ArtifactError: it is missing or cannot be read.
        """
        with open_stream(self.rdb, self._keys) as stream:
            walk = RdbWalk if self.header.foreign is None else ForeignWalk
            yield walk(stream, self.rdb, self.header.rdb_version)
