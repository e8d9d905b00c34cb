"""What several checks ask of a source: counts of commands, its clients, a number of INFO, channels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Final

from integrity.assess.commands import calls_by_container, used_commands
from integrity.assess.connected import Client, applications
from integrity.assess.subject import Subject
from integrity.errors import PermissionRefused
from integrity.replies import ErrorReply
from integrity.wire import pack

LISTED: Final = 50
"""How many names a list in the evidence holds."""


def calls_of(subject: Subject, *names: str) -> dict[str, int]:
    """Calls of these commands (without subcommands), where there were any."""
    counted = calls_by_container(used_commands(subject.source_info))
    return {name: counted[name] for name in names if name in counted}


def application_clients(subject: Subject) -> list[Client] | None:
    """Connected applications; None where the source does not list its clients."""
    try:
        return applications(subject.source_clients)
    except PermissionRefused:
        return None


def number_of(subject: Subject, name: str) -> int:
    """A number of the source's INFO; 0 where it does not tell."""
    text = subject.source_info.get(name, "")
    return int(text) if text.isdecimal() else 0


def names_of(clients: Iterable[Client], most: int = 10) -> list[str]:
    """What these clients call themselves, the most frequent first; never an address."""
    counts = Counter(client.name or client.library or "without a name" for client in clients)
    return [f"{name} ({number})" for name, number in counts.most_common(most)]


def channels_of(subject: Subject, pattern: bytes) -> list[str]:
    """Channels that somebody has subscribed to, on any node; those of patterns are not told."""
    names: set[bytes] = set()
    for server in subject.source_servers:
        reply = server.ask(pack(b"PUBSUB", b"CHANNELS", pattern))[0]
        if not isinstance(reply, ErrorReply) and isinstance(reply, list):
            names.update(name for name in reply if isinstance(name, bytes))
    return sorted(name.decode("utf-8", "replace") for name in names)[:LISTED]
