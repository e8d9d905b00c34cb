"""Putting a finished temporary key into its place: its expiry first, then the rename."""

from __future__ import annotations

from integrity.expiry import clock_ms
from integrity.kinds.pieces import WriteRefused
from integrity.replies import ErrorReply, Reply
from integrity.wire import Connection, pack


def set_expiry(target: Connection, key: bytes, expiry_ms: int) -> None:
    """Set the absolute expiry; where it is beyond the target's limit, the longest that the target has.

    :raises WriteRefused: the target refuses it for another reason.
    """
    reply = target.exchange([pack(b"PEXPIREAT", key, b"%d" % expiry_ms)])[0]
    if isinstance(reply, ErrorReply) and "out of range" in str(reply).lower():
        left = expiry_ms - clock_ms(target.command(b"TIME"))
        reply = target.exchange([pack(b"PEXPIRE", key, b"%d" % left)])[0]
    if isinstance(reply, ErrorReply):
        raise WriteRefused(reply)


def rename(
    target: Connection, temporary: bytes, final: bytes, *, only_new: bool, in_transaction: bool
) -> Reply:
    """Rename; the reply is the command's own (0 where *only_new* and the final key is there), or an error.

    :param in_transaction: free an old value in the background first, in one transaction; for servers (Redis, Valkey)
        whose RENAME would free it at once, which takes long for a large one.
    """
    if only_new:
        return target.exchange([pack(b"RENAMENX", temporary, final)])[0]
    command = pack(b"RENAME", temporary, final)
    if not in_transaction:
        return target.exchange([command])[0]
    results = target.exchange([pack(b"MULTI"), pack(b"UNLINK", final), command, pack(b"EXEC")])[-1]
    return results[-1] if isinstance(results, list) else results
