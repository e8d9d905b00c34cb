"""Checks about commands that were used and that the target does not know, by the source's own counts."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final

from integrity.assess.command_table import CommandEntry, CommandTable
from integrity.assess.commands import (
    MIGRATION_TOOLS,
    OWN,
    REPLICATION,
    CommandUse,
    calls_by_container,
    used_commands,
)
from integrity.assess.model import Finding, Severity, found, passed
from integrity.assess.subcommands import Subcommands, all_know
from integrity.assess.subject import Subject
from integrity.assess.usage_words import no_counts, some
from integrity.errors import PermissionRefused, ProtocolError

_SPEED: Final = frozenset({"slow", "fast", "dangerous"})
_INTROSPECTION: Final = frozenset({"command", "function"})
"""Containers whose subcommands only look, unless they are marked as writes (FUNCTION LOAD)."""
_OF_OPERATORS: Final = frozenset({"dfly", "dflycluster"})
"""Sent to a Dragonfly by those who run it, and not marked so."""
_LISTED: Final = 30


@dataclass(frozen=True, slots=True)
class Unknown:
    """A command that the target does not know."""

    use: CommandUse
    kind: str
    """``application``, ``administration``, ``replication``, ``own``, ``tool`` or ``failing``."""


@dataclass(frozen=True, slots=True)
class _Usage:
    uses: tuple[CommandUse, ...]
    unknown: tuple[Unknown, ...]
    untold: tuple[str, ...]
    """Used subcommands of which the target does not tell whether it knows them."""

    @property
    def total(self) -> int:
        return sum(use.calls for use in self.uses)

    def of(self, *kinds: str) -> list[CommandUse]:
        return [item.use for item in self.unknown if item.kind in kinds]

    def listed(self, uses: Iterable[CommandUse]) -> dict[str, object]:
        return {use.name: use.to_dict(self.total) for use in list(uses)[:_LISTED]}


def _usage(subject: Subject) -> _Usage:
    uses = tuple(used_commands(subject.source_info))
    target = subject.target_table
    source = _source_table(subject)
    seen = _last_commands(subject)
    unknown_: list[Unknown] = []
    untold: list[str] = []
    with ExitStack() as stack:
        subcommands = [
            Subcommands(stack.enter_context(server.connection()), server.table)
            for server in subject.target_servers
        ]
        for use in uses:
            container, _, sub = use.name.partition("|")
            if sub == "help" or container.startswith("_"):
                continue  # Dragonfly counts some forms (XGROUP HELP) under names of its own.
            known: bool | None = target.find(container) is not None
            if known and sub:
                known = all_know(subcommands, container, sub)
            if known is None:
                untold.append(use.name)
            elif not known and use.calls:
                unknown_.append(Unknown(use, _kind(use, source, seen)))
    return _Usage(uses, tuple(unknown_), tuple(untold))


def _kind(use: CommandUse, source: CommandTable | None, seen: frozenset[str]) -> str:
    """Who sends such a command; what cannot be told counts as the applications'."""
    if use.container in REPLICATION:
        return "replication"
    if use.name not in seen:
        if use.name in OWN:
            return "own"
        if use.container in MIGRATION_TOOLS:
            return "tool"
    if use.always_fails:
        return "failing"
    if use.container in _OF_OPERATORS:
        return "administration"
    entry = source.find(use.name) or source.find(use.container) if source is not None else None
    if entry is not None and _administrative(entry):
        return "administration"
    return "application"


def _administrative(entry: CommandEntry) -> bool:
    """Sent by people and their tools: marked so, or about neither keys nor connections (MEMORY DOCTOR)."""
    if "write" in entry.flags or "module" in entry.flags:
        return False
    if entry.name.partition("|")[0] in _INTROSPECTION or "admin" in entry.flags:
        return True
    return bool(entry.categories) and entry.categories <= _SPEED


def _source_table(subject: Subject) -> CommandTable | None:
    try:
        return subject.source_table
    except PermissionRefused:
        return None


def _last_commands(subject: Subject) -> frozenset[str]:
    """What connected clients other than Greenfly sent last."""
    try:
        return frozenset(client.last_command for client in subject.source_clients)
    except (PermissionRefused, ProtocolError):
        return frozenset()


def _counted_since(subject: Subject) -> dict[str, object]:
    uptime = subject.source_info.get("uptime_in_seconds", "")
    resets = [
        use.calls for use in used_commands(subject.source_info) if use.name in {"config|resetstat", "config"}
    ]
    return {
        "uptime_seconds": int(uptime) if uptime.isdecimal() else None,
        "counts_may_be_younger": bool(resets),
    }


def look_unknown(subject: Subject) -> Finding:
    """Commands of applications."""
    usage = _usage(subject)
    if not usage.uses:
        return no_counts(Severity.BLOCKING)
    bad = usage.of("application")
    evidence: dict[str, object] = {
        "commands": usage.listed(bad),
        "calls": usage.total,
        "fails_on_source_too": usage.listed(usage.of("failing")),
        "replicas": usage.listed(usage.of("replication")),
        "greenfly_sends_too": usage.listed(usage.of("own")),
        "refused_by_target_so_far": _refused_by_target(subject),
        **_counted_since(subject),
    }
    if bad:
        share = sum(use.calls for use in bad) / usage.total
        return found(
            Severity.BLOCKING,
            f"Applications have used {some(use.name for use in bad)} on the source, which the target does not know "
            f"({share:.2%} of all calls).",
            "Change the applications, or waive the commands that are not needed any more.",
            items=tuple(use.name for use in bad),
            **evidence,
        )
    return passed(
        f"The target knows each of the {len(calls_by_container(list(usage.uses)))} commands that were used.",
        **evidence,
    )


def look_administration(subject: Subject) -> Finding:
    """Commands of people and tools, and calls that always fail."""
    usage = _usage(subject)
    if not usage.uses:
        return no_counts(Severity.WARNING)
    bad = usage.of("administration", "failing", "tool")
    if not bad:
        return passed("Nor do people and tools use a command that the target does not know.")
    return found(
        Severity.WARNING,
        f"People, tools or failing calls have used {some(use.name for use in bad)}, which the target does not know.",
        "Look for them in dashboards, scheduled tasks and runbooks.",
        items=tuple(use.name for use in bad),
        commands=usage.listed(bad),
    )


def _refused_by_target(subject: Subject) -> dict[str, int]:
    """Commands that somebody has tried on a Dragonfly and that it does not know."""
    return {
        name.removeprefix("unknown_").lower(): int(value)
        for name, value in subject.target_info.items()
        if name.startswith("unknown_") and value.isdecimal() and name.removeprefix("unknown_").isupper()
    }


def look_subcommands(subject: Subject) -> Finding:
    """Subcommands that are not counted apart, or of which the target does not tell."""
    uses = used_commands(subject.source_info)
    source, target = subject.source_table, subject.target_table
    missing: dict[str, list[str]] = {}
    with ExitStack() as stack:
        offered, known = (
            [Subcommands(stack.enter_context(server.connection()), server.table) for server in servers]
            for servers in (subject.source_servers, subject.target_servers)
        )
        for container in calls_by_container(uses):
            entry = source.find(container)
            # A server that lists the subcommands counts each of them apart.
            if entry is None or not entry.is_container or entry.subcommands or not target.find(container):
                continue
            names = {name for each in offered for name in each.listed(container) or ()} - {"help"}
            lacking = sorted(name for name in names if all_know(known, container, name) is not True)
            if lacking:
                missing[container] = lacking
    untold = _usage(subject).untold
    if not missing and not untold:
        return passed("Each subcommand that was used is known, or told apart by commands.unknown.")
    calls = calls_by_container(uses)
    evidence = {
        "containers": {name: {"calls": calls[name], "not_known": subs} for name, subs in missing.items()},
        "target_does_not_tell": list(untold),
    }
    entries = [entry for name in missing if (entry := source.find(name)) is not None]
    harmless = not untold and all(_administrative(entry) for entry in entries)
    return found(
        Severity.INFO if harmless else Severity.WARNING,
        f"Which subcommands of {some(sorted({*missing, *untold}))} were used, or are known, is not told.",
        "Look through the applications for the subcommands that are listed as not known.",
        items=tuple(sorted({*missing, *untold})),
        **evidence,
    )


def look_errors(subject: Subject) -> Finding:
    """Errors that the source has answered with."""
    errors = {
        name.removeprefix("errorstat_"): value.removeprefix("count=")
        for name, value in subject.source_info.items()
        if name.startswith("errorstat_")
    }
    counts = {
        name: int(value)
        for name, value in errors.items()
        if value.isdecimal() and name.replace("_", "").isalnum()
    }
    failing = {use.name: use.failed for use in used_commands(subject.source_info) if use.failed}
    worst = dict(sorted(failing.items(), key=lambda item: -item[1])[:_LISTED])
    if not counts and not worst:
        return passed("The source has answered no command with an error.")
    return found(
        Severity.INFO,
        f"The source has answered {sum(counts.values()):,} commands with an error; that is the measure for the target.",
        "Compare with the target's errors after the move.",
        errors=counts,
        failed_calls=worst,
    )
