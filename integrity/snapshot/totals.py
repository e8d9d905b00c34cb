"""What a snapshot holds and what a restore wrote, counted while they run."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from typing import Literal

from integrity.checksum import Fingerprint
from integrity.snapshot.header import DatabaseEntry
from integrity.snapshot.manifest import ManifestRow


@dataclass(slots=True)
class SnapshotTotals:
    """What one snapshot holds, growing while it is taken."""

    keys: int = 0
    vanished: int = 0
    uncompared: int = 0
    """Keys without a canonical digest (a type that Greenfly does not know)."""
    body_bytes: int = 0
    duplicates: int = 0
    in_pieces: int = 0
    """Keys that were read in pieces, with those that SCAN returned twice."""
    unsettled: int = 0
    """Big keys that were written to during every attempt to read them in pieces, and so were read whole."""
    tallies: dict[tuple[int, str], tuple[int, int]] = field(default_factory=dict)
    fingerprints: dict[int, Fingerprint] = field(default_factory=dict)

    def count(
        self, database: int, kind: str, key: bytes, digest: bytes | None, length: int, sign: int
    ) -> None:
        """Count one key in (*sign* +1) or out again (−1)."""
        self.keys += sign
        self.body_bytes += sign * length
        keys, size = self.tallies.get((database, kind), (0, 0))
        self.tallies[database, kind] = (keys + sign, size + sign * length)
        if digest is None:
            self.uncompared += sign
        elif sign > 0:
            self.fingerprints.setdefault(database, Fingerprint()).add(key, digest)
        else:
            self.fingerprints[database].remove(key, digest)

    def databases(self) -> dict[int, DatabaseEntry]:
        """The header's table."""
        return {
            number: DatabaseEntry(
                keys=sum(keys for (database, _), (keys, _) in self.tallies.items() if database == number),
                kinds={
                    kind: keys
                    for (database, kind), (keys, _) in sorted(self.tallies.items())
                    if database == number
                },
                fingerprint=self.fingerprints.get(number, Fingerprint()).hex(),
            )
            for number in sorted({database for database, _ in self.tallies})
        }


@dataclass(frozen=True, slots=True)
class RefusedKey:
    """A key that the target did not take."""

    database: int
    key: bytes
    kind: str
    detail: str


@dataclass(frozen=True, slots=True)
class OddKey:
    """A key that was not written, or not all of it."""

    what: Literal["kept", "refused", "not carried"]
    """``kept``: the target has it, and the policy is to leave it; ``not carried``: written, but for what is told."""
    database: int
    """Of the snapshot, as is the name."""
    key: bytes
    kind: str
    detail: str


@dataclass(slots=True)
class RestoreTotals:
    """What one restore wrote, growing while it runs."""

    written: int = 0
    skipped: int = 0
    """Keys that the target had already, kept by the rule conflict=skip."""
    relabelled: int = 0
    """Keys whose payload the target took only under an older RDB version."""
    downgraded: int = 0
    """Streams that the target took only in an older form."""
    in_pieces: int = 0
    """Big keys that were written with typed commands."""
    rewritten: int = 0
    """Other keys that were, because the target refused their payload."""
    not_carried: int = 0
    """Of these, keys of which typed commands could not carry everything."""
    left_out: int = 0
    """Keys of databases that were not asked for, or that a rule leaves out."""
    size: int = 0
    """Payload bytes written, of big keys the bytes of the body."""
    refused: list[RefusedKey] = field(default_factory=list)
    not_written: array[int] = field(default_factory=lambda: array("Q"))
    """Row numbers, ascending, of the keys that were skipped or refused."""
    tallies: dict[tuple[int, str], tuple[int, int]] = field(default_factory=dict)
    """(database, kind) → keys and bytes of bodies that were written."""

    def tally(self, row: ManifestRow) -> None:
        """Count one key that was written."""
        keys, size = self.tallies.get((row.database, row.kind), (0, 0))
        self.tallies[row.database, row.kind] = (keys + 1, size + row.length)
