"""The files of a snapshot as streams of plain bytes, whether they lie on the disk plain or encrypted.

The age library pulls from one file and pushes into another.  A thread and a pipe turn that around, so that whoever
writes or reads sees a file, and no plaintext touches the disk: neither while a snapshot is taken nor while one is
read.  The one exception is :func:`open_seekable`, which says so.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from tempfile import SpooledTemporaryFile
from threading import Thread
from types import TracebackType
from typing import BinaryIO, Final, Protocol, Self

import pyrage
import xxhash

from integrity.snapshot.sealing import SUFFIX, Identity, Keys, Recipient, unreadable

CHUNK_BYTES: Final = 1 << 20
_MEMORY_BYTES: Final = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class FileFacts:
    """Size and hashes of a file."""

    bytes: int
    xxh3_128: str
    sha256: str


class Stream(Protocol):
    """Something to read from, front to back."""

    def read(self, size: int, /) -> bytes:
        """At most *size* bytes; none at the end."""


class _Hashed:
    """A new file on the disk that knows its own hashes."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("xb")
        self._xxh3 = xxhash.xxh3_128()
        self._sha256 = sha256()
        self._size = 0

    def write(self, data: bytes) -> int:
        self._xxh3.update(data)
        self._sha256.update(data)
        self._size += len(data)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()

    def close(self, *, durably: bool) -> None:
        try:
            if durably:
                self._file.flush()
                os.fsync(self._file.fileno())
        finally:
            self._file.close()

    def facts(self) -> FileFacts:
        return FileFacts(self._size, self._xxh3.hexdigest(), self._sha256.hexdigest())


class _Worker:
    """A thread whose error is kept for whoever waits for it."""

    def __init__(self, work: Callable[[], None], end: BinaryIO) -> None:
        """*end* is the worker's end of the pipe; closing it tells the other side."""
        self._error: Exception | None = None
        self._thread = Thread(target=self._run, args=(work, end), daemon=True)
        self._thread.start()

    def _run(self, work: Callable[[], None], end: BinaryIO) -> None:
        try:
            work()
        except (OSError, pyrage.EncryptError, pyrage.DecryptError) as error:
            self._error = error
        finally:
            with suppress(OSError):
                end.close()

    def join(self) -> Exception | None:
        self._thread.join()
        return self._error


class Sink(io.RawIOBase):
    """A file being written, encrypted on its way to the disk where there are recipients.

    Use as a context manager; after an error the file stays as it is, unfinished.

    :param synced: whether closing waits until it is on the disk itself; not for what is read back and removed.
    :raises OSError: when writing or closing: the disk is full, say.
    """

    def __init__(self, path: Path, recipients: Sequence[Recipient] = (), *, synced: bool = True) -> None:
        super().__init__()
        self.path = path
        self._synced = synced
        self._file = _Hashed(path)
        self._contents = xxhash.xxh3_128()
        self._size = 0
        self._worker: _Worker | None = None
        self._into: BinaryIO | _Hashed = self._file
        if recipients:
            read_end, write_end = os.pipe()
            self._into = os.fdopen(write_end, "wb", CHUNK_BYTES)
            source = os.fdopen(read_end, "rb", CHUNK_BYTES)
            wanted = list(recipients)
            self._worker = _Worker(lambda: pyrage.encrypt_io(source, self._file, wanted), source)

    def writable(self) -> bool:
        """Yes."""
        return True

    def write(self, data: bytes) -> int:  # type: ignore[override]  # any buffer there; only bytes come here
        """Write all of *data*."""
        try:
            self._into.write(data)
        except BrokenPipeError:
            raise self._worker_error() from None
        self._contents.update(data)
        self._size += len(data)
        return len(data)

    def tell(self) -> int:
        """Plain bytes written."""
        return self._size

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._finish(durably=error is None)

    def close(self) -> None:
        """Write out everything."""
        self._finish(durably=True)

    def _finish(self, *, durably: bool) -> None:
        if self.closed:
            return
        super().close()
        try:
            if isinstance(self._into, _Hashed) or self._worker is None:
                return
            with suppress(BrokenPipeError):
                self._into.close()
            if (error := self._worker.join()) is not None and durably:
                raise _as_os_error(error) from error
        finally:
            self._file.close(durably=durably and self._synced)

    def _worker_error(self) -> OSError:
        error = self._worker.join() if self._worker else None
        return _as_os_error(error) if error else OSError("the encryption ended early")

    @property
    def file(self) -> FileFacts:
        """What lies on the disk; after :meth:`close`."""
        return self._file.facts()

    @property
    def contents_xxh3(self) -> str:
        """XXH3-128 of the plain bytes."""
        return self._contents.hexdigest()


def _as_os_error(error: Exception) -> OSError:
    # The age library wraps the errors of the files that it reads and writes into its own, as text.
    return error if isinstance(error, OSError) else OSError(None, f"encryption: {error}")


class _Decrypted:
    """The plain bytes of an encrypted file, read front to back."""

    def __init__(self, path: Path, identities: Sequence[Identity]) -> None:
        self._path = path
        try:
            self._file = path.open("rb")
        except OSError as error:
            raise unreadable(path, error) from error
        read_end, write_end = os.pipe()
        self._from = os.fdopen(read_end, "rb", CHUNK_BYTES)
        into = os.fdopen(write_end, "wb", CHUNK_BYTES)
        keys = list(identities)

        def decrypt() -> None:
            pyrage.decrypt_io(self._file, into, keys)
            into.flush()

        self._worker = _Worker(decrypt, into)

    def read(self, size: int, /) -> bytes:
        data = self._from.read(size)
        if len(data) < size and (error := self._worker.join()) is not None:
            # What was handed out before is authentic, chunk by chunk; the file as a whole is not.
            raise unreadable(self._path, error) from error
        return data

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._from.close()
        self._worker.join()
        self._file.close()


class _Plain:
    """A file whose errors name it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._file = path.open("rb")
        except OSError as error:
            raise unreadable(path, error) from error

    def read(self, size: int, /) -> bytes:
        try:
            return self._file.read(size)
        except OSError as error:
            raise unreadable(self._path, error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


def is_sealed(path: Path) -> bool:
    """Whether a file is an encrypted one, by its name."""
    return path.suffix == SUFFIX


def open_stream(path: Path, keys: Keys) -> _Decrypted | _Plain:
    """The plain bytes of *path*, front to back; use as a context manager.

    :raises ArtifactError: the file is missing or cannot be read, or no key is set; while reading: it was changed.
    """
    return _Decrypted(path, keys.require(path)) if is_sealed(path) else _Plain(path)


@contextmanager
def open_seekable(path: Path, keys: Keys) -> Iterator[BinaryIO]:
    """The plain bytes of *path* as a file with random access, which Parquet needs.

    An encrypted file is decrypted into memory, and beyond 64 MiB into a temporary file that has no name and is gone
    with this process.

    :raises ArtifactError: the file is missing or damaged, or the keys do not open it.
    """
    if not is_sealed(path):
        try:
            file = path.open("rb")
        except OSError as error:
            raise unreadable(path, error) from error
        with file:
            yield file
        return
    identities = keys.require(path)
    with SpooledTemporaryFile(_MEMORY_BYTES) as plain:
        try:
            with path.open("rb") as sealed:
                pyrage.decrypt_io(sealed, plain, list(identities))
        except (OSError, pyrage.DecryptError) as error:
            raise unreadable(path, error) from error
        plain.seek(0)
        yield plain  # type: ignore[misc]  # all of BinaryIO but its name


def hash_file(path: Path) -> FileFacts:
    """Size and hashes of what lies on the disk.

    :raises ArtifactError: the file is missing or cannot be read.
    """
    xxh3, strong, size = xxhash.xxh3_128(), sha256(), 0
    with _Plain(path) as file:
        while chunk := file.read(CHUNK_BYTES):
            xxh3.update(chunk)
            strong.update(chunk)
            size += len(chunk)
    return FileFacts(size, xxh3.hexdigest(), strong.hexdigest())


def sync_folder(path: Path) -> None:
    """Make renames in *path* durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
