"""A first look at many keys of the target, which for nearly all of them is the last one.

The manifest knows each key's type, so it is not asked for: a key of another type answers its read with an error, and
then, like every key that is not simply equal, wants a careful look.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from integrity.expiry import NO_EXPIRY, NO_KEY, expiry_commands, take_expiries
from integrity.kinds import MalformedReply
from integrity.kinds.base import Kind
from integrity.kinds.groups import group_kinds
from integrity.rdb import types
from integrity.replies import Reply
from integrity.snapshot.manifest import ManifestRow
from integrity.verify.classify import expiries_agree
from integrity.wire import Connection, arguments_of

MORE_THAN_A_DIGEST: Final = frozenset(
    {
        *types.STREAM_FORMS,
        types.HASH_2,
        types.HASH_LISTPACK_EXPIRING_OLD,
        types.HASH_EXPIRING,
        types.HASH_LISTPACK_EXPIRING,
        types.HASH_DRAGONFLY,
        types.SET_DRAGONFLY,
    }
)
"""Types of which a digest does not tell all: streams have counters, the others hold fields or members that expire."""


class QuickLook:
    """Finds the keys that are simply equal.

    :param longest: bytes of a body; a longer one is not read here.
    :param tolerance_ms: how far apart two expiries may be.
    """

    def __init__(self, *, absolute: bool, longest: int, tolerance_ms: int) -> None:
        self._absolute = absolute
        self._longest = longest
        self._tolerance = tolerance_ms
        self.max_drift_ms = 0
        """Largest distance between two expiries that were within the tolerance."""

    def equal(
        self, connection: Connection, rows: Sequence[ManifestRow], names: Sequence[bytes]
    ) -> list[bool]:
        """Whether each row is simply equal to the key of its name in the connection's database.

        :raises ServerError: the target is lost.
        """
        found = [False] * len(rows)
        positions = [n for n, row in enumerate(rows) if self._can_tell(row)]
        arguments = arguments_of([names[n] for n in positions])
        groups = group_kinds([rows[n].kind.encode() for n in positions])
        commands, count = expiry_commands(arguments, absolute=self._absolute)
        connection.send(commands + groups.commands(arguments))
        expiries = take_expiries(connection.receive_many(count), absolute=self._absolute)
        for kind, members in groups.groups:
            digests = _digests(kind, connection.receive_many(len(members)))
            for member, digest in zip(members, digests, strict=True):
                row = rows[positions[member]]
                found[positions[member]] = digest == row.digest and self._expires_alike(row, expiries[member])
        return found

    def _can_tell(self, row: ManifestRow) -> bool:
        return (
            row.digest is not None and row.length <= self._longest and row.rdb_type not in MORE_THAN_A_DIGEST
        )

    def _expires_alike(self, row: ManifestRow, expiry: Reply) -> bool:
        ours = row.expiry_ms if row.expiry_ms is not None else NO_EXPIRY
        if not isinstance(expiry, int) or expiry == NO_KEY:
            return False
        if ours == expiry:
            return True
        if not expiries_agree(ours, expiry, self._tolerance):
            return False
        self.max_drift_ms = max(self.max_drift_ms, abs(ours - expiry))
        return True


def _digests(kind: Kind, replies: Sequence[Reply]) -> Sequence[bytes | None]:
    try:
        return kind.digests(replies)
    except MalformedReply:
        # Of another type, or gone: which ones it is shows when each is looked at by itself.
        return [_digest(kind, reply) for reply in replies]


def _digest(kind: Kind, reply: Reply) -> bytes | None:
    try:
        return kind.digest(reply)
    except MalformedReply:
        return None
