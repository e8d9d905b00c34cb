"""Masters that came back without their keys.

Of a single server that restarted it is enough to count its keys.  Of a cluster one master may have lost all that it
had, and the others make up for it in the sum: Dragonflies come back empty where they were not told to save.  What a
master should have is reckoned from the other side: how many keys there are, and which part of them has its slots.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from integrity.cluster.members import read_members
from integrity.cluster.slots import key_slot, read_slots
from integrity.endpoint import Endpoint, Identity, Shard
from integrity.wire import pack

_LOOKED_AT: Final = 1000
"""Names that are looked at on each server of the other side."""
_ENOUGH: Final = 30
"""So many of them with a master's slots tell how many keys it should have; by chance it would not be twice too many."""
_FEW: Final = 10
"""As many are enough where every name was looked at."""


def expected_keys(followed: Identity, other: Endpoint) -> Iterator[tuple[Shard, int]]:
    """Each master of a followed cluster, and how many keys it should have; none where it is no cluster.

    :param other: the side that holds the same keys under the same names.
    :raises ServerError: it cannot be asked.
    """
    if not followed.is_cluster:
        return
    expected, seen, whole = [0.0] * len(followed.shards), [0] * len(followed.shards), True
    owners = {slot: at for at, shard in enumerate(followed.shards) for slot in read_slots(shard.slots)}
    for member in read_members(other):
        if not member.is_master:
            continue
        with member.endpoint.connect("check") as connection:
            count, page = connection.exchange(
                [pack(b"DBSIZE"), pack(b"SCAN", b"0", b"COUNT", b"%d" % _LOOKED_AT)]
            )
        match count, page:
            case int(), [cursor, list() as names]:
                whole = whole and cursor == b"0"
                for at in [owners[key_slot(name)] for name in names if isinstance(name, bytes)]:
                    expected[at] += count / len(names)
                    seen[at] += 1
    for shard, keys, names_seen in zip(followed.shards, expected, seen, strict=True):
        if names_seen >= (_FEW if whole else _ENOUGH):
            yield shard, round(keys)
