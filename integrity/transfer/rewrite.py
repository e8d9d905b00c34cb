"""Copying one key with typed commands, in pieces, through a temporary key that is renamed into place.

For values that are too large to be dumped whole, and for those whose payload the target refuses.  Slower than RESTORE
and not as complete: what typed commands cannot carry (of streams, mostly) is named, so that it becomes a finding.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Literal

from integrity.endpoint import Identity
from integrity.errors import (
    AuthenticationFailed,
    PermissionRefused,
    ServerFull,
    ServerNotReady,
    ServerReadOnly,
)
from integrity.expiry import NO_EXPIRY, NO_KEY, expiry_commands, take_expiries
from integrity.kinds import KINDS, Kind, MalformedReply
from integrity.kinds.member_expiry import with_member_expiries
from integrity.kinds.pieces import Piece, PieceSize, ValueChanged, WriteRefused
from integrity.pace import FullSpeed, Pace
from integrity.replies import ErrorReply
from integrity.standby import Standby
from integrity.transfer.place import rename, set_expiry
from integrity.transfer.temporary import TemporaryNames
from integrity.wire import Connection, argument

ENDS_THE_RUN: Final = (ServerFull, ServerReadOnly, ServerNotReady, PermissionRefused, AuthenticationFailed)
"""Refusals that are about the server, not the key: every further key would meet them."""

_ATTEMPTS: Final = 3
_SLOT: Final = 0


@dataclass(frozen=True, slots=True)
class Rewritten:
    """What became of one key."""

    outcome: Literal["written", "vanished", "kept", "refused", "unreadable"]
    kind: str
    size: int = 0
    """Bytes of a string or a document, of the elements of everything else: what went over the wire."""
    lost: tuple[str, ...] = ()
    """What typed commands could not carry."""
    detail: str = ""


class _Counted:
    """Pieces on their way, counted."""

    def __init__(self, pieces: Iterable[Piece], pace: Pace) -> None:
        self._pieces = pieces
        self._pace = pace
        self.size = 0

    def __iter__(self) -> Iterator[Piece]:
        told = 0
        for piece in self._pieces:
            # Before the next piece is asked for.
            self._pace.admit(0, self.size - told)
            told = self.size
            content = piece.content
            if isinstance(content, bytes):
                self.size += len(content)
            elif isinstance(content, list) and piece.part == "value":
                self.size += sum(len(item) for item in content if isinstance(item, bytes))
            elif isinstance(content, list) and piece.part == "entries":
                self.size += sum(_entry_size(entry) for entry in content if isinstance(entry, list))
            yield piece


def _entry_size(entry: list) -> int:  # type: ignore[type-arg]
    return (
        sum(len(item) for item in entry[1] if isinstance(item, bytes)) if len(entry) > 1 and entry[1] else 0
    )


class Rewriter:
    """Copies single keys over connections of its own, which no batch is in flight on.

    :param pace: asked before every piece; never slow by default.
    :param keep_existing: leave a key that the target already holds as it is (policy ``skip``).
    """

    def __init__(
        self,
        source: Standby,
        target: Standby,
        *,
        source_identity: Identity,
        target_identity: Identity,
        limit: PieceSize,
        names: TemporaryNames,
        keep_existing: bool,
        pace: Pace | None = None,
    ) -> None:
        self._from = source
        self._onto = target
        self._absolute = source_identity.has_pexpiretime
        self._members_expire = source_identity.engine == "dragonfly"
        self._in_transaction = target_identity.parses_before_replacing
        self._limit = limit
        self._names = names
        self._keep_existing = keep_existing
        self._pace = pace or FullSpeed(1)
        self._source: Connection
        self._target: Connection

    def rewrite(self, key: bytes, target_key: bytes, size: int = 0) -> Rewritten:
        """Copy *key* of the source's current database to *target_key* in the target's.

        :param size: bytes of memory on the source, or 0 where that is not known.
        :raises ServerError: a server is lost, full, read-only or refuses this user.
        """
        self._source, self._target = self._from.connection(), self._onto.connection()
        temporary = self._names.name(_SLOT, target_key)
        changed = kind_name = ""
        for _ in range(_ATTEMPTS):
            self._target.command(b"UNLINK", temporary)
            # Asked each time: what changed meanwhile may be the type.
            name = self._source.command(b"TYPE", key)
            kind_name = name.decode("utf-8", "replace") if isinstance(name, bytes) else "none"
            if kind_name == "none":
                return Rewritten("vanished", kind_name)
            kind = KINDS.get(kind_name.encode())
            if kind is None:
                return Rewritten(
                    "refused", kind_name, detail=f"no typed commands are known for {kind_name!r}"
                )
            if self._keep_existing and self._target.command(b"EXISTS", target_key):
                return Rewritten("kept", kind_name)
            try:
                return self._write(kind, key, target_key, temporary, size)
            except ValueChanged as error:
                changed = str(error)
            except MalformedReply as error:
                self._target.command(b"UNLINK", temporary)
                return Rewritten("unreadable", kind_name, detail=str(error))
            except WriteRefused as error:
                about_server = self._target.error_for(error.reply, "writing in pieces")
                self._target.command(b"UNLINK", temporary)
                if isinstance(about_server, ENDS_THE_RUN):
                    raise about_server from error
                return Rewritten("refused", kind_name, detail=str(error.reply))
        self._target.command(b"UNLINK", temporary)
        return Rewritten("unreadable", kind_name, detail=f"it changes while it is read: {changed}")

    def _write(self, kind: Kind, key: bytes, target_key: bytes, temporary: bytes, size: int) -> Rewritten:
        read: Iterable[Piece] = kind.pieces(self._source, key, size, self._limit)
        if self._members_expire and kind.name == "set":
            read = with_member_expiries(self._source, key, read)
        pieces = _Counted(read, self._pace)
        lost = kind.write(self._target, temporary, pieces)
        # Asked last: a key that went away meanwhile must not come into being on the target.
        expiry = self._expiry(key)
        if expiry == NO_KEY:
            self._target.command(b"UNLINK", temporary)
            return Rewritten("vanished", kind.name)
        if expiry != NO_EXPIRY:
            set_expiry(self._target, temporary, expiry)
        moved = rename(
            self._target,
            temporary,
            target_key,
            only_new=self._keep_existing,
            in_transaction=self._in_transaction,
        )
        if isinstance(moved, ErrorReply):
            if "no such key" in str(moved).lower():
                return Rewritten("vanished", kind.name)  # Its expiry has passed.
            raise WriteRefused(moved)
        if moved == 0:
            self._target.command(b"UNLINK", temporary)
            return Rewritten("kept", kind.name)
        return Rewritten("written", kind.name, pieces.size, lost)

    def _expiry(self, key: bytes) -> int:
        commands, count = expiry_commands([argument(key)], absolute=self._absolute)
        self._source.send(commands)
        expiry = take_expiries(self._source.receive_many(count), absolute=self._absolute)[0]
        if isinstance(expiry, ErrorReply):
            raise self._source.error_for(expiry, "PEXPIRETIME")
        return expiry if isinstance(expiry, int) else NO_KEY
