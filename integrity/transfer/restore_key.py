"""Copying one key: DUMP and RESTORE, or typed commands where the target refuses the payload or the value is big.

The same rules as for a whole copy (:mod:`integrity.transfer.copy`), for keys that come one at a time: nothing that can
fail destroys the old value.  Redis and Valkey parse a payload before they replace; on any other engine a key that is
there already is replaced through a temporary one and RENAME.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from integrity.endpoint import Identity
from integrity.expiry import NO_KEY, expiry_commands, take_expiries
from integrity.kinds import KINDS
from integrity.kinds.pieces import PieceSize
from integrity.replies import ErrorReply, Reply
from integrity.settings import BigValueSettings
from integrity.standby import Standby
from integrity.transfer.payload import KIND_BY_RDB_TYPE, for_older_server
from integrity.transfer.rewrite import ENDS_THE_RUN, Rewriter
from integrity.transfer.temporary import Places, TemporaryNames
from integrity.wire import argument, pack

_SLOT: Final = 0


@dataclass(frozen=True, slots=True)
class KeyCopied:
    """What became of one key."""

    outcome: Literal["restored", "rewritten", "vanished", "refused", "unreadable"]
    """``vanished``: the source has no such key any more, and nothing was written."""
    kind: str
    size: int = 0
    """Bytes of the payload, or of the elements that were written."""
    relabelled: bool = False
    """The target took the payload only under an older RDB version."""
    lost: tuple[str, ...] = ()
    """What typed commands could not carry."""
    detail: str = ""


class KeyCopier:
    """Copies single keys of one database of the source to one of the target, whatever the target holds there.

    :param owner: tells these temporary keys from those of any other: begins with the run's id.
    :param places: of the target; see :func:`~integrity.transfer.temporary.places_of`.
    """

    def __init__(
        self,
        source: Standby,
        target: Standby,
        *,
        source_identity: Identity,
        target_identity: Identity,
        big_values: BigValueSettings,
        owner: str,
        places: Places,
    ) -> None:
        self._source = source
        self._target = target
        self._absolute = source_identity.has_pexpiretime
        self._replaces = target_identity.parses_before_replacing
        self._big_bytes = big_values.threshold_bytes
        self._names = TemporaryNames(owner, places)
        self._rewriter = Rewriter(
            source,
            target,
            source_identity=source_identity,
            target_identity=target_identity,
            limit=PieceSize(big_values.piece_bytes, big_values.piece_elements),
            names=TemporaryNames(f"{owner}:rewrite", places),
            keep_existing=False,
        )

    def sizes(self, keys: Sequence[bytes]) -> list[int]:
        """Bytes of memory that each key uses on the source; 0 where that is not known."""
        commands = [pack(b"MEMORY", b"USAGE", key) for key in keys]
        return [size if isinstance(size, int) else 0 for size in self._source.connection().exchange(commands)]

    def copy(self, key: bytes, target_key: bytes, *, kind: str | None, size: int) -> KeyCopied:
        """Copy *key* as it is now, with its expiry, to *target_key*.

        :param kind: as TYPE answered lately; None where that is not known.
        :param size: as :meth:`sizes` tells.
        :raises ServerError: a server is lost, full, read-only or refuses this user.
        """
        if size > self._big_bytes and (kind is None or kind.encode() in KINDS):
            return self._rewrite(key, target_key, size)
        payload, expiry = self._read(key)
        if payload is None:
            return KeyCopied("vanished", kind or "none")
        reply, payload, relabelled = self._restore(target_key, expiry, payload)
        name = KIND_BY_RDB_TYPE[payload[0]]
        if not isinstance(reply, ErrorReply):
            return KeyCopied("restored", name, len(payload), relabelled)
        if "no such key" in str(reply).lower():
            return KeyCopied("vanished", name)  # Its expiry passed on the way.
        error = self._target.connection().error_for(reply, "RESTORE")
        if isinstance(error, ENDS_THE_RUN):
            raise error
        refusal = f"the target refused the payload (RDB type {payload[0]}): {reply}"
        return self._rewrite(key, target_key, size, because=refusal)

    def _read(self, key: bytes) -> tuple[bytes | None, int]:
        """The key's payload, None where it is gone, and its absolute expiry in milliseconds, negative for none."""
        source = self._source.connection()
        commands, count = expiry_commands([argument(key)], absolute=self._absolute)
        source.send(pack(b"DUMP", key) + commands)
        payload, *rest = source.receive_many(1 + count)
        expiry = take_expiries(rest, absolute=self._absolute)[0]
        for reply, command in ((payload, "DUMP"), (expiry, "PEXPIRETIME")):
            if isinstance(reply, ErrorReply):
                raise source.error_for(reply, command)
        if not isinstance(payload, bytes) or not isinstance(expiry, int) or expiry == NO_KEY:
            return None, NO_KEY
        return payload, expiry

    def _restore(self, target_key: bytes, expiry: int, payload: bytes) -> tuple[Reply, bytes, bool]:
        """The target's answer, the payload as it was sent last, and whether that was under an older RDB version."""
        when = b"%d" % max(0, expiry)
        reply = self._put(target_key, when, payload)
        older = for_older_server(payload, reply)
        if older is None:
            return reply, payload, False
        return self._put(target_key, when, older), older, True

    def _put(self, target_key: bytes, when: bytes, payload: bytes) -> Reply:
        target = self._target.connection()

        def restore(name: bytes, *options: bytes) -> bytes:
            return pack(b"RESTORE", name, when, payload, *options, b"ABSTTL")

        if self._replaces:
            return target.exchange([restore(target_key, b"REPLACE")])[0]
        reply = target.exchange([restore(target_key)])[0]
        if not isinstance(reply, ErrorReply) or not str(reply).startswith("BUSYKEY"):
            return reply
        temporary = self._names.name(_SLOT, target_key)
        restored, renamed = target.exchange(
            [restore(temporary, b"REPLACE"), pack(b"RENAME", temporary, target_key)]
        )
        if isinstance(restored, ErrorReply) or isinstance(renamed, ErrorReply):
            target.command(b"UNLINK", temporary)
        return restored if isinstance(restored, ErrorReply) else renamed

    def _rewrite(self, key: bytes, target_key: bytes, size: int, *, because: str = "") -> KeyCopied:
        done = self._rewriter.rewrite(key, target_key, size)
        if done.outcome == "vanished":
            return KeyCopied("vanished", done.kind)
        if done.outcome == "written":
            return KeyCopied("rewritten", done.kind, done.size, lost=done.lost, detail=because)
        detail = "; ".join(part for part in (because, done.detail) if part)
        outcome: Literal["unreadable", "refused"] = (
            "unreadable" if done.outcome == "unreadable" else "refused"
        )
        return KeyCopied(outcome, done.kind, detail=detail or "not written")
