"""Restoring one big value with typed commands, in pieces, to a temporary key that is renamed into place.

One ``RESTORE`` of a value of hundreds of megabytes would hold it several times over, here and on the target, and stop
the target meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Literal

from integrity.endpoint import Identity
from integrity.expiry import clock_ms
from integrity.kinds import KINDS, STREAM
from integrity.kinds.base import elements_of
from integrity.kinds.field_expiry import NONE
from integrity.kinds.pieces import Piece, WriteRefused
from integrity.rdb.errors import MalformedBody
from integrity.rdb.expiring import without_expired
from integrity.replies import ErrorReply
from integrity.settings import ConflictPolicy
from integrity.snapshot.manifest import ManifestRow
from integrity.snapshot.walk import Damage
from integrity.transfer.place import rename, set_expiry
from integrity.transfer.rewrite import ENDS_THE_RUN
from integrity.transfer.temporary import TemporaryNames
from integrity.wire import Connection, pack

_SLOT: Final = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one key."""

    what: Literal["written", "kept", "refused"]
    """``kept``: the target has this key, and the policy is not to replace it."""
    detail: str = ""
    lost: tuple[str, ...] = ()
    """What typed commands could not carry."""


class BigRestorer:
    """Writes single keys to the target's current database; no command may be in flight there.

    :param names: temporary names that nobody else uses.
    :param incomplete: write a value also where its fields' expiries cannot be carried, and tell; else it is refused,
        because what was to expire would stay for ever.  Streams lose no more than what is told.
    """

    def __init__(
        self,
        target: Connection,
        identity: Identity,
        *,
        names: TemporaryNames,
        conflict: ConflictPolicy,
        incomplete: bool = False,
    ) -> None:
        self._target = target
        self._in_transaction = identity.parses_before_replacing
        self._names = names
        self._incomplete = incomplete
        self._replace = conflict is ConflictPolicy.REPLACE

    def write(self, row: ManifestRow, name: bytes, pieces: Iterator[Piece]) -> Outcome:
        """Write one key as *name*; *pieces* are used up, whatever happens.

        :raises Damage: the body is not the one of the manifest; nothing is left of it.
        :raises ServerError: the target is lost, full, read-only or refuses this user.
        """
        temporary = self._names.name(_SLOT, name)
        there, now_ms = self._prepare(name, temporary)
        if there and not self._replace:
            _drain(pieces)
            return Outcome("kept")
        try:
            return self._write(row, name, temporary, pieces, now_ms)
        except (WriteRefused, MalformedBody) as error:
            self._target.command(b"UNLINK", temporary)
            if isinstance(error, WriteRefused):
                about_server = self._target.error_for(error.reply, "writing in pieces")
                if isinstance(about_server, ENDS_THE_RUN):
                    raise about_server from error
            _drain(pieces)
            what = "the target refused it" if isinstance(error, WriteRefused) else "its body cannot be read"
            return Outcome("refused", f"{what}: {error}")
        except Damage:
            self._target.command(b"UNLINK", temporary)
            raise

    def _prepare(self, name: bytes, temporary: bytes) -> tuple[bool, int]:
        """Whether the target has the key, and its clock; whoever was killed may have left the temporary key."""
        names = (b"EXISTS", b"UNLINK", b"TIME")
        commands = (pack(names[0], name), pack(names[1], temporary), pack(names[2]))
        replies = self._target.exchange([*commands])
        for command, reply in zip(names, replies, strict=True):
            if isinstance(reply, ErrorReply):
                raise self._target.error_for(reply, command.decode())
        return bool(replies[0]), clock_ms(replies[2])

    def _write(
        self, row: ManifestRow, name: bytes, temporary: bytes, pieces: Iterable[Piece], now_ms: int
    ) -> Outcome:
        kind = KINDS[row.kind.encode()]
        lost = kind.write(self._target, temporary, (without_due(piece, now_ms) for piece in pieces))
        if lost and kind is not STREAM and not self._incomplete:
            self._target.command(b"UNLINK", temporary)
            return Outcome("refused", f"the target cannot hold {' and '.join(lost)}")
        if row.expiry_ms is not None:
            set_expiry(self._target, temporary, row.expiry_ms)
        moved = rename(
            self._target,
            temporary,
            name,
            only_new=not self._replace,
            in_transaction=self._in_transaction,
        )
        if isinstance(moved, ErrorReply):
            if "no such key" not in str(moved).lower():
                raise WriteRefused(moved)
            # Its expiry has passed, and so has that of the old value's successor.
            if self._replace:
                self._target.command(b"UNLINK", name)
        elif moved == 0:
            self._target.command(b"UNLINK", temporary)
            return Outcome("kept")
        return Outcome("written", lost=lost)


def without_due(piece: Piece, now_ms: int) -> Piece:
    """A piece of a hash (or set) without what has expired by now; servers leave that out when they load a file."""
    if not piece.expiries or all(time == NONE or time > now_ms for time in piece.expiries):
        return piece
    elements, times = without_expired(elements_of(piece.content), piece.expiries, now_ms)
    return Piece([*elements], piece.part, tuple(times))


def _drain(pieces: Iterator[Piece]) -> None:
    for _ in pieces:
        pass
