"""A value's body on its way into the RDB file, kept aside until it is whole.

The count of elements stands before them, and a value that is read in pieces can turn out to have changed; so nothing
of it goes into the RDB file before all of it is known.  A body that does not fit into a few megabytes of memory waits
in a file of the partial folder, encrypted like the others where the snapshot is.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from integrity.snapshot.files import CHUNK_BYTES, Sink, open_stream
from integrity.snapshot.sealing import SUFFIX, Keys

MEMORY_BYTES: Final = 4 * 1024 * 1024


class Spool:
    """Written front to back, then read front to back once; a context manager that leaves nothing behind.

    :param path: where the file would be, without the suffix of encrypted ones.
    :param keys: the identity that this process alone has; none for a file that is not encrypted.
    """

    def __init__(self, path: Path, keys: Keys) -> None:
        self._path = path.with_name(path.name + SUFFIX) if keys.identities else path
        self._keys = keys
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._sink: Sink | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._sink is not None:
            self._sink.__exit__(kind, error, trace)
            self._path.unlink()

    def write(self, data: bytes) -> None:
        """Add *data*.

        :raises OSError: the disk is full, say.
        """
        self._held.append(data)
        self._held_bytes += len(data)
        if self._held_bytes >= MEMORY_BYTES:
            self._spill()

    def chunks(self) -> Iterator[bytes]:
        """Everything that was written.

        :raises OSError: it cannot be written or read.
        """
        if self._sink is None:
            yield from self._held
            return
        self._spill()
        self._sink.close()
        with open_stream(self._path, self._keys) as stream:
            while chunk := stream.read(CHUNK_BYTES):
                yield chunk

    def _spill(self) -> None:
        if self._sink is None:
            own = [identity.to_public() for identity in self._keys.identities]
            self._sink = Sink(self._path, own, synced=False)
        for data in self._held:
            self._sink.write(data)
        self._held.clear()
        self._held_bytes = 0
