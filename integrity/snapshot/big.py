"""Reading one big value for a snapshot: in pieces, and yet as it was at one moment.

The key is watched (``WATCH``) while its pieces are read, and its expiry is asked for in a transaction at the end: one
that the server refuses to run tells that the key was written to meanwhile, whatever was written.  Then it is read
again.  So no snapshot holds a mixture of two states, nor a member twice, for which Redis would refuse the whole file.
"""

from __future__ import annotations

from typing import Final

from integrity.endpoint import Identity
from integrity.expiry import NO_KEY, expiry_commands, take_expiries
from integrity.kinds import KINDS, MalformedReply
from integrity.kinds.field_expiry import NONE
from integrity.kinds.pieces import PieceSize, ValueChanged
from integrity.pace import Pace
from integrity.replies import ErrorReply
from integrity.snapshot.encode import Form, expiring_form, form_for
from integrity.snapshot.rdb import OLDEST_RDB_VERSION
from integrity.snapshot.writer import SnapshotWriter
from integrity.standby import Standby
from integrity.transfer.payload import rdb_version
from integrity.wire import Connection, argument, pack

_ATTEMPTS: Final = 3
_MULTI, _EXEC = pack(b"MULTI"), pack(b"EXEC")


class MustBeReadWhole(Exception):
    """Only ``DUMP`` gives this value as it is."""


class _FieldsExpire(Exception):
    """A hash turned out to have fields that expire, which its encoding has no place for."""


class BigValueTaker:
    """Writes single keys of one database to a snapshot, over a connection of its own.

    :param pace: asked before every piece.
    """

    def __init__(
        self, source: Standby, writer: SnapshotWriter, *, identity: Identity, limit: PieceSize, pace: Pace
    ) -> None:
        self._source = source
        self._writer = writer
        self._absolute = identity.has_pexpiretime
        self._engine = identity.engine
        self._limit = limit
        self._pace = pace

    def take(self, key: bytes, size: int) -> int:
        """Write one key; returns its body's size, 0 where it is gone.

        :param size: bytes of memory on the server.
        :raises MustBeReadWhole: its type has no plain encoding, or it was written to during every attempt.
        :raises ServerError: the source is lost or refuses.
        """
        connection = self._source.connection()
        attempts, expiring = 0, False
        while attempts < _ATTEMPTS:
            try:
                return self._attempt(connection, key, size, expiring=expiring)
            except ValueChanged:
                attempts += 1
            except _FieldsExpire:
                expiring = True
            except (MalformedReply, MustBeReadWhole) as error:
                connection.command(b"UNWATCH")
                raise MustBeReadWhole from error
            connection.command(b"UNWATCH")
        self._writer.totals.unsettled += 1
        raise MustBeReadWhole

    def _attempt(self, connection: Connection, key: bytes, size: int, *, expiring: bool) -> int:
        connection.command(b"WATCH", key)
        name = connection.command(b"TYPE", key)
        if name == b"none":
            return self._gone(connection)
        form = self._form(name, expiring=expiring) if isinstance(name, bytes) else None
        if form is None or not isinstance(name, bytes):
            raise MustBeReadWhole
        kind = KINDS[name]
        hasher = kind.hasher()
        with self._writer.spool() as spool:
            for piece in kind.pieces(connection, key, size, self._limit):
                if not expiring and any(time != NONE for time in piece.expiries):
                    raise _FieldsExpire
                hasher.add(piece)
                body = form.encode(piece)
                spool.write(body)
                # Before the next piece is asked for.
                self._pace.admit(0, len(body))
            expiry = self._unchanged(connection, key)
            if expiry == NO_KEY:
                return self._gone(connection)
            self._writer.begin(max(form.oldest_version, self._version(connection)))
            head = form.head(hasher.size)
            expiry_ms = expiry if expiry >= 0 else None
            return self._writer.add_big(
                connection.database, key, kind.name, form.rdb_type, head, spool, expiry_ms, hasher.digest()
            )

    def _form(self, name: bytes, *, expiring: bool) -> Form | None:
        return expiring_form(self._engine) if expiring else form_for(name, self._engine)

    def _gone(self, connection: Connection) -> int:
        connection.command(b"UNWATCH")
        self._writer.totals.vanished += 1
        return 0

    def _unchanged(self, connection: Connection, key: bytes) -> int:
        """The key's absolute expiry, if nobody wrote to it since it is watched.

        :raises ValueChanged: somebody did.
        """
        commands, count = expiry_commands([argument(key)], absolute=self._absolute)
        connection.send(_MULTI + commands + _EXEC)
        replies = connection.receive_many(count + 2)
        results = replies[-1]
        if results is None:
            raise ValueChanged("it was written to")
        if not isinstance(results, list):
            first = next((reply for reply in replies if isinstance(reply, ErrorReply)), None)
            raise connection.error_for(first or ErrorReply("EXEC answered nothing"), "MULTI … EXEC")
        expiry = take_expiries(results, absolute=self._absolute)[0]
        if isinstance(expiry, ErrorReply):
            raise connection.error_for(expiry, "PEXPIRETIME")
        return expiry if isinstance(expiry, int) else NO_KEY

    def _version(self, connection: Connection) -> int:
        """The source's RDB version, which payloads tell; where there was none yet, that of its functions does."""
        if self._writer.begun:
            return OLDEST_RDB_VERSION
        payload = connection.exchange([pack(b"FUNCTION", b"DUMP")])[0]
        # Servers without that command (Redis before 7.0, Dragonfly) write the oldest version.
        return rdb_version(payload) if isinstance(payload, bytes) else OLDEST_RDB_VERSION
