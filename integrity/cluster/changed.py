"""Which slots have to be read again after a master failed over or restarted.

Slots that merely move take their keys along, and the walk sees to it that none is missed.  A replica that takes a dead
master's place may lack the newest writes, though, and what it holds is the truth from then on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from integrity.cluster.slots import read_slots
from integrity.endpoint import Endpoint, Identity
from integrity.errors import ServerRestarted


def recorded_shards(source: Mapping[str, object] | None) -> Sequence[Mapping[str, object]]:
    """The shards of an identity as the ledger keeps it."""
    shards = (source or {}).get("shards")
    return (
        [shard for shard in shards if isinstance(shard, Mapping)] if isinstance(shards, list | tuple) else []
    )


def slots_read_anew(before: Sequence[Mapping[str, object]], now: Identity) -> frozenset[int]:
    """Slots that were, or are now, served by a node that is not the process it was before."""
    lives_before = {(str(shard["node_id"]), str(shard["run_id"])) for shard in before}
    lives_now = {(shard.node_id, shard.run_id) for shard in now.shards}
    found: set[int] = set()
    for shard in before:
        if (str(shard["node_id"]), str(shard["run_id"])) not in lives_now:
            found |= read_slots(str(shard["slots"]))
    for now_shard in now.shards:
        if (now_shard.node_id, now_shard.run_id) not in lives_before:
            found |= read_slots(now_shard.slots)
    return frozenset(found)


def require_same_masters(endpoint: Endpoint, before: Identity) -> None:
    """Refuse to conclude about a cluster of which a master failed over or restarted; of one server nothing is asked.

    No connection has to be lost over that: nobody may have asked that master again.

    :raises ServerRestarted: one did, since *before*.
    :raises ServerError: a master is lost, or slots are served by nobody.
    """
    if not before.is_cluster:
        return
    if slots_read_anew(recorded_shards(before.to_dict()), endpoint.identify()):
        raise ServerRestarted(
            endpoint.role,
            str(endpoint),
            "a master failed over or restarted meanwhile, and may have lost what it had acknowledged.",
            "Compare everything (greenfly verify), and repair what that finds.",
        )
