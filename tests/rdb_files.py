"""RDB files for tests: written by real servers, and values out of them in the oracle's shape."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from integrity.kinds.base import elements_of
from integrity.kinds.hyperloglog import MAGIC
from integrity.kinds.pieces import PieceSize
from integrity.kinds.stream_reply import reply_table
from integrity.rdb.entry import Entry
from integrity.rdb.index import Row, index
from integrity.rdb.reader import RdbReader
from integrity.rdb.values import value_of
from integrity.replies import Reply
from tests.oracle import _registers
from tests.raw import Raw, as_bytes, as_list

SMALL_PIECES: Final = PieceSize(2000, 50)


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


def rows_of(path: Path, *, held_bytes: int = 1 << 20, as_of_ms: int | None = None) -> list[Row]:
    """The index of a file."""
    with path.open("rb") as file:
        reader = RdbReader(file, path, held_bytes=held_bytes)
        return [row for batch in index(reader, path, SMALL_PIECES, as_of_ms=as_of_ms) for row in batch.rows()]


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
        case "stream":
            return _stream(reply)
        case "ReJSON-RL":
            return json.loads(_string(reply))
    raise AssertionError(f"{kind} has no shape")


def _string(reply: Reply) -> bytes:
    assert isinstance(reply, bytes)
    return reply


def _stream(reply: Reply) -> object:
    table = reply_table(reply)
    entries = [(_string(i), elements_of(fields)) for i, fields in map(_pair, _list(table[b"entries"]))]
    groups: dict[bytes, object] = {}
    for group in map(reply_table, _list(table[b"groups"])):
        pending = [_list(item) for item in _list(group[b"pending"])]
        owners = [owner for _, owner, _, _ in pending]
        names = [_string(reply_table(consumer)[b"name"]) for consumer in _list(group[b"consumers"])]
        groups[_string(group[b"name"])] = (
            group[b"last-delivered-id"],
            [(identifier, owner, count) for identifier, owner, _, count in pending],
            sorted((name, owners.count(name)) for name in names),
        )
    return entries, table[b"last-generated-id"], groups


def _list(reply: Reply) -> list[Reply]:
    assert isinstance(reply, list)
    return reply


def _pair(reply: Reply) -> tuple[Reply, Reply]:
    first, second = _list(reply)
    return first, second
