"""Checks about what applications use besides keys: announcements, channels, waiting, transactions, databases."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Final

from integrity.assess.command_table import CommandTable
from integrity.assess.commands import calls_by_container, used_commands
from integrity.assess.connected import Client, applications, connected_clients
from integrity.assess.model import Check, Finding, Severity, found, not_applicable, passed, unknown
from integrity.assess.subject import Subject
from integrity.assess.tracking_probe import tracking_ways
from integrity.errors import PermissionRefused
from integrity.replies import ErrorReply
from integrity.wire import pack

_LISTED: Final = 50
_KEYSPACE: Final = b"__key*"
_ALL_EVENTS: Final = frozenset("g$lshzxetd")
"""What the letter ``A`` stands for."""
_EXPIRED: Final = frozenset("Ex")
"""What is needed for ``__keyevent@0__:expired``; also all that Dragonfly 1.40 lets the setting be."""
_NOTIFY_REMEDY: Final = (
    "Set notify-keyspace-events on the target, where it is a Redis; Dragonfly announces expired keys only "
    "(--notify_keyspace_events=Ex), so for anything else the applications have to be changed."
)


def _calls(subject: Subject, *names: str) -> dict[str, int]:
    """Calls of these commands (without subcommands), where there were any."""
    counted = calls_by_container(used_commands(subject.source_info))
    return {name: counted[name] for name in names if name in counted}


def _clients(subject: Subject) -> list[Client] | None:
    """Connected applications; None where the source does not list its clients."""
    try:
        return applications(connected_clients(subject.source))
    except PermissionRefused:
        return None


def _info(subject: Subject, name: str) -> int:
    text = subject.source_info.get(name, "")
    return int(text) if text.isdecimal() else 0


def _named(clients: Iterable[Client], most: int = 10) -> list[str]:
    """What these clients call themselves, the most frequent first; never an address."""
    counts = Counter(client.name or client.library or "without a name" for client in clients)
    return [f"{name} ({number})" for name, number in counts.most_common(most)]


# -- announcements ---------------------------------------------------------------------------------------------------


def _look_notifications(subject: Subject) -> Finding:
    channels = _channels(subject, _KEYSPACE)
    try:
        flags = subject.source_config("notify-keyspace-events").get("notify-keyspace-events")
    except PermissionRefused:
        flags = None
    patterns = _info(subject, "pubsub_patterns")
    evidence: dict[str, object] = {
        "notify_keyspace_events": flags,
        "channels": channels,
        "patterns": patterns,
    }
    if flags is None and not channels:
        return unknown(
            Severity.WARNING,
            "Whether the source announces changes of keys (notify-keyspace-events) is not told.",
            "Look up the setting where the server is managed.",
            **evidence,
        )
    if not flags and not channels:
        return passed("The source announces no changes of keys.", **evidence)
    wanted = _wanted(flags or "", channels)
    offered = _offered(subject)
    lacking = wanted - offered
    evidence["target_offers"] = "".join(sorted(offered))
    if lacking and channels:
        return found(
            Severity.BLOCKING,
            f"Applications listen to changes of keys ({len(channels)} channels), and the target announces "
            f"{_events(offered)}: they would wait without an error.",
            _NOTIFY_REMEDY,
            items=tuple(channels),
            **evidence,
        )
    if lacking:
        return found(
            Severity.WARNING,
            f"The source announces changes of keys ({flags}), which the target does not; no one listens to such a "
            "channel now"
            + (f", though {patterns} patterns are listened to, which no server names." if patterns else "."),
            _NOTIFY_REMEDY,
            items=(flags or "",),
            **evidence,
        )
    return passed("The target announces what the source does.", **evidence)


def _channels(subject: Subject, pattern: bytes) -> list[str]:
    """Channels that somebody has subscribed to; those of patterns are not told."""
    with subject.source.connect("assess") as connection:
        reply = connection.exchange([pack(b"PUBSUB", b"CHANNELS", pattern)])[0]
    if isinstance(reply, ErrorReply) or not isinstance(reply, list):
        return []
    return sorted(name.decode("utf-8", "replace") for name in reply if isinstance(name, bytes))[:_LISTED]


def _wanted(flags: str, channels: list[str]) -> frozenset[str]:
    letters = set(flags)
    if "A" in letters:
        letters = (letters - {"A"}) | _ALL_EVENTS
    if channels and all(name.startswith("__keyevent") and name.endswith(":expired") for name in channels):
        return _EXPIRED
    return frozenset(letters)


def _offered(subject: Subject) -> frozenset[str]:
    dragonfly = subject.target_identity.engine == "dragonfly"
    name = "notify_keyspace_events" if dragonfly else "notify-keyspace-events"
    try:
        letters = set(subject.target_config(name).get(name, ""))
    except PermissionRefused:
        return frozenset()
    return frozenset((letters - {"A"}) | _ALL_EVENTS if "A" in letters else letters)


def _events(letters: frozenset[str]) -> str:
    return f"only {''.join(sorted(letters))}" if letters else "none"


def _look_tracking(subject: Subject) -> Finding:
    clients = _clients(subject)
    told = _info(subject, "tracking_clients")
    if clients is None:
        if told:
            return unknown(
                Severity.WARNING,
                f"{told} clients are told which keys change (CLIENT TRACKING); whose they are is not told.",
                "Look through the applications for client-side caching.",
                tracking_clients=told,
            )
        return passed("No client is told which keys change.", tracking_clients=told)
    tracking = [client for client in clients if "t" in client.flags]
    if not tracking:
        return passed("No application caches keys on its own side.", tracking_clients=told)
    ways = tracking_ways(subject.target)
    broadcast = [client for client in tracking if "B" in client.flags]
    redirected = [client for client in tracking if client.number("redir") > 0]
    evidence: dict[str, object] = {
        "clients": len(tracking),
        "broadcast": len(broadcast),
        "redirected": len(redirected),
        "names": _named(tracking),
        "target_takes": ways,
    }
    if (
        not any(ways.values())
        or (broadcast and not ways.get("BCAST"))
        or (redirected and not ways.get("BCAST"))
    ):
        return found(
            Severity.BLOCKING,
            f"{len(tracking)} connections cache keys on their own side (CLIENT TRACKING), {len(broadcast)} of them by "
            "BCAST, in a way that the target refuses.",
            "Switch client-side caching off, or to RESP3 without BCAST, PREFIX and REDIRECT.",
            items=tuple(sorted({client.name or client.library or "without a name" for client in tracking})),
            **evidence,
        )
    return found(
        Severity.INFO,
        f"{len(tracking)} connections cache keys on their own side, in a way that the target takes.",
        "Their caches are empty after they connect anew.",
        items=(),
        **evidence,
    )


# -- channels and waiting --------------------------------------------------------------------------------------------


def _look_pubsub(subject: Subject) -> Finding:
    channels = [name for name in _channels(subject, b"*") if not name.startswith("__key")]
    patterns, shards = _info(subject, "pubsub_patterns"), _info(subject, "pubsubshard_channels")
    calls = _calls(subject, "publish", "subscribe", "psubscribe", "spublish", "ssubscribe")
    evidence: dict[str, object] = {
        "channels": len(channels),
        "patterns": patterns,
        "shard_channels": shards,
        "calls": calls,
    }
    if not channels and not patterns and not shards and not calls:
        return passed("No channels are used.", **evidence)
    return found(
        Severity.INFO,
        f"Messages are published and listened to ({len(channels)} channels, {patterns} patterns now): they are no "
        "data, and are carried only by Dragonfly's own replication.",
        "While some applications have moved and others have not, they do not hear each other: move publishers and "
        "listeners together.",
        items=(),
        **evidence,
    )


def _look_blocking(subject: Subject) -> Finding:
    table = CommandTable.read(subject.source)
    waiting = {name for name, entry in table.entries.items() if "blocking" in entry.categories}
    calls = _calls(subject, *sorted(waiting - {"xread", "xreadgroup", "wait", "waitaof"}))
    readers = _calls(subject, "xread", "xreadgroup")
    blocked = _info(subject, "blocked_clients")
    evidence: dict[str, object] = {"calls": calls, "calls_that_may_wait": readers, "blocked_now": blocked}
    if not calls and not blocked:
        return passed("No application waits in a command.", **evidence)
    return found(
        Severity.INFO,
        f"Applications wait in commands ({', '.join(calls) or 'now'}; {blocked} connections now): the fence of a "
        "cutover closes connections that wait, so that nothing is taken from blue any more.",
        "A client has to take the closed connection for a reason to connect anew.",
        items=(),
        **evidence,
    )


def _look_transactions(subject: Subject) -> Finding:
    calls = _calls(subject, "multi", "exec", "watch", "discard")
    if not calls:
        return passed("No transactions are used.")
    evidence: dict[str, object] = {"calls": calls}
    if subject.target_identity.engine != "dragonfly":
        return passed("Transactions are used, and mean the same on the target.", **evidence)
    return found(
        Severity.INFO,
        "Transactions are used. On Dragonfly, EXEC runs the others when it did not know one of the commands, and "
        "SELECT inside a transaction is refused.",
        "See to it that commands.unknown is clean; move SELECT out of MULTI … EXEC.",
        items=(),
        **evidence | {"select": _calls(subject, "select").get("select", 0)},
    )


# -- connections -----------------------------------------------------------------------------------------------------


def _look_protocol(subject: Subject) -> Finding:
    clients = _clients(subject)
    calls = _calls(subject, "hello", "auth", "reset")
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
        "libraries": dict(Counter(c.library for c in clients if c.library).most_common(_LISTED)),
        "names": _named(clients, _LISTED),
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
    with subject.target.connect("assess") as connection:
        return not isinstance(connection.exchange([pack(b"HELLO", version)])[0], ErrorReply)


def _look_cluster(subject: Subject) -> Finding:
    calls = _calls(subject, "cluster", "readonly", "readwrite", "asking")
    # A client that only looks whether this is a cluster is answered by an error, on the source as on the target.
    working = [
        use
        for use in used_commands(subject.source_info)
        if use.container in calls and use.calls and not use.always_fails
    ]
    clustered = subject.source_info.get("cluster_enabled") == "1"
    evidence: dict[str, object] = {"calls": calls, "cluster_enabled": clustered}
    if not calls and not clustered:
        return passed("Applications do not speak to a cluster.", **evidence)
    with subject.target.connect("assess") as connection:
        emulated = not isinstance(connection.exchange([pack(b"CLUSTER", b"INFO")])[0], ErrorReply)
    evidence["target_speaks_cluster"] = emulated
    if (clustered or working) and not emulated:
        return found(
            Severity.BLOCKING if clustered else Severity.WARNING,
            "Cluster commands are used with success, and the target has them switched off.",
            "Start Dragonfly with --cluster_mode=emulated, or let the applications use a client without cluster mode.",
            items=tuple(sorted(use.name for use in working)),
            **evidence,
        )
    answered = "answered alike" if working else "answered by an error on both servers"
    return passed(f"Cluster commands are used, and {answered}.", **evidence)


def _look_select(subject: Subject) -> Finding:
    clients = _clients(subject)
    used = sorted({client.database for client in clients or ()})
    holding = sorted(subject.source_identity.databases)
    mapped = subject.settings.rules.databases
    numbers = sorted({mapped.get(number, number) for number in (*used, *holding)} - {0})
    evidence: dict[str, object] = {
        "used_now": used,
        "holding_keys": holding,
        "calls": _calls(subject, "select"),
    }
    if not numbers:
        return passed("Only database 0 is used.", **evidence)
    refused = []
    with subject.target.connect("assess") as connection:
        for number in numbers:
            reply = connection.exchange([pack(b"SELECT", b"%d" % number)])[0]
            if isinstance(reply, ErrorReply):
                refused.append(number)
    if refused:
        return found(
            Severity.BLOCKING,
            f"Databases {', '.join(map(str, refused))} are used, which the target does not have.",
            "Start Dragonfly with a larger --dbnum.",
            items=tuple(map(str, refused)),
            **evidence,
        )
    return passed(f"The target has the databases {', '.join(map(str, [0, *numbers]))}.", **evidence)


def _look_monitor(subject: Subject) -> Finding:
    clients = _clients(subject)
    calls = _calls(subject, "monitor")
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


def _look_replicas(subject: Subject) -> Finding:
    replicas = _info(subject, "connected_slaves")
    if subject.target_identity.role == "replica":
        replicas = max(0, replicas - 1)  # The target itself, while Dragonfly's own replication is used.
    watched = [c for c in _clients(subject) or () if c.name.startswith("sentinel-")]
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


def _look_counted(subject: Subject) -> Finding:
    if subject.source_identity.role == "replica":
        return found(
            Severity.WARNING,
            "The source is a replica: what applications use is counted by its master.",
            "Assess the master.",
        )
    return not_applicable("The source is a master, where applications' commands are counted.")


def _check(name: str, title: str, worst: Severity, look: Callable[[Subject], Finding]) -> Check:
    return Check(name, title, worst, look)


CHECKS: Final = (
    _check(
        "clients.notifications",
        "Changes of keys that applications listen to",
        Severity.BLOCKING,
        _look_notifications,
    ),
    _check("clients.tracking", "Client-side caching", Severity.BLOCKING, _look_tracking),
    _check("clients.pubsub", "Channels", Severity.INFO, _look_pubsub),
    _check("clients.blocking", "Commands that wait", Severity.INFO, _look_blocking),
    _check("clients.transactions", "Transactions", Severity.INFO, _look_transactions),
    _check("clients.protocol", "Protocol and client libraries", Severity.BLOCKING, _look_protocol),
    _check("clients.cluster", "Cluster commands", Severity.BLOCKING, _look_cluster),
    _check("clients.select", "Databases that applications use", Severity.BLOCKING, _look_select),
    _check("clients.monitor", "MONITOR", Severity.WARNING, _look_monitor),
    _check(
        "clients.counted-here",
        "Whether the source is where commands are counted",
        Severity.WARNING,
        _look_counted,
    ),
    _check("replicas.attached", "Replicas and Sentinel", Severity.WARNING, _look_replicas),
)
