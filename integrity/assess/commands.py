"""Which commands applications have really used on one server that another one does not know.

By the first server's own count (INFO commandstats) and the second one's own COMMAND table; no list is kept by hand.
What this cannot see: options and subcommands that differ, and commands that were not used since the counts began.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from integrity.endpoint import Endpoint, read_info
from integrity.errors import ProtocolError

_OWN: Final = frozenset({"psync", "sync", "replconf", "dump", "restore", "object", "migrate"})
"""Used by replicas and migration tools, not by applications; DUMP and RESTORE are known everywhere anyway."""


@dataclass(frozen=True, slots=True)
class CommandUse:
    """A command and how often it was called."""

    name: str
    """Lower case, without a subcommand."""
    calls: int


def unknown_commands(used_on: Endpoint, known_by: Endpoint) -> list[CommandUse]:
    """Commands used on the one server that the other does not know, the most used first.

    :raises ServerError: a server cannot be asked.
    """
    with known_by.connect("assess") as connection:
        table = connection.command(b"COMMAND")
    if not isinstance(table, list):
        raise ProtocolError(
            known_by.role, str(known_by), "COMMAND is no table.", "Check that it may be asked."
        )
    known = {
        entry[0].decode("ascii", "replace").lower().partition(" ")[0]
        for entry in table
        if isinstance(entry, list) and entry and isinstance(entry[0], bytes)
    }
    with used_on.connect("assess") as connection:
        stats = read_info(connection, b"commandstats")
    calls: dict[str, int] = {}
    for name, value in stats.items():
        command = name.removeprefix("cmdstat_").partition("|")[0].lower()
        facts = dict(part.partition("=")[::2] for part in value.split(","))
        count = facts.get("calls", "0")
        if name.startswith("cmdstat_") and count.isdecimal():
            calls[command] = calls.get(command, 0) + int(count)
    return sorted(
        (
            CommandUse(name, count)
            for name, count in calls.items()
            if count and name not in known and name not in _OWN
        ),
        key=lambda use: (-use.calls, use.name),
    )
