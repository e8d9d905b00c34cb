"""The folder of a snapshot while it is written.

It is named ``….partial`` and locked until it is whole; then the lock goes and the folder gets its name.  A lock ends
with its process, so a folder that is named so and not locked is a leftover.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, Self

from integrity.snapshot.files import Sink, sync_folder
from integrity.snapshot.header import HEADER_NAME, Header
from integrity.snapshot.sealing import SUFFIX, Keys, Recipient, seal, temporary_identity

PARTIAL: Final = ".partial"
LOCK_NAME: Final = "lock"


class PartialFolder:
    """One snapshot's folder; a context manager.  Without :meth:`publish` it stays partial.

    Files that are read again before the folder is whole, by a machine that cannot decrypt what it writes, are also
    encrypted to a key that is made for this one snapshot and never leaves the memory.

    :param directory: the name that it gets.
    :param recipients: whom files are encrypted to; none for plain ones.
    :raises OSError: it cannot be written.
    """

    def __init__(self, directory: Path, recipients: tuple[Recipient, ...]) -> None:
        self.directory = directory
        self.path = directory.with_name(directory.name + PARTIAL)
        self.readers = recipients
        """Whom the finished snapshot is for."""
        self.suffix = SUFFIX if recipients else ""
        """Of the names of encrypted files."""
        self.keys = Keys()
        """What opens the files while they are written."""
        self._recipients = recipients
        if recipients:
            own = temporary_identity()
            self.keys = Keys((own,))
            self._recipients = (*recipients, own.to_public())
        self._lock: BinaryIO | None = None

    def __enter__(self) -> Self:
        remove_partial(self.directory)
        self.path.mkdir(mode=0o700, parents=True)
        lock = self._lock = (self.path / LOCK_NAME).open("xb")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # The lock outlives the other files: it goes when the folder has its name, or with the error.
        if self._lock is not None:
            self._lock.close()

    def sink(self, name: str) -> Sink:
        """A new file in the folder, encrypted where there are recipients; *name* is that of the plain one."""
        return Sink(self.path / (name + self.suffix), self._recipients)

    def publish(self, header: Header) -> Path | None:
        """Write the header and give the folder its name; returns where the sealed header is, of an encrypted one."""
        seal_name = HEADER_NAME + SUFFIX if self.readers else None
        if seal_name is not None:
            self._write(seal_name, seal(header.to_bytes(), self.readers))
            header = header.public()
        self._write(HEADER_NAME, header.to_bytes())
        (self.path / LOCK_NAME).unlink()
        sync_folder(self.path)
        shutil.rmtree(self.directory, ignore_errors=True)
        os.replace(self.path, self.directory)
        sync_folder(self.directory.parent)
        return self.directory / seal_name if seal_name else None

    def _write(self, name: str, data: bytes) -> None:
        with (self.path / name).open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())


def remove_partial(directory: Path) -> None:
    """Remove what an unfinished snapshot of this name left behind."""
    shutil.rmtree(directory.with_name(directory.name + PARTIAL), ignore_errors=True)
