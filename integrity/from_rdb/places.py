"""Which places of the target a file's keys go to: 64 bits of salted hash for each, sorted, in a temporary file.

They answer two questions without a server to ask: do two keys of the file go to one place, and has a key of the target
come from the file at all.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Final, Self

import numpy as np
import numpy.typing as npt
from xxhash import xxh3_64_intdigest

from integrity.rules import Rules
from integrity.snapshot.duplicates import KeyHashes, repeated_rows
from integrity.snapshot.manifest import ManifestRow

_NAME: Final = "places"


class Places:
    """The places of all rows; a context manager, which removes its file (8 bytes for each row, in ``TMPDIR``)."""

    def __init__(self, rules: Rules) -> None:
        self._folder = TemporaryDirectory(prefix="greenfly-")
        self._path = Path(self._folder.name) / _NAME
        self._rules = rules
        self._salt = secrets.randbits(64)
        self._sorted: npt.NDArray[np.uint64] = np.empty(0, dtype=np.uint64)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._sorted = np.empty(0, dtype=np.uint64)
        self._folder.cleanup()

    def note(self, rows: Iterable[ManifestRow]) -> None:
        """Take in every row, in their order; once, and first."""
        rules = self._rules
        with KeyHashes(self._path, self._salt) as hashes:
            for row in rows:
                hashes.add(rules.target_database(row.database), rules.rename(row.key))

    def shared(self, rows: Iterable[ManifestRow]) -> set[int]:
        """Numbers of rows, of those that the rules select, that go to a place which an earlier one goes to already.

        :param rows: as for :meth:`note`; before :meth:`sort`.
        """
        suspects = frozenset(repeated_rows(self._path))
        taken: set[tuple[int, bytes]] = set()
        shared: set[int] = set()
        if not suspects:
            return shared
        rules = self._rules
        for number, row in enumerate(rows):
            if number in suspects and rules.selects(row.key, row.kind.encode()) is None:
                place = (rules.target_database(row.database), rules.rename(row.key))
                if place in taken:
                    shared.add(number)
                taken.add(place)
        return shared

    def sort(self) -> None:
        """Make :meth:`unknown` answer."""
        if self._path.stat().st_size:
            self._sorted = np.memmap(self._path, dtype=np.uint64, mode="r+")
            self._sorted.sort()

    def unknown(self, database: int, keys: Sequence[bytes]) -> list[bytes]:
        """Those keys of a database of the target that no key of the file goes to."""
        if not keys:
            return []
        seed = self._salt ^ database
        asked = np.array([xxh3_64_intdigest(key, seed=seed) for key in keys], dtype=np.uint64)
        if not len(self._sorted):
            return list(keys)
        at = np.searchsorted(self._sorted, asked)
        at[at == len(self._sorted)] = 0
        found = self._sorted[at] == asked
        return [key for key, known in zip(keys, found.tolist(), strict=True) if not known]
