"""The names of keys that are not known to be carried over, in a file, so that they outlive this process.

Needed for one thing: when the followed server is dead, and this process with it, the file tells what is at risk.  Names
are appended as they are announced, and the file is written anew, short again, about once a second, or more seldom where
that takes long.  It is not synced to disk: it survives a killed process, not a crashed machine.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterable
from pathlib import Path
from time import monotonic
from typing import Final

from integrity.errors import LedgerError

_LENGTH: Final = struct.Struct("<I")
_KEEP_SECONDS: Final = 1.0
_REST: Final = 20
"""Writing the file anew may take one part in so many of the time."""


class Spool:
    """One file of names, each behind its length in four bytes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._keep_from = 0.0
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        except OSError as error:
            raise _cannot(path, error) from error
        try:
            # A name that a kill cut off would swallow the names that are appended behind it.
            os.ftruncate(self._file, _names_in(path.read_bytes())[1])
        except OSError as error:
            os.close(self._file)
            raise _cannot(path, error) from error

    def add(self, names: Iterable[bytes]) -> None:
        """These keys changed."""
        self._write(self._file, names)

    def keep(self, names: Callable[[], Iterable[bytes]]) -> None:
        """Now and then: only these are not known to be carried over."""
        began = monotonic()
        if began < self._keep_from:
            return
        new = self.path.with_suffix(".new")
        try:
            file = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
        except OSError as error:
            raise _cannot(new, error) from error
        try:
            self._write(file, names())
            os.replace(new, self.path)
        except OSError as error:
            os.close(file)
            raise _cannot(self.path, error) from error
        except LedgerError:
            os.close(file)
            raise
        os.close(self._file)
        self._file = file
        took = monotonic() - began
        self._keep_from = began + max(_KEEP_SECONDS, _REST * took)

    def close(self) -> None:
        """Close the file; it stays."""
        os.close(self._file)

    def _write(self, file: int, names: Iterable[bytes]) -> None:
        data = memoryview(b"".join(part for name in names for part in (_LENGTH.pack(len(name)), name)))
        try:
            while data:
                data = data[os.write(file, data) :]
        except OSError as error:
            raise _cannot(self.path, error) from error


def read_spool(path: Path) -> set[bytes]:
    """The names in the file; one that was cut off at the end, by a kill, is left out.  Empty where there is no file.

    :raises LedgerError: it cannot be read.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return set()
    except OSError as error:
        raise _cannot(path, error) from error
    return _names_in(data)[0]


def _names_in(data: bytes) -> tuple[set[bytes], int]:
    """The whole names, and where the last of them ends."""
    names, end = set(), 0
    while end + _LENGTH.size <= len(data):
        (length,) = _LENGTH.unpack_from(data, end)
        after = end + _LENGTH.size + length
        if after > len(data):
            break
        names.add(data[end + _LENGTH.size : after])
        end = after
    return names, end


def _cannot(path: Path, error: OSError) -> LedgerError:
    return LedgerError(
        f"The file of changed keys {path} cannot be used ({error.strerror}).",
        "Check the state folder's rights and free space.",
    )
