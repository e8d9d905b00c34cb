"""Which commands applications have really used on one server, by its own counts (INFO commandstats)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

_PREFIX: Final = "cmdstat_"
REPLICATION: Final = frozenset({"psync", "sync", "replconf"})
"""Sent by replicas only."""
OWN: Final = frozenset(
    {
        "asking",
        "cluster|countkeysinslot",
        "cluster|getkeysinslot",
        "cluster|info",
        "cluster|nodes",
        "cluster|slots",
        "object",
        "object|encoding",
        "object|freq",
        "command|docs",
        "fieldttl",
        "function|list",
        "hpexpiretime",
    }
)
"""Sent by Greenfly itself where a server knows them, and counted with all others."""
MIGRATION_TOOLS: Final = frozenset({"dump", "restore", "restore-asking", "migrate"})
"""Sent by tools that move keys; applications rarely use them."""


@dataclass(frozen=True, slots=True)
class CommandUse:
    """A command and how often it was called."""

    name: str
    """Lower case; with its subcommand, as ``xgroup|create``, where the server counts those."""
    calls: int
    """Executed; with those that scripts made."""
    failed: int = 0
    """Of the calls, those that ended in an error."""
    rejected: int = 0
    """Refused before they were executed, and in no other count."""

    @property
    def container(self) -> str:
        """The name without a subcommand."""
        return self.name.partition("|")[0]

    @property
    def always_fails(self) -> bool:
        """Whether no call has succeeded."""
        return self.failed >= self.calls

    def to_dict(self, total: int) -> dict[str, object]:
        """Plain JSON values; the share is of *total* calls."""
        facts: dict[str, object] = {
            "calls": self.calls,
            "share": round(self.calls / total, 6) if total else 0.0,
        }
        return facts | {name: n for name, n in (("failed", self.failed), ("rejected", self.rejected)) if n}


def used_commands(info: Mapping[str, str]) -> list[CommandUse]:
    """Every command that INFO counts, the most used first; empty where the server does not count.

    :param info: as :func:`~integrity.endpoint.read_info` returns it, the section ``commandstats`` included.
    """
    uses = []
    for name, value in info.items():
        if name.startswith(_PREFIX):
            facts = dict(part.partition("=")[::2] for part in value.split(","))
            counts = [_count(facts.get(fact)) for fact in ("calls", "failed_calls", "rejected_calls")]
            uses.append(CommandUse(name.removeprefix(_PREFIX).lower().replace(" ", "|"), *counts))
    return sorted(uses, key=lambda use: (-use.calls, use.name))


def calls_by_container(uses: list[CommandUse]) -> dict[str, int]:
    """Calls of each command, those of its subcommands together; only what was called."""
    calls: dict[str, int] = {}
    for use in uses:
        if use.calls:
            calls[use.container] = calls.get(use.container, 0) + use.calls
    return calls


def _count(text: str | None) -> int:
    return int(text) if text and text.isdecimal() else 0
