"""What the phases of one run from a file share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from integrity.endpoint import Endpoint, Identity
from integrity.from_rdb.source_file import SourceFile
from integrity.migration import Run
from integrity.progress import Progress
from integrity.rules import Rules
from integrity.settings import Settings
from integrity.snapshot.artifact import Artifact
from integrity.snapshot.header import RDB_NAME


@dataclass(frozen=True, slots=True)
class Subject:
    """A file that was indexed, and where it goes."""

    run: Run
    progress: Progress
    file: SourceFile
    artifact: Artifact
    """The index."""
    target: Endpoint
    identity: Identity
    """Of the target, as the run began."""
    rules: Rules

    @property
    def settings(self) -> Settings:
        """Of the run."""
        return self.run.settings

    @property
    def databases(self) -> Sequence[int]:
        """Those of the file that the run is about, ascending."""
        found = sorted(self.artifact.header.databases)
        wanted = self.settings.databases
        return found if wanted is None else [number for number in found if number in wanted]

    @property
    def keys(self) -> int:
        """Keys in these databases."""
        return sum(self.artifact.header.databases[number].keys for number in self.databases)

    @property
    def xxh3(self) -> str:
        """XXH3-128 of the file."""
        return self.artifact.header.plain_files()[RDB_NAME].xxh3_128
