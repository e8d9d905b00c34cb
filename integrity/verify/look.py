"""A careful look at single keys on one side: type, value, expiry, digest.

Used for keys that the fast pass found unequal.  Two round trips (TYPE first, then the read that fits it), so that the
facts of a finding are those of the key as it is, whatever its type.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from integrity.expiry import NO_KEY, TIME_COMMAND, absolute_expiry, clock_ms, expiry_prefix
from integrity.kinds import KINDS, STREAM, Kind, MalformedReply
from integrity.kinds.stream import Counters
from integrity.wire import Connection, ErrorReply, Reply


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
    types = connection.exchange([b"*2\r\n$4\r\nTYPE\r\n$%d\r\n%b\r\n" % (len(key), key) for key in keys])
    prefix = expiry_prefix(absolute=absolute)
    commands = [TIME_COMMAND]
    for key, kind_name in zip(keys, types, strict=True):
        if isinstance(kind_name, ErrorReply):
            raise connection.error_for(kind_name, "TYPE")
        commands.append(prefix + b"$%d\r\n%b\r\n" % (len(key), key))
        kind = KINDS.get(kind_name) if isinstance(kind_name, bytes) else None
        if kind is not None:
            commands.append(kind.read(key))
    replies = iter(connection.exchange(commands))
    now_ms = clock_ms(next(replies))
    looks = []
    for kind_name in types:
        expiry = next(replies)
        if isinstance(expiry, ErrorReply):
            raise connection.error_for(expiry, prefix.split(b"\r\n")[2].decode())
        kind = KINDS.get(kind_name) if isinstance(kind_name, bytes) else None
        value = next(replies) if kind is not None else None
        name = kind_name.decode("utf-8", "replace") if isinstance(kind_name, bytes) else ""
        looks.append(_look(name, absolute_expiry(expiry, 0 if absolute else now_ms), kind, value))
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
