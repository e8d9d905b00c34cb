"""Finding keys that SCAN returned twice.

SCAN may return a key more than once when a table is resized meanwhile, and Redis refuses an RDB file that holds a key
twice.  Instead of remembering every key in memory, a 64-bit hash per key goes to a side file; when the scan is over
it is searched in slices of bounded size, and only rows whose hash repeats are compared by key.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, Self

import numpy as np
from xxhash import xxh3_64_intdigest

from integrity.snapshot.manifest import ManifestRow

_SLICE_KEYS: Final = 4_000_000


class KeyHashes:
    """The side file: one 64-bit hash per row, in row order; use as a context manager.

    :param salt: 64 bits that go into every hash.
    """

    def __init__(self, path: Path, salt: int = 0) -> None:
        self.path = path
        self._salt = salt
        self._file: BinaryIO = path.open("xb")
        self._pending: list[int] = []

    def add(self, database: int, key: bytes) -> None:
        """Note the next row's key."""
        self._pending.append(xxh3_64_intdigest(key, seed=self._salt ^ database))
        if len(self._pending) >= 10_000:
            self._flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._pending.clear()
        self.close()

    def close(self) -> None:
        """Write out what is pending."""
        self._flush()
        self._file.close()

    def _flush(self) -> None:
        np.array(self._pending, dtype=np.uint64).tofile(self._file)
        self._pending.clear()


def repeated_rows(hashes: Path) -> list[int]:
    """Row numbers whose hash stands in the file more than once, ascending."""
    if not hashes.stat().st_size:
        return []
    values = np.memmap(hashes, dtype=np.uint64, mode="r")
    slices = max(1, -(-len(values) // _SLICE_KEYS))
    rows: list[int] = []
    for number in range(slices):
        member = (
            np.flatnonzero(values % np.uint64(slices) == number) if slices > 1 else np.arange(len(values))
        )
        part = np.asarray(values[member])
        order = np.argsort(part, kind="stable")
        ordered = part[order]
        same = np.flatnonzero(ordered[1:] == ordered[:-1])
        rows += [int(member[order[i]]) for i in np.union1d(same, same + 1)]
    return sorted(rows)


def superseded_rows(suspects: Sequence[int], rows: Iterable[ManifestRow]) -> set[int]:
    """Row numbers of keys that come again later; the last reading of a key is the one to keep.

    :param suspects: the only rows that need to be looked at.
    :param rows: all rows of the manifest.
    """
    looked_at = frozenset(suspects)
    newest: dict[tuple[int, bytes], int] = {}
    superseded: set[int] = set()
    for number, row in enumerate(rows):
        if number in looked_at:
            earlier = newest.get((row.database, row.key))
            if earlier is not None:
                superseded.add(earlier)
            newest[row.database, row.key] = number
    return superseded
