"""Checks about options that the target does not take, and about writes that Dragonfly drops while it replicates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from integrity.assess.command_table import CommandEntry, CommandTable
from integrity.assess.commands import REPLICATION, CommandUse, calls_by_container, used_commands
from integrity.assess.model import Finding, Severity, found, not_applicable, passed, unknown
from integrity.assess.option_probes import PROBES, Probe, documented_options, offered_by, try_options
from integrity.assess.subject import Subject
from integrity.assess.usage_words import no_counts, some

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


def _refused_options(subject: Subject, uses: list[CommandUse]) -> tuple[list[Probe], list[Probe]]:
    """Options of used commands that the source takes: those that the target refuses, and those it does not tell of."""
    # Of subcommands only what the source counts apart: commands.subcommands names the others.
    calls = {use.name for use in uses if use.calls} | calls_by_container(uses).keys()
    target = subject.target_table
    probes = [probe for probe in PROBES if probe.name in calls and target.find(probe.command)]
    if not probes:
        return [], []
    offered: set[Probe] = set()
    for server in subject.source_servers:
        with server.connection() as connection:
            documented = documented_options(connection, {probe.name for probe in probes})
        offered |= {probe for probe in probes if offered_by(probe, documented, server.identity.version)}
    probes = [probe for probe in probes if probe in offered]
    refused, untold = set[Probe](), set[Probe]()
    for server in subject.target_servers:
        with server.endpoint.connect("assess") as connection:
            taken = try_options(connection, probes, server.tag)
        refused |= {probe for probe, answer in taken.items() if answer is False}
        untold |= {probe for probe, answer in taken.items() if answer is None}
    return [p for p in probes if p in refused], [p for p in probes if p in untold - refused]


def _stricter(subject: Subject, uses: list[CommandUse]) -> dict[str, str]:
    """Used commands whose number of arguments the target limits more than the source: what each says."""
    source, target = subject.source_table, subject.target_table
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


def look_options(subject: Subject) -> Finding:
    """Options, and numbers of arguments."""
    uses = used_commands(subject.source_info)
    if not uses:
        return no_counts(Severity.WARNING)
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
            f"The target refuses {some(titles)}; the commands are used, whether with that option no server counts.",
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


def look_expiry_range(subject: Subject) -> Finding:
    """Expiries that Dragonfly refuses; no server tells, this is what Dragonfly 1.40 was seen to do."""
    if subject.target_identity.engine != "dragonfly":
        return not_applicable("The target keeps expiries as far away as the source does.")
    calls = calls_by_container(used_commands(subject.source_info))
    used = {name: calls[name] for name in _EXPIRE_AT if name in calls}
    if not used:
        return passed("No command is used that sets expiries which Dragonfly could refuse.")
    return found(
        Severity.INFO,
        f"Dragonfly refuses {some(name.upper() for name in used)} for more than {_DRAGONFLY_EXPIRY_SECONDS:,} seconds "
        "(8.5 years) ahead, and shortens what EXPIRE and SET ask for to that.",
        "Only matters for applications that set such expiries; data.expiry-limit looks for keys that have them.",
        items=tuple(used),
        calls=used,
    )


def look_fatal(subject: Subject) -> Finding:
    """Commands that end the target's process; seen on Dragonfly 1.40.1, and later ones were not at hand."""
    if subject.target_identity.engine != "dragonfly":
        return not_applicable("No command is known to end the target's process.")
    uses = used_commands(subject.source_info)
    if not uses:
        return no_counts(Severity.WARNING)
    # Where the source counts no subcommands, any XGROUP may have been the one.
    used = tuple(use.name for use in uses if use.name in {"xgroup", "xgroup|create"})
    if not used:
        return passed("No command is used that is known to end the target's process.")
    return found(
        Severity.WARNING,
        "Dragonfly 1.40.1 aborts, with all that it holds in memory, on XGROUP CREATE … MKSTREAM where the key exists "
        "and is no stream; Redis answers WRONGTYPE.",
        "Make sure that names of streams are used for nothing else, have snapshots and a replica of the target, and "
        "look whether a later Dragonfly has mended it.",
        items=used,
        calls={use.name: use.calls for use in uses if use.name in used},
    )


def look_dropped(subject: Subject) -> Finding:
    """Writes that do not survive the replication stream."""
    if subject.target_identity.engine != "dragonfly":
        return not_applicable("Only Dragonfly replicates from another kind of server.")
    uses = used_commands(subject.source_info)
    following = subject.settings.native.follow == "replication"
    severity = Severity.BLOCKING if following else Severity.WARNING
    if not uses:
        return no_counts(severity)
    source, target = subject.source_table, subject.target_table
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
            f"Writes are made with {some(dropped)}. {consequence}",
            "Use the strategy copy, or native.follow = tracking.",
            items=tuple(dropped),
            **evidence,
        )
    if perhaps:
        return found(
            Severity.WARNING,
            f"If writes are made with {some(perhaps)}: {consequence}",
            "Look through the applications for these forms.",
            items=tuple(perhaps),
            **evidence,
        )
    return passed("Dragonfly can apply every write that is in use.", **evidence)


def _writes(table: CommandTable, name: str) -> bool:
    entry = table.find(name)
    return entry is not None and entry.writes
