"""Checks about what applications are told without asking, and what they wait for."""

from __future__ import annotations

from typing import Final

from integrity.assess.model import Finding, Severity, found, passed, unknown
from integrity.assess.subject import Subject
from integrity.assess.tracking_probe import tracking_ways
from integrity.assess.usage_asked import application_clients, calls_of, channels_of, names_of, number_of
from integrity.errors import PermissionRefused

_KEYSPACE: Final = b"__key*"
_ALL_EVENTS: Final = frozenset("g$lshzxetd")
"""What the letter ``A`` stands for."""
_EXPIRED: Final = frozenset("Ex")
"""What is needed for ``__keyevent@0__:expired``; also all that Dragonfly 1.40 lets the setting be."""
_NOTIFY_REMEDY: Final = (
    "Set notify-keyspace-events on the target, where it is a Redis; Dragonfly announces expired keys only "
    "(--notify_keyspace_events=Ex), so for anything else the applications have to be changed."
)


def look_notifications(subject: Subject) -> Finding:
    """Changes of keys that somebody listens to."""
    channels = channels_of(subject, _KEYSPACE)
    try:
        flags = _announced(subject)
    except PermissionRefused:
        flags = None
    patterns = number_of(subject, "pubsub_patterns")
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


def _wanted(flags: str, channels: list[str]) -> frozenset[str]:
    letters = set(flags)
    if "A" in letters:
        letters = (letters - {"A"}) | _ALL_EVENTS
    if channels and all(name.startswith("__keyevent") and name.endswith(":expired") for name in channels):
        return _EXPIRED
    return frozenset(letters)


def _announced(subject: Subject) -> str | None:
    """The letters of any node; None where one of them does not tell.

    :raises PermissionRefused: settings may not be read.
    """
    told = [server.config("notify-keyspace-events") for server in subject.source_servers]
    known = [flags for flags in told if flags is not None]
    return "".join(dict.fromkeys("".join(known))) if len(known) == len(told) else None


def _offered(subject: Subject) -> frozenset[str]:
    """What every node of the target announces."""
    dragonfly = subject.target_identity.engine == "dragonfly"
    name = "notify_keyspace_events" if dragonfly else "notify-keyspace-events"
    try:
        told = [server.config(name) or "" for server in subject.target_servers]
    except PermissionRefused:
        return frozenset()
    return frozenset.intersection(*(_letters(flags) for flags in told))


def _letters(flags: str) -> frozenset[str]:
    letters = frozenset(flags)
    return (letters - {"A"}) | _ALL_EVENTS if "A" in letters else letters


def _events(letters: frozenset[str]) -> str:
    return f"only {''.join(sorted(letters))}" if letters else "none"


def look_tracking(subject: Subject) -> Finding:
    """Client-side caching."""
    clients = application_clients(subject)
    told = number_of(subject, "tracking_clients")
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
    by_server = [tracking_ways(server.endpoint) for server in subject.target_servers]
    ways = {way: all(ways.get(way) for ways in by_server) for way in by_server[0]}
    broadcast = [client for client in tracking if "B" in client.flags]
    redirected = [client for client in tracking if client.number("redir") > 0]
    evidence: dict[str, object] = {
        "clients": len(tracking),
        "broadcast": len(broadcast),
        "redirected": len(redirected),
        "names": names_of(tracking),
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


def look_pubsub(subject: Subject) -> Finding:
    """Channels."""
    channels = [name for name in channels_of(subject, b"*") if not name.startswith("__key")]
    patterns, shards = number_of(subject, "pubsub_patterns"), number_of(subject, "pubsubshard_channels")
    calls = calls_of(subject, "publish", "subscribe", "psubscribe", "spublish", "ssubscribe")
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


def look_blocking(subject: Subject) -> Finding:
    """Commands that wait."""
    table = subject.source_table
    waiting = {name for name, entry in table.entries.items() if "blocking" in entry.categories}
    calls = calls_of(subject, *sorted(waiting - {"xread", "xreadgroup", "wait", "waitaof"}))
    readers = calls_of(subject, "xread", "xreadgroup")
    blocked = number_of(subject, "blocked_clients")
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


def look_transactions(subject: Subject) -> Finding:
    """MULTI, EXEC and WATCH."""
    calls = calls_of(subject, "multi", "exec", "watch", "discard")
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
        **evidence | {"select": calls_of(subject, "select").get("select", 0)},
    )
