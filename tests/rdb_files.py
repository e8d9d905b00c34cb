"""RDB files for tests: written by real servers, and values out of them in the oracle's shape."""

from __future__ import annotations

import json
from pathlib import Path

from integrity.kinds.base import elements_of
from integrity.kinds.hyperloglog import MAGIC
from integrity.kinds.pieces import PieceSize
from integrity.rdb.entry import Entry
from integrity.rdb.index import Row, index
from integrity.rdb.reader import RdbReader
from integrity.rdb.values import value_of
from integrity.replies import Reply
from tests.oracle import _registers
from tests.raw import Raw, as_bytes, as_list

SMALL_PIECES = PieceSize(2000, 50)


def save(url: str, engine: str) -> Path:
    """Have the server write its RDB file; returns where."""
    with Raw(url) as raw:
        folder = Path(as_bytes(as_list(raw(b"CONFIG", b"GET", b"dir"))[1]).decode())
        if engine == "dragonfly":
            raw(b"SAVE", b"RDB", b"saved")
            (path,) = folder.glob("saved*.rdb")
            return path
        raw(b"SAVE")
        return folder / as_bytes(as_list(raw(b"CONFIG", b"GET", b"dbfilename"))[1]).decode()


def rows_of(path: Path, *, held_bytes: int = 1 << 20, limit: PieceSize = SMALL_PIECES) -> list[Row]:
    """The index of a file."""
    with path.open("rb") as file:
        reader = RdbReader(file, path, held_bytes=held_bytes)
        return [row for batch in index(reader, path, limit) for row in batch.rows()]


def entries_of(path: Path) -> tuple[RdbReader, list[Entry]]:
    """All keys of a file, held whole."""
    with path.open("rb") as file:
        reader = RdbReader(file, path, held_bytes=1 << 30)
        entries = [entry for entry in reader if isinstance(entry, Entry)]
    return reader, entries


def decoded(kind: str, entry: Entry, version: int) -> object:
    """A value out of the file in the shape of :attr:`tests.matrix.facets.Facts.value`."""
    reply = value_of(entry.rdb_type, entry.body, version)
    match kind:
        case "string":
            value = _string(reply)
            registers = _registers(value) if value.startswith(MAGIC) else None
            return value if registers is None else tuple(registers)
        case "list":
            return elements_of(reply)
        case "set":
            members = elements_of(reply)
            assert len(set(members)) == len(members)
            return frozenset(members)
        case "zset":
            flat = elements_of(reply)
            return {member: float(score) for member, score in zip(flat[::2], flat[1::2], strict=True)}
        case "hash":
            flat = elements_of(reply)
            return dict(zip(flat[::2], flat[1::2], strict=True))
        case "ReJSON-RL":
            return json.loads(_string(reply))
    raise AssertionError(f"{kind} has no shape")


def _string(reply: Reply) -> bytes:
    assert isinstance(reply, bytes)
    return reply
