"""What a server holds, read by types."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from redis.exceptions import ResponseError

from tests.load.state import Fields, Group, Held, Items, Members, Scores, Stream, Text, Window
from tests.load.streams import parse_id
from tests.raw import (
    Argument,
    Raw,
    Reply,
    UnexpectedReply,
    as_bytes,
    as_entries,
    as_int,
    as_list,
    as_pending,
    as_strings,
    as_table,
)

_BATCH: Final = 500
_READERS: Final[dict[bytes, tuple[bytes, ...]]] = {
    b"string": (b"GET",),
    b"list": (b"LRANGE", b"0", b"-1"),
    b"set": (b"SMEMBERS",),
    b"hash": (b"HGETALL",),
    b"zset": (b"ZRANGE", b"0", b"-1", b"WITHSCORES"),
    b"stream": (b"XRANGE", b"-", b"+"),
}
_Command: TypeAlias = tuple[Argument, ...]


def present(server: Raw, prefix: bytes) -> set[bytes]:
    """Every key of the connection's database that begins so."""
    found: set[bytes] = set()
    cursor = b"0"
    while True:
        next_cursor, page = as_list(server(b"SCAN", cursor, b"MATCH", prefix + b"*", b"COUNT", b"2000"))
        found.update(as_strings(page))
        cursor = as_bytes(next_cursor)
        if cursor == b"0":
            return found


def contents(server: Raw, keys: Sequence[bytes]) -> dict[bytes, Held]:
    """What these keys of the connection's database hold; those that are not there are left out."""
    found: dict[bytes, Held] = {}
    for start in range(0, len(keys), _BATCH):
        found.update(_read_batch(server, keys[start : start + _BATCH]))
    return found


@dataclass(frozen=True, slots=True)
class _Key:
    name: bytes
    kind: bytes
    expiry: Window | None


def _read_batch(server: Raw, names: Sequence[bytes]) -> Iterator[tuple[bytes, Held]]:
    facts = server.many([(ask, name) for name in names for ask in (b"TYPE", b"PEXPIRETIME")])
    keys = []
    for name, kind, expiry in zip(names, facts[::2], facts[1::2], strict=True):
        at = as_int(expiry)
        if as_bytes(kind) != b"none" and at != -2:
            keys.append(_Key(name, as_bytes(kind), Window(at, at) if at >= 0 else None))
    if unreadable := [key for key in keys if key.kind not in _READERS]:
        raise UnexpectedReply(f"of kinds that nobody wrote: {unreadable}")
    values = server.many([_reading(key) for key in keys])
    streams = _streams(server, [key.name for key in keys if key.kind == b"stream"])
    for key, value in zip(keys, values, strict=True):
        held = streams.get(key.name) if key.kind == b"stream" else _plain(key.kind, value)
        if isinstance(held, Stream):
            held.entries = {parse_id(id_): tuple(parts) for id_, parts in as_entries(value)}
        if held is not None:
            held.expiry = key.expiry
            yield key.name, held


def _reading(key: _Key) -> _Command:
    head, *rest = _READERS[key.kind]
    return (head, key.name, *rest)


def _plain(kind: bytes, value: Reply) -> Held | None:
    """None: it expired since its type was read."""
    if not value:
        return Text(b"") if value == b"" else None
    match kind:
        case b"string":
            return Text(as_bytes(value))
        case b"list":
            return Items(as_strings(value))
        case b"set":
            return Members(dict.fromkeys(as_strings(value)))
        case b"hash":
            return Fields({name: as_bytes(item) for name, item in as_table(value).items()})
    return Scores({member: float(as_bytes(score)) for member, score in as_table(value).items()})


def _streams(server: Raw, names: Sequence[bytes]) -> dict[bytes, Stream]:
    """Last ids and groups; a stream that has expired by now is left out."""
    facts = server.many([(b"XINFO", what, name) for name in names for what in (b"STREAM", b"GROUPS")])
    found = {}
    for name, about, groups in zip(names, facts[::2], facts[1::2], strict=True):
        if _is_gone(about) or _is_gone(groups):
            continue
        stream = Stream({}, parse_id(as_bytes(as_table(about)[b"last-generated-id"])))
        tables = [as_table(group) for group in as_list(groups)]
        asked = [(b"XPENDING", name, as_bytes(table[b"name"]), b"-", b"+", b"1000000") for table in tables]
        answers = server.many(asked) if asked else []
        if any(map(_is_gone, answers)):
            continue
        for table, answer in zip(tables, answers, strict=True):
            stream.groups[as_bytes(table[b"name"])] = Group(
                parse_id(as_bytes(table[b"last-delivered-id"])),
                {parse_id(id_): (consumer, count) for id_, consumer, count in as_pending(answer)},
            )
        found[name] = stream
    return found


def _is_gone(reply: Reply) -> bool:
    return isinstance(reply, ResponseError) and ("no such key" in str(reply) or "NOGROUP" in str(reply))
