"""Expiries of single hash fields (Redis 7.4, Valkey 9, Dragonfly): reading, writing and comparing them.

They are no part of a hash's digest: Dragonfly keeps them in whole seconds, so that two equal hashes would differ.
Like a key's expiry they are compared as absolute times, within a tolerance.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from time import monotonic
from typing import TYPE_CHECKING, Final
from weakref import WeakKeyDictionary

from xxhash import xxh3_64_intdigest

from integrity.expiry import clock_ms
from integrity.kinds.base import MalformedReply, plural
from integrity.kinds.pieces import PieceWriter, ValueChanged, WriteRefused, asked
from integrity.replies import ErrorReply, Reply
from integrity.wire import Connection, pack

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

NONE: Final = -1
_GONE: Final = -2
FARTHEST_SECONDS: Final = (1 << 28) - 1
"""How far ahead Dragonfly lets the expiry of a field lie."""
_SOON_MS: Final = 5000
"""A time nearer than this may have passed when the command arrives."""
_CLOCK_SECONDS: Final = 1.0
"""For so long a server's clock is reckoned from what it told last."""


def unknown_command(reply: Reply) -> bool:
    """Whether the server does not know the command that it was asked."""
    return isinstance(reply, ErrorReply) and "unknown command" in str(reply).lower()


def expiry_command(key: bytes, fields: Sequence[bytes]) -> bytes:
    """The packed command that asks for the expiries of *fields*."""
    return pack(b"HPEXPIRETIME", key, b"FIELDS", b"%d" % len(fields), *fields)


def taken_expiries(connection: Connection, reply: Reply, count: int) -> tuple[int, ...] | None:
    """The reply to :func:`expiry_command`: milliseconds since 1970 or −1; None where the server has no such expiries.

    :raises ValueChanged: the key is no hash by now.
    :raises MalformedReply: the reply has another shape.
    """
    if unknown_command(reply):
        return None
    reply = asked(connection, reply, b"HPEXPIRETIME")
    if reply is None:
        return (NONE,) * count  # The key is gone; its fields are compared elsewhere.
    if isinstance(reply, list) and len(reply) == count:
        times = tuple(time for time in reply if isinstance(time, int))
        if _GONE in times:
            raise ValueChanged("a field expired or was deleted")
        if len(times) == count:
            return times
    raise MalformedReply("HPEXPIRETIME answered in an unknown shape")


def field_expiries(connection: Connection, key: bytes, fields: Sequence[bytes]) -> tuple[int, ...] | None:
    """Ask for the expiries of a piece's fields; see :func:`taken_expiries`."""
    return taken_expiries(connection, connection.exchange([expiry_command(key, fields)])[0], len(fields))


@dataclass(frozen=True, slots=True)
class FieldDifference:
    """How the field expiries of one hash differ."""

    text: str
    source_ms: int | None
    """The smallest of those that differ; None where a field expires on one side alone."""
    target_ms: int | None


class FieldExpiries:
    """The fields of one hash that expire: 16 bytes for each, whatever the field's name."""

    def __init__(self) -> None:
        self._fields = array("Q")
        self._times = array("q")

    def __len__(self) -> int:
        return len(self._times)

    def add(self, fields: Sequence[bytes], times: Sequence[int]) -> None:
        """Take fields in; those without expiry are passed over."""
        for field, time in zip(fields, times, strict=True):
            if time != NONE:
                self._fields.append(xxh3_64_intdigest(field))
                self._times.append(time)

    def difference(self, other: FieldExpiries, tolerance_ms: int) -> FieldDifference | None:
        """How the target's (*other*) differ from the source's; None where they agree."""
        import numpy as np

        ours, ours_ms = self._sorted()
        theirs, theirs_ms = other._sorted()
        both, at_ours, at_theirs = np.intersect1d(ours, theirs, return_indices=True)
        left, right = ours_ms[at_ours], theirs_ms[at_theirs]
        differs = np.abs(left - right) > tolerance_ms
        apart = int(np.count_nonzero(differs))
        only_ours, only_theirs = len(ours) - len(both), len(theirs) - len(both)
        if not apart and not only_ours and not only_theirs:
            return None
        text = (
            f"{plural(apart, 'field')} at another time, {only_ours:,} only on the source, "
            f"{only_theirs:,} only on the target"
        )
        if only_ours or only_theirs:
            return FieldDifference(text, None, None)
        return FieldDifference(text, int(left[differs].min()), int(right[differs].min()))

    def _sorted(self) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        import numpy as np

        fields, times = np.array(self._fields, dtype=np.uint64), np.array(self._times, dtype=np.int64)
        order = np.argsort(fields, kind="stable")
        return fields[order], times[order]


@dataclass(slots=True)
class _Asked:
    """What the server at the other end of a connection has told; as long as that stands, it is the same process."""

    command: bytes | None = None
    """That sets expiries of fields; empty where it knows none."""
    clock_ms: int = 0
    clock_at: float = -inf
    """When it told its clock, by our own."""


_asked: Final[WeakKeyDictionary[Connection, _Asked]] = WeakKeyDictionary()


class ExpiryWriter:
    """Sets field expiries with the command that the target knows: HPEXPIREAT, or HSETEX with the values once more."""

    def __init__(self, writer: PieceWriter, key: bytes) -> None:
        self._writer = writer
        self._key = key
        self._server = _asked.setdefault(writer.target, _Asked())
        self._unknown = 0
        self._too_late = 0

    @property
    def lost(self) -> tuple[str, ...]:
        """What could not be carried."""
        lost = []
        if self._unknown:
            lost.append(f"the expiries of {plural(self._unknown, 'hash field')}")
        if self._too_late:
            lost.append(
                f"the expiries of {plural(self._too_late, 'hash field')} that lie beyond the target's limit "
                f"({FARTHEST_SECONDS:,} seconds, which they got instead)"
            )
        return tuple(lost)

    def commands(self, pairs: Sequence[bytes], expiries: Sequence[int]) -> list[bytes]:
        """The packed commands that set the expiries of the fields in *pairs*, to be sent behind their values.

        :raises WriteRefused: the target refused something before them.
        """
        by_time: dict[int, list[int]] = {}
        for position, time in enumerate(expiries):
            if time != NONE:
                by_time.setdefault(time, []).append(position)
        if not by_time:
            return []
        if self._server.command is None:
            self._server.command = self._known_command()
        if not self._server.command:
            self._unknown += sum(map(len, by_time.values()))
            return []
        if self._server.command == b"HPEXPIREAT":
            return [self._expire_at(time, positions, pairs) for time, positions in by_time.items()]
        now = self._clock()
        return [self._set_with(time, now, positions, pairs) for time, positions in by_time.items()]

    def _known_command(self) -> bytes:
        """Asked without arguments, which changes nothing: a server that knows the command asks for them."""
        for command in (b"HPEXPIREAT", b"HSETEX"):
            reply = self._writer.try_command(command)
            if not unknown_command(reply):
                return command
        return b""

    def _clock(self) -> int:
        server, now = self._server, monotonic()
        if now - server.clock_at > _CLOCK_SECONDS:
            reply = self._writer.try_command(b"TIME")
            if isinstance(reply, ErrorReply):
                raise WriteRefused(reply)
            # Its clock was read no earlier than our own was: what is reckoned from that is never behind.
            server.clock_ms, server.clock_at = clock_ms(reply), now
        return server.clock_ms + int((now - server.clock_at) * 1000)

    def _expire_at(self, time: int, positions: Sequence[int], pairs: Sequence[bytes]) -> bytes:
        fields = [pairs[2 * i] for i in positions]
        return pack(b"HPEXPIREAT", self._key, b"%d" % time, b"FIELDS", b"%d" % len(fields), *fields)

    def _set_with(self, time: int, now: int, positions: Sequence[int], pairs: Sequence[bytes]) -> bytes:
        """HSETEX refuses a time that has passed or lies beyond its limit, and the whole hash with it."""
        if time <= now:
            return pack(b"HDEL", self._key, *(pairs[2 * i] for i in positions))
        when = (b"PXAT", b"%d" % time)
        if time - now > (FARTHEST_SECONDS - 1) * 1000:
            if time - now > (FARTHEST_SECONDS + 1) * 1000:
                self._too_late += len(positions)
            when = (b"EX", b"%d" % FARTHEST_SECONDS)
        elif time - now < _SOON_MS:
            when = (b"EX", b"%d" % -(-(time - now) // 1000))
        flat = [item for i in positions for item in pairs[2 * i : 2 * i + 2]]
        return pack(b"HSETEX", self._key, *when, b"FIELDS", b"%d" % len(positions), *flat)
