"""Checks about the commands that applications have used on the source, by the source's own counts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
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
from integrity.assess.connected import connected_clients
from integrity.assess.model import Check, Finding, Severity, found, not_applicable, passed, unknown
from integrity.assess.option_probes import PROBES, Probe, documented_options, offered_by, try_options
from integrity.assess.subcommands import Subcommands
from integrity.assess.subject import Subject
from integrity.errors import PermissionRefused, ProtocolError
from integrity.strategy import Strategy

_SPEED: Final = frozenset({"slow", "fast", "dangerous"})
_INTROSPECTION: Final = frozenset({"command", "function"})
"""Containers whose subcommands only look, unless they are marked as writes (FUNCTION LOAD)."""
_LISTED: Final = 30
_EXPIRE_AT: Final = ("expireat", "pexpireat", "getex")
_DRAGONFLY_EXPIRY_SECONDS: Final = 2**28 - 1
_SENT_AS: Final[Mapping[str, tuple[str, ...]]] = {
    "hexpire": ("hpexpireat",),
    "hpexpire": ("hpexpireat",),
    "hexpireat": ("hpexpireat",),
    "hpexpireat": ("hpexpireat",),
    "hgetex": ("hpexpireat", "hpersist"),
    "hgetdel": ("hdel",),
    "fcall": (),
}
"""What Redis 7.4 and 8.2 send to their replicas in place of a command, as observed; no server tells."""


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
    target = CommandTable.read(subject.target)
    source = _source_table(subject)
    seen = _last_commands(subject)
    unknown_: list[Unknown] = []
    untold: list[str] = []
    with subject.target.connect("assess") as connection:
        subcommands = Subcommands(connection, target)
        for use in uses:
            container, _, sub = use.name.partition("|")
            if sub == "help":
                continue
            known: bool | None = target.find(container) is not None
            if known and sub:
                known = subcommands.knows(container, sub)
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
        return CommandTable.read(subject.source)
    except PermissionRefused:
        return None


def _last_commands(subject: Subject) -> frozenset[str]:
    """What connected clients other than Greenfly sent last."""
    try:
        return frozenset(client.last_command for client in connected_clients(subject.source))
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


def _no_counts(severity: Severity) -> Finding:
    return unknown(
        severity,
        "The source does not tell which commands it was sent (INFO commandstats is empty).",
        "Look through the applications for commands that the target does not know.",
    )


def _look_unknown(subject: Subject) -> Finding:
    usage = _usage(subject)
    if not usage.uses:
        return _no_counts(Severity.BLOCKING)
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
            f"Applications have used {_some(use.name for use in bad)} on the source, which the target does not know "
            f"({share:.2%} of all calls).",
            "Change the applications, or waive the commands that are not needed any more.",
            items=tuple(use.name for use in bad),
            **evidence,
        )
    return passed(
        f"The target knows each of the {len(calls_by_container(list(usage.uses)))} commands that were used.",
        **evidence,
    )


def _look_administration(subject: Subject) -> Finding:
    usage = _usage(subject)
    if not usage.uses:
        return _no_counts(Severity.WARNING)
    bad = usage.of("administration", "failing", "tool")
    if not bad:
        return passed("Nor do people and tools use a command that the target does not know.")
    return found(
        Severity.WARNING,
        f"People, tools or failing calls have used {_some(use.name for use in bad)}, which the target does not know.",
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


def _look_subcommands(subject: Subject) -> Finding:
    uses = used_commands(subject.source_info)
    source, target = CommandTable.read(subject.source), CommandTable.read(subject.target)
    missing: dict[str, list[str]] = {}
    with subject.source.connect("assess") as ours, subject.target.connect("assess") as theirs:
        offered, known = Subcommands(ours, source), Subcommands(theirs, target)
        for container in calls_by_container(uses):
            entry = source.find(container)
            # A server that lists the subcommands counts each of them apart.
            if entry is None or not entry.is_container or entry.subcommands or not target.find(container):
                continue
            names = (offered.listed(container) or frozenset()) - {"help"}
            lacking = sorted(name for name in names if known.knows(container, name) is not True)
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
        f"Which subcommands of {_some(sorted({*missing, *untold}))} were used, or are known, is not told.",
        "Look through the applications for the subcommands that are listed as not known.",
        items=tuple(sorted({*missing, *untold})),
        **evidence,
    )


def _refused_options(subject: Subject, uses: list[CommandUse]) -> tuple[list[Probe], list[Probe]]:
    """Options of used commands that the source takes: those that the target refuses, and those it does not tell of."""
    # Of subcommands only what the source counts apart: commands.subcommands names the others.
    calls = {use.name for use in uses if use.calls} | calls_by_container(uses).keys()
    target = CommandTable.read(subject.target)
    probes = [probe for probe in PROBES if probe.name in calls and target.find(probe.command)]
    if not probes:
        return [], []
    with subject.source.connect("assess") as connection:
        documented = documented_options(connection, {probe.name for probe in probes})
    version = subject.source_identity.version
    probes = [probe for probe in probes if offered_by(probe, documented, version)]
    with subject.target.connect("assess") as connection:
        taken = try_options(connection, probes)
    refused = [probe for probe, answer in taken.items() if answer is False]
    return refused, [probe for probe, answer in taken.items() if answer is None]


def _stricter(subject: Subject, uses: list[CommandUse]) -> dict[str, str]:
    """Used commands whose number of arguments the target limits more than the source: what each says."""
    source, target = CommandTable.read(subject.source), CommandTable.read(subject.target)
    found_: dict[str, str] = {}
    for name in calls_by_container(uses):
        ours, theirs = source.find(name), target.find(name)
        if ours is None or theirs is None or ours.is_container or not _about_data(ours):
            continue
        counts = [n for n in range(1, 40) if not ours.refuses(n) and theirs.refuses(n)]
        if counts:
            most = "or more" if counts[-1] == 39 else f"to {counts[-1] - 1}" if len(counts) > 1 else ""
            found_[name] = f"{name.upper()} with {counts[0] - 1} {most} arguments".replace("  ", " ")
    return found_


def _about_data(entry: CommandEntry) -> bool:
    return bool({"read", "write"} & entry.categories or {"readonly", "write"} & entry.flags)


def _look_options(subject: Subject) -> Finding:
    uses = used_commands(subject.source_info)
    if not uses:
        return _no_counts(Severity.WARNING)
    refused, untold = _refused_options(subject, uses)
    stricter = _stricter(subject, uses)
    titles = tuple(sorted([*(probe.title for probe in refused), *stricter.values()]))
    calls = {**calls_by_container(uses), **{use.name: use.calls for use in uses}}
    evidence: dict[str, object] = {
        "calls_of_the_commands": {
            name: calls.get(name, 0) for name in {p.name for p in refused} | set(stricter)
        },
        "not_told": [probe.title for probe in untold],
    }
    if titles:
        return found(
            Severity.WARNING,
            f"The target refuses {_some(titles)}; the commands are used, whether with that option no server counts.",
            "Look through the applications for these forms.",
            items=titles,
            **evidence,
        )
    if untold:
        return unknown(
            Severity.WARNING,
            "Whether the target takes some options of used commands could not be tried.",
            "Allow these commands to Greenfly's user on the target, and look whether it is read-only.",
            **evidence,
        )
    return passed("The target takes every option that was tried, of the commands that are used.", **evidence)


def _look_expiry_range(subject: Subject) -> Finding:
    if subject.target_identity.engine != "dragonfly":
        return not_applicable("The target keeps expiries as far away as the source does.")
    calls = calls_by_container(used_commands(subject.source_info))
    used = {name: calls[name] for name in _EXPIRE_AT if name in calls}
    if not used:
        return passed("No command is used that sets expiries which Dragonfly could refuse.")
    return found(
        Severity.INFO,
        f"Dragonfly refuses {_some(name.upper() for name in used)} for more than {_DRAGONFLY_EXPIRY_SECONDS:,} seconds "
        "(8.5 years) ahead, and shortens what EXPIRE and SET ask for to that.",
        "Only matters for applications that set such expiries; data.expiry-limit looks for keys that have them.",
        items=tuple(used),
        calls=used,
    )


def _look_errors(subject: Subject) -> Finding:
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


def _look_dropped(subject: Subject) -> Finding:
    if subject.target_identity.engine != "dragonfly":
        return not_applicable("Only Dragonfly replicates from another kind of server.")
    uses = used_commands(subject.source_info)
    following = subject.settings.native.follow == "replication"
    severity = Severity.BLOCKING if following else Severity.WARNING
    if not uses:
        return _no_counts(severity)
    source, target = CommandTable.read(subject.source), CommandTable.read(subject.target)
    dropped = []
    for name in calls_by_container(uses):
        entry = source.find(name)
        if name in REPLICATION or (entry is not None and not entry.writes and name not in _SENT_AS):
            continue
        sent = _SENT_AS.get(name, (name,))
        if any(target.find(other) is None for other in sent):
            dropped.append(name)
    refused, _ = _refused_options(subject, uses)
    perhaps = [probe.title for probe in refused if probe.drops_on_replication]
    writing = {name: text for name, text in _stricter(subject, uses).items() if _writes(source, name)}
    perhaps = sorted([*perhaps, *writing.values()])
    evidence: dict[str, object] = {"dropped": dropped, "dropped_if_used": perhaps}
    consequence = (
        "Dragonfly drops them from the replication stream without an error, so keys would differ until the last "
        "comparison."
        if following
        else "Dragonfly drops them without an error while it replicates; the comparison after that finds and repairs "
        "what differs."
    )
    if dropped:
        return found(
            severity,
            f"Writes are made with {_some(dropped)}. {consequence}",
            "Use the strategy copy, or native.follow = tracking.",
            items=tuple(dropped),
            **evidence,
        )
    if perhaps:
        return found(
            Severity.WARNING,
            f"If writes are made with {_some(perhaps)}: {consequence}",
            "Look through the applications for these forms.",
            items=tuple(perhaps),
            **evidence,
        )
    return passed("Dragonfly can apply every write that is in use.", **evidence)


def _writes(table: CommandTable, name: str) -> bool:
    entry = table.find(name)
    return entry is not None and entry.writes


def _some(names: Iterable[str], most: int = 8) -> str:
    listed = list(names)
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more


def _check(
    name: str, title: str, worst: Severity, look: Callable[[Subject], Finding], *strategies: Strategy
) -> Check:
    return Check(
        name, title, worst, look, strategies=frozenset(strategies or (Strategy.COPY, Strategy.NATIVE))
    )


CHECKS: Final = (
    _check("commands.unknown", "Commands that the target does not know", Severity.BLOCKING, _look_unknown),
    _check(
        "commands.administration",
        "Administrative commands that the target does not know",
        Severity.WARNING,
        _look_administration,
    ),
    _check(
        "commands.subcommands",
        "Subcommands that are not counted, or not told",
        Severity.WARNING,
        _look_subcommands,
    ),
    _check("commands.options", "Options that the target does not take", Severity.WARNING, _look_options),
    _check(
        "commands.expiry-range", "Expiries further away than 8.5 years", Severity.INFO, _look_expiry_range
    ),
    _check("commands.errors", "Errors that applications get already", Severity.INFO, _look_errors),
    _check(
        "native.dropped-commands",
        "Writes that Dragonfly drops while it replicates",
        Severity.BLOCKING,
        _look_dropped,
        Strategy.NATIVE,
    ),
)
