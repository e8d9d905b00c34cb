"""Checks about how applications are connected: protocol, databases, cluster mode, replicas."""

from __future__ import annotations

from collections import Counter

from integrity.assess.commands import used_commands
from integrity.assess.model import Finding, Severity, found, not_applicable, passed, unknown
from integrity.assess.subject import Subject
from integrity.assess.usage_asked import LISTED, application_clients, calls_of, names_of, number_of
from integrity.replies import ErrorReply
from integrity.wire import pack


def look_protocol(subject: Subject) -> Finding:
    """RESP3, and which libraries are connected."""
    clients = application_clients(subject)
    calls = calls_of(subject, "hello", "auth", "reset")
    if clients is None:
        return unknown(
            Severity.INFO,
            "The source does not list its clients (CLIENT LIST is refused).",
            "Ask the applications' owners which libraries they use.",
            calls=calls,
        )
    versions = Counter(client.fields.get("resp", "") for client in clients)
    evidence: dict[str, object] = {
        "connections": len(clients),
        "resp3": versions.get("3", 0),
        "libraries": dict(Counter(c.library for c in clients if c.library).most_common(LISTED)),
        "names": names_of(clients, LISTED),
        "calls": calls,
    }
    # Redis 6.2 does not tell who speaks what; RESP3 begins with HELLO.
    if (versions.get("3") or "hello" in calls) and not _speaks(subject, b"3"):
        return found(
            Severity.BLOCKING if versions.get("3") else Severity.WARNING,
            "Connections speak RESP3, or have asked for it (HELLO), which the target refuses.",
            "Set the clients to RESP2.",
            items=(),
            **evidence,
        )
    return passed(f"The target speaks what the {len(clients)} connections speak.", **evidence)


def _speaks(subject: Subject, version: bytes) -> bool:
    for server in subject.target_servers:
        with server.endpoint.connect("assess") as connection:
            if isinstance(connection.exchange([pack(b"HELLO", version)])[0], ErrorReply):
                return False
    return True


def look_cluster(subject: Subject) -> Finding:
    """CLUSTER, READONLY and ASKING."""
    calls = calls_of(subject, "cluster", "readonly", "readwrite", "asking")
    # A client that only looks whether this is a cluster is answered by an error, on the source as on the target.
    working = [
        use
        for use in used_commands(subject.source_info)
        if use.container in calls and use.calls and not use.always_fails
    ]
    clustered = subject.source_identity.is_cluster or subject.source_info.get("cluster_enabled") == "1"
    evidence: dict[str, object] = {"calls": calls, "cluster_enabled": clustered}
    if not calls and not clustered:
        return passed("Applications do not speak to a cluster.", **evidence)
    emulated = not any(
        isinstance(server.ask(pack(b"CLUSTER", b"INFO"))[0], ErrorReply) for server in subject.target_servers
    )
    evidence["target_speaks_cluster"] = emulated
    if (clustered or working) and not emulated:
        return found(
            Severity.BLOCKING if clustered else Severity.WARNING,
            "Cluster commands are used with success, and the target has them switched off.",
            "Start Dragonfly with --cluster_mode=emulated, or let the applications use a client without cluster mode.",
            # Of a cluster, that it is one: its tools and nodes use subcommands that come and go.
            items=() if clustered else tuple(sorted(use.name for use in working)),
            **evidence,
        )
    answered = "answered alike" if working else "answered by an error on both servers"
    return passed(f"Cluster commands are used, and {answered}.", **evidence)


def look_select(subject: Subject) -> Finding:
    """Databases that clients use, or that hold keys."""
    clients = application_clients(subject)
    used = sorted({client.database for client in clients or ()})
    holding = sorted(subject.source_identity.databases)
    mapped = subject.settings.rules.databases
    numbers = sorted({mapped.get(number, number) for number in (*used, *holding)} - {0})
    evidence: dict[str, object] = {
        "used_now": used,
        "holding_keys": holding,
        "calls": calls_of(subject, "select"),
    }
    if not numbers:
        return passed("Only database 0 is used.", **evidence)
    refused = []
    selects = [pack(b"SELECT", b"%d" % number) for number in numbers]
    for server in subject.target_servers:
        *replies, _ = server.ask(*selects, pack(b"SELECT", b"0"))
        refused += [
            n
            for n, reply in zip(numbers, replies, strict=True)
            if n not in refused and isinstance(reply, ErrorReply)
        ]
    if refused:
        return found(
            Severity.BLOCKING,
            f"Databases {', '.join(map(str, refused))} are used, which the target does not have.",
            "Start Dragonfly with a larger --dbnum.",
            items=tuple(map(str, refused)),
            **evidence,
        )
    return passed(f"The target has the databases {', '.join(map(str, [0, *numbers]))}.", **evidence)


def look_monitor(subject: Subject) -> Finding:
    """Who reads all commands."""
    clients = application_clients(subject)
    calls = calls_of(subject, "monitor")
    if clients is None:
        return unknown(Severity.INFO, "The source does not list its clients.", "", calls=calls)
    watching = [client for client in clients if "O" in client.flags]
    if not watching and not calls:
        return passed("No one reads the source's commands (MONITOR).", calls=calls)
    return found(
        Severity.WARNING if watching else Severity.INFO,
        f"{len(watching)} connections read the source's commands (MONITOR) now; it was asked for "
        f"{calls.get('monitor', 0)} times.",
        "It costs the source half of its speed, and Dragonfly shows commands out of order: end it before the move.",
        items=tuple(sorted({client.name or "without a name" for client in watching})),
        calls=calls,
    )


def look_replicas(subject: Subject) -> Finding:
    """Replicas, and Sentinel."""
    replicas = number_of(subject, "connected_slaves")
    if subject.target_identity.role == "replica":
        replicas = max(0, replicas - 1)  # The target itself, while Dragonfly's own replication is used.
    watched = [c for c in application_clients(subject) or () if c.name.startswith("sentinel-")]
    evidence: dict[str, object] = {"replicas": replicas, "sentinels": len(watched)}
    if not replicas and not watched:
        return passed("No replica follows the source.", **evidence)
    parts = [f"{replicas} replicas follow the source"] if replicas else []
    parts += [f"{len(watched)} connections of Sentinel watch it"] if watched else []
    return found(
        Severity.WARNING,
        f"{' and '.join(parts)}: they do not follow to the target.",
        "Give the target replicas of its own after the cutover, point readers of replicas to it, and switch Sentinel's "
        "failover off for the time of the move.",
        items=(),
        **evidence,
    )


def look_counted(subject: Subject) -> Finding:
    """Whether the source is a master, and whether all that applications use is counted there."""
    if subject.source_identity.role == "replica":
        return found(
            Severity.WARNING,
            "The source is a replica: what applications use is counted by its master.",
            "Assess the master.",
        )
    replicas = number_of(subject, "connected_slaves")
    if subject.source_identity.is_cluster and replicas:
        return found(
            Severity.INFO,
            f"The cluster's masters have {replicas} replicas; what applications read from those (READONLY) is counted "
            "there, and was not looked at.",
            "Where applications read from replicas, look at INFO commandstats there.",
            items=(),
            replicas=replicas,
        )
    return not_applicable("The source is a master, where applications' commands are counted.")
