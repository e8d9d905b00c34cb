"""Putting values into places that are taken, through temporary keys: nothing that fails destroys the old value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from integrity.expiry import clock_ms
from integrity.kinds.pieces import WriteRefused
from integrity.replies import ErrorReply, Reply
from integrity.transfer.batch import REPLACE_ABSTTL, RESTORE_REPLACE
from integrity.transfer.temporary import TemporaryNames
from integrity.wire import Connection, argument, pack


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


@dataclass(frozen=True, slots=True)
class Busy:
    """A payload whose place on the target is taken."""

    position: int
    """In the batch that it belongs to."""
    final: bytes
    """The key's name on the target."""
    payload: bytes
    when: bytes
    """The absolute expiry as a RESP argument; 0 for none."""


def busy_positions(replies: Sequence[Reply]) -> list[int]:
    """Which of the answers to a batch of RESTOREs say that the key is there already."""
    return [n for n, r in enumerate(replies) if isinstance(r, ErrorReply) and str(r).startswith("BUSYKEY")]


def replace_busy(
    target: Connection, names: TemporaryNames, busy: Sequence[Busy], replies: list[Reply]
) -> None:
    """RESTORE each payload to a temporary key and rename it; puts the outcomes into *replies*."""
    temporaries = [names.name(slot, each.final) for slot, each in enumerate(busy)]
    commands: list[bytes] = []
    for name, each in zip(temporaries, busy, strict=True):
        temporary = argument(name)
        commands += (RESTORE_REPLACE, temporary, each.when, argument(each.payload), REPLACE_ABSTTL)
        commands += (b"*3\r\n$6\r\nRENAME\r\n", temporary, argument(each.final))
    target.send(b"".join(commands))
    pairs = iter(target.receive_many(2 * len(busy)))
    gone: list[bytes] = []
    for each, restored, renamed in zip(busy, pairs, pairs, strict=True):
        replies[each.position] = restored
        if not isinstance(restored, ErrorReply) and isinstance(renamed, ErrorReply):
            # A payload whose expiry has passed is accepted but leaves nothing to rename: the key has expired, so the
            # old value goes.
            if "no such key" in str(renamed).lower():
                gone.append(each.final)
            else:
                replies[each.position] = renamed
    # A temporary key that stayed would be renamed onto another key by a later batch.
    target.command(b"DEL", *temporaries, *gone)
