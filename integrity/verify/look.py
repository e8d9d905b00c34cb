"""A careful look at single keys on one side: type, value, expiry, digest.

Used for keys that the fast pass found unequal.  Two round trips (TYPE first, then the read that fits it), so that the
facts of a finding are those of the key as it is, whatever its type.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from integrity.expiry import NO_KEY, expiry_commands, take_expiries
from integrity.kinds import KINDS, STREAM, Kind, MalformedReply
from integrity.kinds.groups import group_kinds
from integrity.kinds.stream import Counters
from integrity.replies import ErrorReply, Reply
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
    value: Reply = None
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


ABSENT = Look(None, None)


def look(connection: Connection, keys: Sequence[bytes], *, absolute: bool) -> list[Look]:
    """Look at *keys* in the connection's database.

    :raises ServerError: the connection is lost, or TYPE or the expiry command is refused.
    """
    arguments = [argument(key) for key in keys]
    connection.send(every(b"*2\r\n$4\r\nTYPE\r\n", arguments))
    types: list[bytes] = []
    for reply in connection.receive_many(len(keys)):
        if isinstance(reply, ErrorReply):
            raise connection.error_for(reply, "TYPE")
        types.append(reply if isinstance(reply, bytes) else b"")
    groups = group_kinds(types)
    commands, count = expiry_commands(arguments, absolute=absolute)
    connection.send(commands + groups.commands(arguments))
    expiries = take_expiries(connection.receive_many(count), absolute=absolute)
    values: list[Reply] = [None] * len(keys)
    for _, positions in groups.groups:
        for position, value in zip(positions, connection.receive_many(len(positions)), strict=True):
            values[position] = value
    looks = []
    for name, expiry, value in zip(types, expiries, values, strict=True):
        if isinstance(expiry, ErrorReply):
            raise connection.error_for(expiry, "PEXPIRETIME" if absolute else "PTTL")
        kind = KINDS.get(name)
        looks.append(
            _look(name.decode("utf-8", "replace"), expiry if isinstance(expiry, int) else None, kind, value)
        )
    return looks


def _look(name: str, expiry_ms: int | None, kind: Kind | None, value: Reply) -> Look:
    if name == "none" or expiry_ms == NO_KEY:
        return ABSENT
    if kind is None:
        return Look(name, expiry_ms, problem=f"the type {name!r} is not known to this version")
    if isinstance(value, ErrorReply):
        return Look(name, expiry_ms, problem=str(value))
    try:
        digest = kind.digest(value)
        counters = STREAM.counters(value) if kind is STREAM else None
    except MalformedReply as error:
        return Look(name, expiry_ms, problem=str(error))
    return Look(name, expiry_ms, digest, kind.size(value), counters, value)
