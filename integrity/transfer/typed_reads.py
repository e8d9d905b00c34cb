"""Reading hashes, lists and sorted sets by the commands of their types, and making the payload of a DUMP from that.

Dragonfly's DUMP costs 130 to 390 microseconds for these, HGETALL, LRANGE and ZRANGE cost it two to eight.  So where it
is the source, those are read, and the payload is made here, in the plainest encoding, which every Redis loads.  Sets
are dumped (their members can expire, which only DUMP tells, and it is quick), and so is everything else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from integrity.endpoint import Identity
from integrity.expiry import NO_EXPIRY
from integrity.keyspace import Page
from integrity.kinds.base import MalformedReply, elements_of
from integrity.kinds.field_expiry import expiry_command, taken_expiries
from integrity.kinds.pieces import Piece, ValueChanged
from integrity.replies import ErrorReply, Reply
from integrity.snapshot.encode import form_for
from integrity.standby import Standby
from integrity.transfer.payload import FOOTER_BYTES, with_rdb_version
from integrity.wire import Connection, pack

_READS: Final[dict[bytes, tuple[bytes, ...]]] = {
    b"hash": (b"HGETALL",),
    b"list": (b"LRANGE", b"0", b"-1"),
    b"zset": (b"ZRANGE", b"0", b"-1", b"WITHSCORES"),
}
_PAIRS: Final = frozenset({b"hash", b"zset"})
_RDB_VERSION: Final = 9


def dumps_slowly(source: Identity, target: Identity) -> bool:
    """Whether values are better read by their types: the source is a Dragonfly, and the target loads what we make."""
    return source.engine == "dragonfly" and target.engine in {"redis", "valkey"}


def typed_commands(page: Page, positions: Sequence[int]) -> bytes:
    """What reads these keys of a page; one reply each."""
    return b"".join([_command(page.keys[i], page.types[i]) for i in positions])


def _command(key: bytes, name: bytes) -> bytes:
    read = _READS.get(name)
    return pack(b"DUMP", key) if read is None else pack(read[0], key, *read[1:])


def typed_payloads(
    source: Standby, page: Page, positions: Sequence[int], replies: Sequence[Reply]
) -> list[Reply]:
    """The replies to :func:`typed_commands` as payloads; None for keys that are gone.

    :param source: for what only DUMP can tell; not the connection that the replies came from.
    :raises ServerError: the connection is lost.
    """
    payloads: list[Reply] = list(replies)
    again: list[int] = []
    hashes: list[tuple[int, list[bytes]]] = []
    for n, position in enumerate(positions):
        name, reply = page.types[position], replies[n]
        if name not in _READS:
            continue
        try:
            elements = elements_of(reply)
            payloads[n] = _payload(name, elements) if elements else None
        except MalformedReply:
            again.append(n)  # It became another type: dumped, whatever it is by now.
            continue
        if name == b"hash" and elements:
            hashes.append((n, elements[::2]))
    if hashes:
        again += _with_field_expiries(source.connection(), page, positions, hashes)
    if again:
        dumped = source.connection().exchange([pack(b"DUMP", page.keys[positions[n]]) for n in again])
        for n, payload in zip(again, dumped, strict=True):
            payloads[n] = payload
    return payloads


def _payload(name: bytes, elements: list[bytes]) -> bytes:
    form = form_for(name, "dragonfly")
    if form is None:
        raise MalformedReply(f"no form is known for {name!r}")
    count = len(elements) // 2 if name in _PAIRS else len(elements)
    body = form.head(count) + form.encode(Piece(list(elements)))
    return with_rdb_version(bytes([form.rdb_type]) + body + bytes(FOOTER_BYTES), _RDB_VERSION)


def _with_field_expiries(
    source: Connection, page: Page, positions: Sequence[int], hashes: Sequence[tuple[int, list[bytes]]]
) -> list[int]:
    """Those of the hashes that have a field that expires, or changed meanwhile: only DUMP reads them in one step."""
    commands = [expiry_command(page.keys[positions[n]], fields) for n, fields in hashes]
    found = []
    for (n, fields), reply in zip(hashes, source.exchange(commands), strict=True):
        if isinstance(reply, ErrorReply):
            found.append(n)
            continue
        try:
            times = taken_expiries(source, reply, len(fields))
        except (MalformedReply, ValueChanged):
            found.append(n)
            continue
        if times is not None and any(time != NO_EXPIRY for time in times):
            found.append(n)
    return found
