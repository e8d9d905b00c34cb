"""Names of temporary keys on the target: ``greenfly:tmp:<run>:<slot>[:<salt>]``, in a cluster ``…:<slot>:{<tag>}``.

A value that cannot be put in its place by one atomic RESTORE goes to a temporary key and is renamed.  On Dragonfly a
RENAME between two shards dumps and restores the value, and a RESTORE that fails there has lost it; between two keys
of one shard it only moves it.  The salt makes the temporary key fall on the final key's shard (Dragonfly's own
function, ``Shard()`` in ``sharding.cc``: XXH64 modulo the number of shards).  A wrong guess costs time only.

In a cluster both names have to be in one slot, or RENAME is refused; the tag sees to that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from xxhash import xxh64_intdigest

from integrity.cluster.slots import tag_beside
from integrity.endpoint import Identity
from integrity.keyspace import scan_command, scan_reply
from integrity.replies import ErrorReply
from integrity.wire import Connection, pack

PREFIX: Final = b"greenfly:tmp:"
_SHARD_SEED: Final = 120577240643
_MOST_SALTS: Final = 1024


@dataclass(frozen=True, slots=True)
class Places:
    """What decides where a target keeps a key."""

    shards: int = 1
    """Of a Dragonfly; 1 where a name's place does not matter."""
    by_slot: bool = False
    """Whether it is a cluster."""


class TemporaryNames:
    """The names that one run (or one worker of it) uses.

    :param owner: the run's id, with whatever tells workers of one run apart behind it.
    """

    def __init__(self, owner: str, places: Places = Places()) -> None:
        self._prefix = PREFIX + owner.encode() + b":"
        self._shards = places.shards
        self._by_slot = places.by_slot

    def name(self, slot: int, final: bytes) -> bytes:
        """The temporary name in *slot* for a value whose place is *final*."""
        name = self._prefix + b"%d" % slot
        if self._by_slot:
            return b"%b:%b" % (name, tag_beside(final))
        if self._shards == 1:
            return name
        wanted = xxh64_intdigest(final, _SHARD_SEED) % self._shards
        for salt in range(_MOST_SALTS):
            salted = name + b":%d" % salt
            if xxh64_intdigest(salted, _SHARD_SEED) % self._shards == wanted:
                return salted
        return name


def places_of(connection: Connection, identity: Identity) -> Places:
    """How the server tells keys apart by their place."""
    return Places(by_slot=True) if identity.is_cluster else Places(_shard_count(connection, identity))


def _shard_count(connection: Connection, identity: Identity) -> int:
    """How many shards the server has, where that matters and it tells (DEBUG may be forbidden); else 1."""
    if identity.engine != "dragonfly":
        return 1
    reply = connection.exchange([pack(b"DEBUG", b"SHARDS")])[0]
    if isinstance(reply, ErrorReply) or not isinstance(reply, bytes):
        return 1
    for line in reply.splitlines():
        name, _, number = line.partition(b":")
        if name == b"num_shards" and number.strip().isdigit():
            return max(1, int(number))
    return 1


def remove_leftovers(connection: Connection, run_ids: Sequence[str]) -> int:
    """Delete the temporary keys of runs that were killed between writing and renaming; returns how many.

    Walks the whole database, so it is for targets that such a run wrote to.
    """
    prefixes = tuple(PREFIX + run_id.encode() for run_id in run_ids)
    cursor, removed = 0, 0
    while True:
        connection.send(scan_command(cursor, 1000))
        cursor, keys = scan_reply(connection, connection.receive())
        mine = [key for key in keys if key.startswith(prefixes)]
        if mine:
            connection.command(b"UNLINK", *mine)
            removed += len(mine)
        if not cursor:
            return removed
