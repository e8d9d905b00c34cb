"""What changed between two snapshots, told from their manifests alone.

Three steps, in memory that does not grow with the values and hardly with the keys.  *Sketch*: of every row, 128 bits
of hash of its database and key, its digest, its expiry and its kind go as fixed-size records into a nameless temporary
file.  *Join*: the records of both sides are sorted and matched, slice by slice of the hash's range.  *Tell*: both
manifests are read once more, and the rows that the join marked are counted and listed by name.

A manifest that is encrypted stays so: its sketch holds hashes of keys, salted, and digests.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from tempfile import TemporaryFile
from typing import IO, Final

import numpy as np
import numpy.typing as npt
from xxhash import xxh3_128_digest

from integrity.errors import ArtifactError, Refused
from integrity.snapshot.artifact import Artifact
from integrity.snapshot.files import hash_file
from integrity.snapshot.manifest import ManifestReader

_RECORD: Final = np.dtype(
    [
        ("high", ">u8"),
        ("low", ">u8"),
        ("digest", "<u8", (2,)),
        ("body", "<u8"),
        ("expiry", "<i8"),
        ("kind", "<u4"),
        ("flags", "u1"),
    ]
)
_HAS_DIGEST, _HAS_BODY = 1, 2
_NO_EXPIRY: Final = -1
_SLICE_ROWS: Final = 500_000
"""Rows of both sides that are sorted at once."""
_MOST_GROUPS: Final = 10_000
OTHER_PREFIXES: Final = "(other prefixes)"
NO_PREFIX: Final = "(no prefix)"

# Marks of rows, one byte each.
_ONLY_HERE, _VALUE, _EXPIRY, _TYPE, _UNCOMPARED = 1, 2, 4, 8, 16
CHANGES: Final = ("added", "removed", "value", "expiry", "type", "uncompared")

Marks = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class ListedKey:
    """One key that differs."""

    change: tuple[str, ...]
    """Of :data:`CHANGES`; a value and its expiry may both have changed."""
    database: int
    key: bytes
    kind: str
    """In the first snapshot; of an added key in the second."""


@dataclass(slots=True)
class Difference:
    """What changed from snapshot A to snapshot B."""

    keys_before: int = 0
    keys_after: int = 0
    added: int = 0
    removed: int = 0
    changed: int = 0
    """Keys with another value, expiry or type; each once."""
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(CHANGES, 0))
    groups: dict[tuple[int, str, str], dict[str, int]] = field(default_factory=dict)
    """(database, kind, prefix) → change → keys; prefixes beyond ten thousand groups are put together."""
    listed: list[ListedKey] = field(default_factory=list)

    @property
    def same(self) -> bool:
        """Whether nothing differs."""
        return not (self.added or self.removed or self.changed)

    @property
    def uncompared(self) -> int:
        """Keys of a type without a digest whose stored bytes differ: perhaps the same value, perhaps not."""
        return self.counts["uncompared"]


def compare_snapshots(
    before: Artifact,
    after: Artifact,
    *,
    separator: bytes,
    list_keys: int,
    tolerance_ms: int,
    on_progress: Callable[[int, int], None] = lambda keys, size: None,
) -> Difference:
    """Tell what changed.

    :param separator: what ends a key's prefix.
    :param list_keys: how many keys to name.
    :param tolerance_ms: how far apart two expiries may be and still count as the same.
    :param on_progress: told keys as they are read; every key is read twice.
    :raises Refused: the two were made by different checksum definitions.
    :raises ArtifactError: a manifest is missing or damaged.
    """
    definitions = [artifact.header.checksum_definition for artifact in (before, after)]
    if definitions[0] != definitions[1]:
        raise Refused(
            f"The digests of the two snapshots are of different definitions ({definitions[0]} and {definitions[1]}).",
            "Restore both and compare them by `greenfly verify`, or take both with one version.",
        )
    for artifact in (before, after):
        _require_intact(artifact)
    difference = Difference()
    with ExitStack() as stack:
        manifests = [stack.enter_context(artifact.open_manifest()) for artifact in (before, after)]
        difference.keys_before, difference.keys_after = (manifest.keys for manifest in manifests)
        kinds: dict[str, int] = {}
        salt = secrets.token_bytes(16)
        sketches = [
            _sketch(manifest, stack.enter_context(TemporaryFile()), kinds, salt, on_progress)
            for manifest in manifests
        ]
        marks = _join(sketches[0], sketches[1], tolerance_ms)
        for manifest, mark, here in zip(manifests, marks, ("removed", "added"), strict=True):
            _tell(manifest, mark, here, separator, list_keys, difference, on_progress)
    difference.added, difference.removed = difference.counts["added"], difference.counts["removed"]
    return difference


def _require_intact(artifact: Artifact) -> None:
    """A damaged manifest may still be readable, and would tell lies."""
    path = artifact.manifest
    facts, entry = hash_file(path), artifact.header.files[path.name]
    if (facts.bytes, facts.xxh3_128) != (entry.bytes, entry.xxh3_128):
        raise ArtifactError(
            f"{path} is not the file that the header knows: it was changed or exchanged.",
            "Use another snapshot, or another copy of this one.",
        )


def _sketch(
    manifest: ManifestReader,
    file: IO[bytes],
    kinds: dict[str, int],
    salt: bytes,
    on_progress: Callable[[int, int], None],
) -> npt.NDArray[np.void]:
    """The records of a manifest's rows, in row order, mapped from *file*."""
    salts: dict[int, bytes] = {}
    for databases, keys, names, types, expiries, digests, bodies in manifest.columns_with_bodies():
        count = len(keys)
        records = np.zeros(count, _RECORD)
        for number in set(databases):
            salts.setdefault(number, salt + number.to_bytes(8, "little"))
        hashes = b"".join(
            [xxh3_128_digest(salts[database] + key) for database, key in zip(databases, keys, strict=True)]
        )
        places = np.frombuffer(hashes, dtype=">u8").reshape(count, 2)
        records["high"], records["low"] = places[:, 0], places[:, 1]
        blank = bytes(16)
        joined = b"".join([digest or blank for digest in digests])
        records["digest"] = np.frombuffer(joined, dtype="<u8").reshape(count, 2)
        stored = [(body or 0) ^ (number << 56) for body, number in zip(bodies, types, strict=True)]
        records["body"] = np.array(stored, dtype=np.uint64)
        records["expiry"] = [_NO_EXPIRY if expiry is None else expiry for expiry in expiries]
        records["kind"] = [kinds.setdefault(name, len(kinds)) for name in names]
        records["flags"] = [
            _HAS_DIGEST * (digest is not None) + _HAS_BODY * (body is not None)
            for digest, body in zip(digests, bodies, strict=True)
        ]
        file.write(records.tobytes())
        on_progress(count, 0)
    file.flush()
    if not manifest.keys:
        return np.zeros(0, _RECORD)
    return np.memmap(file, dtype=_RECORD, mode="r")


def _join(
    before: npt.NDArray[np.void], after: npt.NDArray[np.void], tolerance_ms: int
) -> tuple[Marks, Marks]:
    """The marks of both sides' rows."""
    marks = np.zeros(len(before), np.uint8), np.zeros(len(after), np.uint8)
    slices = max(1, -(-(len(before) + len(after)) // _SLICE_ROWS))
    for number in range(slices):
        rows = [_slice(side, number, slices) for side in (before, after)]
        _join_slice(before[rows[0]], after[rows[1]], rows, marks, tolerance_ms)
    return marks


def _slice(side: npt.NDArray[np.void], number: int, slices: int) -> npt.NDArray[np.intp]:
    """Positions of the rows that belong to one slice of the hash's range; searched in pieces of bounded size."""
    if slices == 1:
        return np.arange(len(side))
    found = [
        start + np.flatnonzero(side["high"][start : start + _SLICE_ROWS] % np.uint64(slices) == number)
        for start in range(0, len(side), _SLICE_ROWS)
    ]
    return np.concatenate(found) if found else np.zeros(0, np.intp)


def _join_slice(
    before: npt.NDArray[np.void],
    after: npt.NDArray[np.void],
    rows: Sequence[npt.NDArray[np.intp]],
    marks: tuple[Marks, Marks],
    tolerance_ms: int,
) -> None:
    """Match two sets of records by their hash, and mark the rows of the whole that they came from."""
    high = np.concatenate([before["high"], after["high"]]).astype(np.uint64)
    low = np.concatenate([before["low"], after["low"]]).astype(np.uint64)
    # The sort is stable and side A comes first, so of a pair A's record stands directly before B's.
    order = np.lexsort((low, high))
    same = (high[order][1:] == high[order][:-1]) & (low[order][1:] == low[order][:-1])
    first = np.flatnonzero(same)
    ours, theirs = order[first], order[first + 1] - len(before)
    alone = np.ones(len(order), bool)
    alone[ours] = False
    alone[theirs + len(before)] = False
    marks[0][rows[0][alone[: len(before)]]] = _ONLY_HERE
    marks[1][rows[1][alone[len(before) :]]] = _ONLY_HERE
    a, b = before[ours], after[theirs]
    kind = a["kind"] != b["kind"]
    both = (a["flags"] & b["flags"] & _HAS_DIGEST).astype(bool)
    value = both & (a["digest"] != b["digest"]).any(axis=1)
    bytes_known = (a["flags"] & b["flags"] & _HAS_BODY).astype(bool)
    unclear = ~both & ~(bytes_known & (a["body"] == b["body"]))
    gone, new = a["expiry"] == _NO_EXPIRY, b["expiry"] == _NO_EXPIRY
    expiry = (gone != new) | (np.abs(a["expiry"] - b["expiry"]) > tolerance_ms)
    found = np.where(kind, _TYPE, value * _VALUE + unclear * _UNCOMPARED) + expiry * _EXPIRY
    marks[0][rows[0][ours]] = found.astype(np.uint8)


def _tell(
    manifest: ManifestReader,
    marks: Marks,
    only_here: str,
    separator: bytes,
    list_keys: int,
    difference: Difference,
    on_progress: Callable[[int, int], None],
) -> None:
    """Count and list the marked rows of one side."""
    start = 0
    for databases, keys, kinds in manifest.columns(("database", "key", "kind")):
        for place in np.flatnonzero(marks[start : start + len(keys)]):
            at = int(place)
            mark = int(marks[start + at])
            changes = _changes(mark, only_here)
            for change in changes:
                difference.counts[change] += 1
            difference.changed += bool(mark & (_VALUE | _EXPIRY | _TYPE))
            group = _group(difference, databases[at], kinds[at], keys[at], separator)
            for change in changes:
                group[change] = group.get(change, 0) + 1
            if len(difference.listed) < list_keys:
                difference.listed.append(ListedKey(changes, databases[at], keys[at], kinds[at]))
        start += len(keys)
        on_progress(len(keys), 0)


def _changes(mark: int, only_here: str) -> tuple[str, ...]:
    if mark == _ONLY_HERE:
        return (only_here,)
    names = ((_VALUE, "value"), (_EXPIRY, "expiry"), (_TYPE, "type"), (_UNCOMPARED, "uncompared"))
    return tuple(name for bit, name in names if mark & bit)


def _group(difference: Difference, database: int, kind: str, key: bytes, separator: bytes) -> dict[str, int]:
    head, found, _ = key.partition(separator)
    prefix = head.decode("utf-8", "backslashreplace") if found else NO_PREFIX
    place = (database, kind, prefix)
    if place not in difference.groups and len(difference.groups) >= _MOST_GROUPS:
        place = (database, kind, OTHER_PREFIXES)
    return difference.groups.setdefault(place, {})
