"""Expiries of single hash fields (Redis 7.4, Valkey 9, Dragonfly): reading, writing and comparing them.

They are no part of a hash's digest: Dragonfly keeps them in whole seconds, so that two equal hashes would differ.
Like a key's expiry they are compared as absolute times, within a tolerance.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from xxhash import xxh3_64_intdigest

from integrity.kinds.base import MalformedReply, plural
from integrity.kinds.pieces import PieceWriter, WriteRefused, asked
from integrity.replies import ErrorReply, Reply
from integrity.wire import Connection, pack

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

NONE: Final = -1
_GONE: Final = -2


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
        if len(times) == count:
            return tuple(NONE if time == _GONE else time for time in times)
    raise MalformedReply("HPEXPIRETIME answered in an unknown shape")


def field_expiries(connection: Connection, key: bytes, fields: Sequence[bytes]) -> tuple[int, ...] | None:
    """Ask for the expiries of a piece's fields; see :func:`taken_expiries`."""
    return taken_expiries(connection, connection.exchange([expiry_command(key, fields)])[0], len(fields))


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

    def difference(self, other: FieldExpiries, tolerance_ms: int) -> str | None:
        """How the target's (*other*) differ from the source's, in words; None where they agree."""
        import numpy as np

        ours, ours_ms = self._sorted()
        theirs, theirs_ms = other._sorted()
        both, at_ours, at_theirs = np.intersect1d(ours, theirs, return_indices=True)
        apart = int(np.count_nonzero(np.abs(ours_ms[at_ours] - theirs_ms[at_theirs]) > tolerance_ms))
        only_ours, only_theirs = len(ours) - len(both), len(theirs) - len(both)
        if not apart and not only_ours and not only_theirs:
            return None
        return (
            f"{plural(apart, 'field')} at another time, {only_ours:,} only on the source, "
            f"{only_theirs:,} only on the target"
        )

    def _sorted(self) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        import numpy as np

        fields, times = np.array(self._fields, dtype=np.uint64), np.array(self._times, dtype=np.int64)
        order = np.argsort(fields, kind="stable")
        return fields[order], times[order]


class ExpiryWriter:
    """Sets field expiries with the command that the target knows: HPEXPIREAT, or HSETEX with the values once more."""

    def __init__(self, writer: PieceWriter, key: bytes) -> None:
        self._writer = writer
        self._key = key
        self._command: bytes | None = None
        self._lost = 0

    @property
    def lost(self) -> tuple[str, ...]:
        """What could not be carried."""
        return (f"the expiries of {plural(self._lost, 'hash field')}",) if self._lost else ()

    def write(self, pairs: Sequence[bytes], expiries: Sequence[int]) -> None:
        """Set the expiries of the fields in *pairs*.

        :raises WriteRefused: the target refused one.
        """
        by_time: dict[int, list[int]] = {}
        for position, time in enumerate(expiries):
            if time != NONE:
                by_time.setdefault(time, []).append(position)
        commands: list[bytes] = []
        for time, positions in by_time.items():
            if self._command is None:
                self._command = self._try(time, positions, pairs)
            elif self._command:
                commands.append(pack(*self._arguments(self._command, time, positions, pairs)))
            if not self._command:
                self._lost += len(positions)
        if commands:
            self._writer.send(commands)

    def _try(self, time: int, positions: Sequence[int], pairs: Sequence[bytes]) -> bytes:
        """Write the first expiry, and learn by it which command the target knows; empty for none."""
        for command in (b"HPEXPIREAT", b"HSETEX"):
            reply = self._writer.try_command(*self._arguments(command, time, positions, pairs))
            if unknown_command(reply):
                continue
            if isinstance(reply, ErrorReply):
                raise WriteRefused(reply)
            return command
        return b""

    def _arguments(
        self, command: bytes, time: int, positions: Sequence[int], pairs: Sequence[bytes]
    ) -> list[bytes]:
        when, count = b"%d" % time, b"%d" % len(positions)
        if command == b"HPEXPIREAT":
            return [command, self._key, when, b"FIELDS", count, *(pairs[2 * i] for i in positions)]
        flat = [item for i in positions for item in pairs[2 * i : 2 * i + 2]]
        return [command, self._key, b"PXAT", when, b"FIELDS", count, *flat]
