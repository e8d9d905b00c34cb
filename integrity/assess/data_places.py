"""Checks about where keys go: databases that the target lacks, names that are taken, keys that are there already."""

from __future__ import annotations

from integrity.assess.data_words import noticed, plural
from integrity.assess.model import Finding, Severity, not_applicable, passed
from integrity.assess.subject import Subject
from integrity.native.sentinel import sentinel_keys
from integrity.replies import ErrorReply
from integrity.rules import Rules
from integrity.settings import ConflictPolicy
from integrity.strategy import Strategy
from integrity.wire import pack


def look_at_databases(subject: Subject) -> Finding:
    """Databases that keys go to and the target does not have."""
    if subject.strategy is Strategy.NATIVE:
        # Replication carries every database, whatever the run is about.
        wanted = sorted({*subject.databases, *subject.source_identity.databases})
    else:
        wanted = Rules.of(subject.settings.rules).target_databases(subject.databases)
    if not wanted:
        return not_applicable("No database holds a key.")
    lacking: list[int] = []
    selects = [pack(b"SELECT", b"%d" % number) for number in wanted]
    for server in subject.target_servers:
        with server.connection() as connection:
            *replies, _ = connection.exchange([*selects, pack(b"SELECT", b"0")])
            for number, reply in zip(wanted, replies, strict=True):
                if not isinstance(reply, ErrorReply) or number in lacking:
                    continue
                error = connection.error_for(reply, "SELECT")
                text = str(reply).lower()
                if "out of range" not in text and "not allowed in cluster mode" not in text:
                    raise error
                lacking.append(number)
    names = ", ".join(map(str, wanted))
    if not lacking:
        return passed(f"The target has every database that is needed: {names}.", databases=wanted)
    return noticed(
        Severity.BLOCKING,
        f"The target has no database {', '.join(map(str, lacking))}.",
        "Start it with more (--dbnum on Dragonfly, databases on Redis), map them (rules.databases), or leave them out "
        "(--databases).",
        {"databases": wanted, "lacking": lacking},
        items=tuple(f"database {number}" for number in lacking),
    )


def look_at_sentinel_key(subject: Subject) -> Finding:
    """A key of the source under the name that the native road writes to it."""
    name = subject.settings.native.sentinel_key
    if not name:
        return not_applicable("native.sentinel_key is empty, so nothing is written to the source.")
    taken: list[int] = []
    databases = sorted({*subject.databases, *subject.source_identity.databases})
    tags = [server.tag.encode() for server in subject.source_servers if server.tag]
    with subject.source.connect("assess") as connection:
        for number in databases:
            connection.select(number)
            if any(connection.command(b"EXISTS", key) for key in sentinel_keys(name, tags)):
                taken.append(number)
    if not taken:
        return passed(f"No key is called {name}.", databases=databases)
    return noticed(
        Severity.WARNING,
        f"There is a key {name} in {plural(len(taken), 'database')} ({', '.join(map(str, taken))}); the native "
        "strategy leaves it alone, and goes by replication offsets alone there.",
        "Choose another name (native.sentinel_key), or delete it if an earlier run that was killed left it.",
        {"databases": taken},
    )


def look_at_target(subject: Subject) -> Finding:
    """Keys that the target holds already."""
    target, policy = subject.target_identity, subject.settings.copying.conflict
    if not target.keys:
        return passed("The target holds no key.")
    held = ", ".join(
        f"{plural(keys, 'key')} in database {number}" for number, keys in target.databases.items()
    )
    evidence: dict[str, object] = {"keys": target.keys, "conflict": policy.value}
    summary = f"The target holds {held}"
    if policy is ConflictPolicy.FAIL:
        return noticed(
            Severity.BLOCKING,
            f"{summary}, and a run does not begin on a target that holds keys.",
            "Empty it; or choose --conflict replace (overwrite) or skip (keep them); or go on with --resume, where an "
            "earlier run was broken off.",
            evidence,
        )
    what = "are overwritten" if policy is ConflictPolicy.REPLACE else "are kept, and recorded as skipped"
    return noticed(
        Severity.WARNING,
        f"{summary}. Keys that both have {what}; those that only the target has are found by the comparison.",
        "See that they are meant to be there.",
        evidence,
    )
