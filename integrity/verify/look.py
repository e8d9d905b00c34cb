"""A careful look at single keys on one side: type, value, expiry, digest.

Used for keys that the fast pass found unequal, and for those that are too large for it.  Type and size come first,
then the read that fits them (whole or in pieces), so that the facts of a finding are those of the key as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Self

from integrity.expiry import NO_KEY, expiry_commands, take_expiries
from integrity.kinds import HASH, KINDS, STREAM, Kind, MalformedReply
from integrity.kinds.base import elements_of
from integrity.kinds.field_expiry import FieldExpiries, field_expiries
from integrity.kinds.groups import group_kinds
from integrity.kinds.hash import HashHasher
from integrity.kinds.pieces import PieceSize, ValueChanged
from integrity.kinds.stream import Counters, StreamHasher
from integrity.replies import ErrorReply, Reply
from integrity.settings import BigValueSettings
from integrity.sizes import MEMORY_USAGE, sizes_by_length
from integrity.wire import Connection, argument, every


@dataclass(frozen=True, slots=True)
class Look:
    """What one side holds under one key."""

    kind_name: str | None
    """As TYPE answers; None where the key is not there."""
    expiry_ms: int | None
    """Absolute, −1 for none, None where the key is not there."""
    digest: bytes | None = None
    size: int | None = None
    counters: Counters | None = None
    field_expiries: FieldExpiries | None = None
    """Of a hash; None where the server keeps none."""
    value: Reply = None
    """Only of a value that was read whole."""
    problem: str | None = None
    """Why the value could not be read."""

    @property
    def present(self) -> bool:
        """Whether the key is there."""
        return self.kind_name is not None

    @property
    def kind(self) -> Kind | None:
        """How to read it, where Greenfly knows."""
        return KINDS.get(self.kind_name.encode()) if self.kind_name else None


ABSENT: Final = Look(None, None)
_ATTEMPTS: Final = 3


@dataclass(frozen=True, slots=True)
class BigValues:
    """From which size on values are read in pieces, and in which."""

    threshold: int
    """Bytes of memory on the server."""
    piece: PieceSize

    @classmethod
    def of(cls, settings: BigValueSettings) -> Self:
        """As the settings say."""
        return cls(settings.threshold_bytes, PieceSize(settings.piece_bytes, settings.piece_elements))


def look(
    connection: Connection,
    keys: Sequence[bytes],
    *,
    absolute: bool,
    big: BigValues,
    lengths_first: bool = False,
    on_piece: Callable[[int], None] = lambda _: None,
) -> list[Look]:
    """Look at *keys* in the connection's database.

    :param lengths_first: find big values by their lengths; see :mod:`integrity.sizes`.
    :param on_piece: told after every piece of a big value the bytes of memory that it stands for, about.

    :raises ServerError: the connection is lost, or TYPE or the expiry command is refused.
    """
    arguments = [argument(key) for key in keys]
    ask_types = every(b"*2\r\n$4\r\nTYPE\r\n", arguments)
    connection.send(ask_types if lengths_first else ask_types + every(MEMORY_USAGE, arguments))
    replies = connection.receive_many(len(keys))
    told = [] if lengths_first else connection.receive_many(len(keys))
    types: list[bytes] = []
    for reply in replies:
        if isinstance(reply, ErrorReply):
            raise connection.error_for(reply, "TYPE")
        types.append(reply if isinstance(reply, bytes) else b"")
    if lengths_first:
        sizes = sizes_by_length(connection, keys, types)
    else:
        sizes = [size if isinstance(size, int) else 0 for size in told]
    whole = [b"" if size > big.threshold else name for name, size in zip(types, sizes, strict=True)]
    groups = group_kinds(whole)
    commands, count = expiry_commands(arguments, absolute=absolute)
    connection.send(commands + groups.commands(arguments))
    expiries = take_expiries(connection.receive_many(count), absolute=absolute)
    values: list[Reply] = [None] * len(keys)
    for _, positions in groups.groups:
        for position, value in zip(positions, connection.receive_many(len(positions)), strict=True):
            values[position] = value
    looks = []
    for key, name, size, expiry, value in zip(keys, types, sizes, expiries, values, strict=True):
        if isinstance(expiry, ErrorReply):
            raise connection.error_for(expiry, "PEXPIRETIME" if absolute else "PTTL")
        if name == b"none" or expiry == NO_KEY or not isinstance(expiry, int):
            looks.append(ABSENT)
        elif size > big.threshold and name in KINDS:
            looks.append(_look_in_pieces(connection, key, KINDS[name], size, expiry, big.piece, on_piece))
        else:
            looks.append(_look(connection, key, name, expiry, value))
    return looks


def _look(connection: Connection, key: bytes, name: bytes, expiry_ms: int, value: Reply) -> Look:
    text = name.decode("utf-8", "replace")
    kind = KINDS.get(name)
    if kind is None:
        return Look(text, expiry_ms, problem=f"the type {text!r} is not known to this version")
    if isinstance(value, ErrorReply):
        return Look(text, expiry_ms, problem=str(value))
    try:
        digest = kind.digest(value)
        counters = STREAM.counters(value) if kind is STREAM else None
        fields = _field_expiries(connection, key, value) if kind is HASH else None
    except (MalformedReply, ValueChanged) as error:
        return Look(text, expiry_ms, problem=str(error))
    return Look(text, expiry_ms, digest, kind.size(value), counters, fields, value)


def _field_expiries(connection: Connection, key: bytes, value: Reply) -> FieldExpiries | None:
    names = elements_of(value)[::2]
    times = field_expiries(connection, key, names) if names else None
    if times is None:
        return None
    expiries = FieldExpiries()
    expiries.add(names, times)
    return expiries


def _look_in_pieces(
    connection: Connection,
    key: bytes,
    kind: Kind,
    size: int,
    expiry_ms: int,
    piece: PieceSize,
    on_piece: Callable[[int], None],
) -> Look:
    problem = ""
    for _ in range(_ATTEMPTS):
        hasher = kind.hasher()
        try:
            for part in kind.pieces(connection, key, size, piece):
                hasher.add(part)
                on_piece(min(size, piece.bytes))
        except ValueChanged as error:
            problem = f"it changes while it is read: {error}"
            continue
        except MalformedReply as error:
            problem = str(error)
            break
        return Look(
            kind.name,
            expiry_ms,
            hasher.digest(),
            hasher.size,
            hasher.counters if isinstance(hasher, StreamHasher) else None,
            hasher.expiries if isinstance(hasher, HashHasher) else None,
        )
    return Look(kind.name, expiry_ms, problem=problem)
