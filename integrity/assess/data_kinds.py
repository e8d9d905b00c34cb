"""Checks about types: those that cannot be carried, and those that come over with a difference."""

from __future__ import annotations

from integrity.assess.data_words import absent, listed, noticed, plural, seen
from integrity.assess.model import Finding, Severity, not_applicable, passed
from integrity.assess.subject import Subject
from integrity.kinds import KINDS
from integrity.strategy import Strategy

_JSON = "ReJSON-RL"
_KNOWN = frozenset(name.decode() for name in KINDS)


def look_at_types(subject: Subject) -> Finding:
    """Types that Greenfly cannot read and compare, or that the target does not have."""
    census = subject.census
    foreign = {name: keys for name, keys in census.types.items() if name not in _KNOWN}
    if _JSON in census.types and "json.set" not in subject.target_commands:
        foreign[_JSON] = census.types[_JSON]
    evidence = {"types": dict(census.types), "excluded": dict(census.excluded)}
    if not foreign:
        return absent(census, "No key has a type that the target does not have", **evidence)
    names = ", ".join(f"{name} ({plural(keys, 'key')})" for name, keys in foreign.items())
    if subject.strategy is Strategy.NATIVE:
        why = "Dragonfly's replication leaves such keys out without an error"
        remedy = "Delete them, or take --strategy copy and leave them out with rules.exclude_types."
    else:
        why = "they cannot be copied, or not be proven to be equal"
        remedy = f"Leave them out (rules.exclude_types = {sorted(foreign)!r}) and move them by other means."
    return noticed(
        Severity.BLOCKING,
        f"{names} {seen(census)}: {why}.",
        remedy,
        evidence,
        items=tuple(sorted(foreign)),
    )


def look_at_streams(subject: Subject) -> Finding:
    """What of a stream's state does not come over."""
    census = subject.census
    streams = census.types.get("stream", 0)
    if not streams:
        return absent(census, "There is no stream")
    evidence = {
        "streams": streams,
        "with_groups": census.stream_groups,
        "that_count_entries_read": census.stream_entries_read,
    }
    summary = f"{plural(streams, 'stream')} {seen(census)}, {census.stream_groups:,} with groups"
    if subject.target_identity.engine == "dragonfly" and census.stream_entries_read:
        return noticed(
            Severity.WARNING,
            f"{summary}. Their groups' entries-read, and so the lag in XINFO GROUPS, are lost on Dragonfly up to 1.40; "
            "entries, ids, consumers and pending entries are carried and compared.",
            "Do not scale consumers by the lag until each group has been read on; XPENDING and XLEN are right.",
            evidence,
        )
    if census.stream_groups:
        return noticed(
            Severity.INFO,
            f"{summary}. Acknowledging and claiming announce no change, so a sync reads these streams again in rounds "
            "and once more under the fence.",
            "",
            evidence,
        )
    return passed(f"{summary}.", **evidence)


def look_at_json(subject: Subject) -> Finding:
    """JSON documents are compared as documents, not as text."""
    documents = subject.census.types.get(_JSON, 0)
    if not documents:
        return not_applicable("No JSON document was seen.")
    if "json.set" not in subject.target_commands:
        return not_applicable("The target has no JSON commands; data.types tells about them.")
    if subject.target_identity.engine != "dragonfly":
        return passed(f"{plural(documents, 'JSON document')} {seen(subject.census)}.")
    return noticed(
        Severity.INFO,
        f"{plural(documents, 'JSON document')} {seen(subject.census)}: Dragonfly sorts the names in each object, and "
        "they are compared as documents.",
        "Check that no application depends on the order of names.",
        {
            "documents": documents,
            "biggest": listed(fact for fact in subject.census.big if fact.kind == _JSON),
        },
    )
