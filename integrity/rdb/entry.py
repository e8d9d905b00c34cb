"""What a reader finds in an RDB file."""

from __future__ import annotations

from typing import NamedTuple


class Entry(NamedTuple):
    """One key whose body is held.  A tuple, because one is made for every key of a file."""

    database: int
    key: bytes
    rdb_type: int
    expiry_ms: int | None
    """Milliseconds since 1970; None for never."""
    offset: int
    """Of the body, in bytes from the file's beginning."""
    length: int
    """Of the body."""
    body: bytes


class FunctionLibrary(NamedTuple):
    """A library of functions, which belongs to no database."""

    code: bytes
    """As FUNCTION LOAD takes it."""
    offset: int


class ModuleAux(NamedTuple):
    """Data of a module that belongs to no key; only the module can read it."""

    module: str
    """The name of the module's type, nine characters."""
    offset: int
    length: int
