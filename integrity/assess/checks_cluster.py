"""Checks about clusters: their slots, their nodes' versions, how evenly keys lie, and keys of several slots at once."""

from __future__ import annotations

from typing import Final

from integrity.assess.command_table import CommandEntry
from integrity.assess.commands import MIGRATION_TOOLS, OWN, calls_by_container, used_commands
from integrity.assess.model import Check, Finding, Reach, Severity, found, not_applicable, passed, unknown
from integrity.assess.server import Server
from integrity.assess.subject import Subject
from integrity.assess.usage_words import no_counts, some
from integrity.info import parse_info
from integrity.replies import ErrorReply
from integrity.strategy import Strategy
from integrity.wire import pack

_UNEVEN: Final = 2.0
"""A master that holds so many times what its slots would hold on average is worth a word."""
_FEW_KEYS: Final = 1000
_NO_CLUSTER: Final = "Neither side is a cluster."
_TRANSACTIONS: Final = frozenset({"multi", "watch"})
_NOT_OF_APPLICATIONS: Final = frozenset(name.partition("|")[0] for name in OWN) | MIGRATION_TOOLS


def _look_slots(subject: Subject) -> Finding:
    """Slots that move, or that a node believes to be lost; a cluster with holes is refused before anything else."""
    sides = [
        (side, identity, servers)
        for side, identity, servers in (
            ("source", subject.source_identity, subject.source_servers),
            ("target", subject.target_identity, subject.target_servers),
        )
        if identity.is_cluster
    ]
    if not sides:
        return not_applicable(_NO_CLUSTER)
    moving = {side: sum(shard.slots_moving for shard in identity.shards) for side, identity, _ in sides}
    doubted, untold = {}, []
    for side, _, servers in sides:
        for server in servers:
            view = _view(server)
            if view is None:
                untold.append(server.place)
            elif view:
                doubted[f"the {side}'s {server.place}"] = view
    evidence: dict[str, object] = {"moving": moving, "doubted": doubted, "untold": untold}
    if any(moving.values()):
        native = subject.strategy is Strategy.NATIVE
        return found(
            Severity.BLOCKING if native else Severity.WARNING,
            f"{sum(moving.values())} slots are on their way from one node to another"
            + (
                "; Dragonfly's own replication cannot follow them."
                if native
                else ". They are followed, but a key of such a slot is asked for twice and more."
            ),
            "Let the resharding end first (redis-cli --cluster check).",
            items=(),
            **evidence,
        )
    if doubted:
        return found(
            Severity.WARNING,
            f"Some nodes take slots for lost, or nearly so: {'; '.join(f'{k}: {v}' for k, v in doubted.items())}.",
            "Look at CLUSTER INFO there, and wait for the failover to end.",
            items=(),
            **evidence,
        )
    if untold:
        return unknown(
            Severity.WARNING, f"{some(untold)} do not tell how their cluster is.", "Allow CLUSTER INFO."
        )
    return passed("Every slot is served, and none moves.", **evidence)


def _view(server: Server) -> str | None:
    """What a node complains of; empty where all is well, None where it does not tell."""
    reply = server.ask(pack(b"CLUSTER", b"INFO"))[0]
    if isinstance(reply, ErrorReply) or not isinstance(reply, bytes):
        return None
    facts = parse_info(reply)
    wrong = {
        name: facts[name]
        for name in ("cluster_slots_pfail", "cluster_slots_fail")
        if facts.get(name, "0") != "0"
    }
    if facts.get("cluster_state", "ok") != "ok":
        wrong["cluster_state"] = facts["cluster_state"]
    return ", ".join(f"{name} {value}" for name, value in wrong.items())


def _look_versions(subject: Subject) -> Finding:
    """Whether all nodes of a cluster run the same program."""
    sides = {
        "source": subject.source_servers if subject.source_identity.is_cluster else (),
        "target": subject.target_servers if subject.target_identity.is_cluster else (),
    }
    if not any(sides.values()):
        return not_applicable(_NO_CLUSTER)
    titles = {
        side: sorted({server.identity.title for server in servers})
        for side, servers in sides.items()
        if servers
    }
    evidence: dict[str, object] = {"versions": titles}
    mixed = [f"the {side}: {some(names)}" for side, names in titles.items() if len(names) > 1]
    if mixed:
        return found(
            Severity.WARNING,
            f"The nodes are of several versions ({'; '.join(mixed)}): what one can hold or answer, another may not, "
            "and a failover changes which.",
            "Upgrade all nodes to one version first.",
            items=tuple(sorted({name for names in titles.values() if len(names) > 1 for name in names})),
            **evidence,
        )
    return passed(
        f"All nodes run {some(sorted({name for names in titles.values() for name in names}))}.", **evidence
    )


def _look_skew(subject: Subject) -> Finding:
    """Whether a master holds far more keys than its share of the slots."""
    if not subject.source_identity.is_cluster:
        return not_applicable("The source is one server.")
    servers = subject.source_servers
    total = sum(server.identity.keys for server in servers)
    keys = {server.place: server.identity.keys for server in servers}
    evidence: dict[str, object] = {
        "keys": keys,
        "shares_of_slots": {s.place: round(s.share, 4) for s in servers},
    }
    uneven = {
        server.place: server.identity.keys / (total * server.share)
        for server in servers
        if total >= _FEW_KEYS and server.share and server.identity.keys > _UNEVEN * total * server.share
    }
    if uneven:
        named = ", ".join(f"{place} ({times:.1f} times)" for place, times in uneven.items())
        return found(
            Severity.WARNING if subject.target_identity.is_cluster else Severity.INFO,
            f"Some masters hold far more keys than their slots would on average: {named}. Hash tags gather keys.",
            "A copy takes as long as the fullest slots; a cluster as the target is filled as unevenly.",
            items=(),
            **evidence,
        )
    return passed(f"The {total:,} keys lie evenly over {len(servers)} masters.", **evidence)


def _look_cross_slot(subject: Subject) -> Finding:
    """Commands, scripts and transactions about keys that a cluster would put into several slots."""
    if not subject.target_identity.is_cluster:
        return not_applicable("The target is one server.")
    if subject.source_identity.is_cluster:
        return not_applicable("The source is a cluster too, and refuses them already.")
    uses = used_commands(subject.source_info)
    if not uses:
        return no_counts(Severity.WARNING)
    table = subject.source_table
    calls = calls_by_container(uses)
    several = {
        name: number
        for name, number in calls.items()
        if name in _TRANSACTIONS
        or (
            name not in _NOT_OF_APPLICATIONS
            and (entry := table.find(name)) is not None
            and _takes_several_keys(entry)
        )
    }
    if not several:
        return passed("No command is used that can be about several keys.")
    return found(
        Severity.WARNING,
        f"Commands are used that can be about several keys ({some(several)}); a cluster refuses those whose keys are "
        "in different slots (CROSSSLOT). Whether theirs are, no server counts.",
        "Look through the applications: put keys that are used together under one hash tag, {like:this}, or have a "
        "single server, or a Dragonfly that serves every slot by itself, as the target.",
        items=tuple(several),
        calls=several,
    )


def _takes_several_keys(entry: CommandEntry) -> bool:
    first, last, _ = entry.keys
    return (first > 0 and last != first) or "movablekeys" in entry.flags


CHECKS: Final = (
    Check(
        "cluster.slots",
        "Slots of a cluster",
        Severity.BLOCKING,
        _look_slots,
        source=Reach.WHOLE,
        target=Reach.WHOLE,
    ),
    Check(
        "cluster.versions",
        "Versions of a cluster's nodes",
        Severity.WARNING,
        _look_versions,
        source=Reach.WHOLE,
        target=Reach.WHOLE,
    ),
    Check(
        "cluster.skew",
        "How keys lie over a cluster",
        Severity.WARNING,
        _look_skew,
        source=Reach.WHOLE,
        target=Reach.WHOLE,
    ),
    Check(
        "cluster.cross-slot",
        "Commands about keys of several slots",
        Severity.WARNING,
        _look_cross_slot,
        source=Reach.WHOLE,
        target=Reach.WHOLE,
    ),
)
