"""Cutting one server's keyspace into disjoint ranges of SCAN cursors that several workers can read at once.

* Redis and Valkey count the *reversed* bits of a cursor up.  The keys whose cursor ends in the same k bits are
  therefore one contiguous stretch: range *i* of 2^k begins at the cursor that is *i* with its k bits reversed, and
  ends where the low k bits of the returned cursor are others.  A page can reach into the next range; the keys it
  brings from there are known, because the next range's first page brings them too (:class:`KeyspaceReader` asks).
* Dragonfly scans one shard after the other, and a cursor says which (cursor modulo 1024).  A page that a shard does
  not fill goes on in the next one, so here too a page can reach over.
* A cluster is walked slot by slot (:mod:`integrity.cluster.walk`), and its cursors are slots.  A range is a stretch of
  slots, whichever masters serve them, so it stays what it was when slots move or a master fails over.
* A cluster of Dragonflies is scanned node by node (:mod:`integrity.cluster.scan`), and a range is a node.

The last range always goes on until the cursor is 0, so that a wrong idea of how many ranges there are costs
balance, never a key.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from integrity.cluster.scan import NODE
from integrity.cluster.slots import SLOTS
from integrity.cluster.walk import BLOCK
from integrity.endpoint import Identity
from integrity.keyspace import scan_command, scan_reply
from integrity.wire import Connection

_SHARD_BITS: Final = 10
_MOST_SHARDS: Final = 1 << _SHARD_BITS
KEYS_PER_RANGE: Final = 20_000
"""A range of fewer keys is not worth its own connections; and a hash table must have more slots than ranges."""
_SLOT_BLOCKS: Final = SLOTS // BLOCK
_KEYS_PER_SLOT_RANGE: Final = 100_000
"""How many keys of a cluster are read again, about, where a master fails over that one worker reads from."""
Style: TypeAlias = Literal["whole", "bits", "shards", "slots", "nodes"]


@dataclass(frozen=True, slots=True)
class CursorRange:
    """A contiguous stretch of one database's SCAN order."""

    index: int = 0
    count: int = 1
    style: Style = "whole"

    @property
    def start(self) -> int:
        """The cursor at which the range begins."""
        return self._start_of(self.index)

    def ends_at(self, cursor: int) -> bool:
        """Whether a SCAN that returned *cursor* has read the range to its end."""
        if cursor == 0:
            return True
        if self.index == self.count - 1:
            return False
        if self.style == "slots":
            return cursor % SLOTS >= self._start_of(self.index + 1)
        if self.style == "nodes":
            return cursor // NODE != self.index
        modulus = _MOST_SHARDS if self.style == "shards" else self.count
        return cursor % modulus != self.start

    @property
    def next_start(self) -> int | None:
        """Where the next range begins, if a page of this one can reach into it."""
        if self.style in {"slots", "nodes"}:
            return None
        return self._start_of(self.index + 1) if self.index + 1 < self.count else None

    @property
    def slots(self) -> range:
        """The slots of a range of a cluster."""
        end = self._start_of(self.index + 1) if self.style == "slots" else SLOTS
        return range(self.start if self.style == "slots" else 0, end)

    def _start_of(self, index: int) -> int:
        if self.style == "slots":
            return index * _SLOT_BLOCKS // self.count * BLOCK
        if self.style == "nodes":
            return index * NODE
        if self.style != "bits":
            return index
        bits = self.count.bit_length() - 1
        return int(format(index, f"0{bits}b")[::-1], 2) if bits else 0


WHOLE: Final = CursorRange()


def plan_ranges(connection: Connection, identity: Identity, keys: int, workers: int) -> list[CursorRange]:
    """Ranges of the connection's database for *workers* workers: several each, so that they end together.

    :param keys: how many keys the database holds.
    """
    if identity.is_cluster:
        masters = len(identity.shards)
        if not identity.lists_slots:
            return node_ranges(masters)
        return cluster_ranges(masters, keys, workers)
    wanted = min(4 * workers, keys // KEYS_PER_RANGE)
    if workers == 1 or wanted < 2:
        return [WHOLE]
    if identity.engine == "dragonfly":
        count = _shards(connection)
        return [CursorRange(i, count, "shards") for i in range(count)] if count > 1 else [WHOLE]
    count = 1 << (wanted.bit_length() - 1)
    return [CursorRange(i, count, "bits") for i in range(count)]


def cluster_ranges(masters: int, keys: int, workers: int) -> list[CursorRange]:
    """Ranges of a cluster: a few for each master, so that one that fails over has not much read again."""
    wanted = max(4 * masters, keys // _KEYS_PER_SLOT_RANGE, min(4 * workers, keys // KEYS_PER_RANGE))
    count = min(wanted, _SLOT_BLOCKS)
    return [CursorRange(i, count, "slots") for i in range(count)]


def node_ranges(masters: int) -> list[CursorRange]:
    """Ranges of a cluster of Dragonflies."""
    return [CursorRange(i, masters, "nodes") for i in range(masters)]


def _shards(connection: Connection) -> int:
    """How many shards the server scans: one that is not there answers with no key and the cursor 0."""
    for shard in range(_MOST_SHARDS):
        connection.send(scan_command(shard, 1))
        cursor, keys = scan_reply(connection, connection.receive())
        if not keys and cursor == 0:
            return max(1, shard)
    return _MOST_SHARDS
