"""Whether Greenfly's users may do what a run needs, tried without effect on both sides."""

from __future__ import annotations

from typing import Final

from integrity.assess.acl_line import COPY_PARTS, LIVE_PARTS, least_privilege
from integrity.assess.model import Check, Finding, Reach, Severity, found, passed, unknown
from integrity.assess.needed_rights import Right, RunPart, Side, rights
from integrity.assess.rights_probe import Answer, Tried, try_rights
from integrity.assess.subject import Subject
from integrity.errors import PermissionRefused, ProtocolError
from integrity.settings import Settings
from integrity.strategy import Strategy

_LATER: Final = (RunPart.SYNC, RunPart.CUTOVER, RunPart.ROLLBACK)


def _source(subject: Subject) -> Finding:
    return _look(subject, "source")


def _target(subject: Subject) -> Finding:
    return _look(subject, "target")


def _look(subject: Subject, side: Side) -> Finding:
    server = (subject.source_servers if side == "source" else subject.target_servers)[0]
    engine = server.identity.engine
    clustered = server.clustered
    everything = rights(side, (*LIVE_PARTS, RunPart.NATIVE), engine, clustered=clustered)
    tried = server.tried(everything)
    now = rights(side, parts_of_the_copy(subject.settings, subject.strategy), engine, clustered=clustered)
    line, short_line = (
        least_privilege(side, parts, engine, tried.known, clustered=clustered)
        for parts in (_line_parts(subject.strategy), _copy_parts(subject.strategy))
    )
    evidence: dict[str, object] = {
        "tried": len(everything),
        "acl": line,
        "acl_copy_only": short_line,
    }
    untold = tried.untold([right for right in everything if right.needed])
    if untold:
        return unknown(
            Severity.WARNING,
            f"{len(untold)} of {len(everything)} rights on the {side} cannot be tried"
            f"{f': {tried.reason}' if tried.reason else ''}.",
            f"Give the user the rights of this line, or see that it has them: {line}",
            **evidence,
            untried=[right.command for right in untold],
        )
    lacking = _by_part(tried, side, engine, clustered=clustered)
    items = tuple(f"{part}: {name}" for part, names in lacking.items() for name in names)
    remedy = f"Give them to the user; this line makes one that has all: {line}"
    held = _source_commands(subject)
    blocking = [
        right.command
        for right in tried.lacking(now)
        if right.needed and (held is None or not right.if_source_has or right.if_source_has in held)
    ]
    for name in _refused_by_the_replica(subject) if side == "source" else ():
        blocking.append(f"{name} on the replica")
        items = (*items, f"replica: {name}")
    if tried.every_key is Answer.REFUSED:
        blocking.append("keys of every name (~*)")
        items = (*items, "keys of every name (~*)")
    if blocking:
        severity = Severity.BLOCKING
        summary = f"The run would be refused {_some(blocking)} on the {side}."
    elif items:
        severity = Severity.WARNING
        summary = (
            f"A copy can be made; {_some([right for names in lacking.values() for right in names])} would be "
        )
        summary += f"refused on the {side} later ({', '.join(lacking)})."
    else:
        return _optional(tried, everything, side, remedy, evidence)
    return found(severity, summary, remedy, items=items, **evidence)


def _refused_by_the_replica(subject: Subject) -> list[str]:
    """Where keys are read from another server than the source."""
    if subject.reader is subject.source:
        return []
    wanted = rights("source", (RunPart.COPY,), subject.reader_identity.engine)
    tried = try_rights(subject.reader, subject.reader_identity, wanted)
    return [right.command for right in tried.lacking(wanted) if right.needed]


def _source_commands(subject: Subject) -> frozenset[str] | None:
    """None where the source does not tell."""
    try:
        return subject.source_commands
    except (PermissionRefused, ProtocolError):
        return None


def _optional(
    tried: Tried, everything: tuple[Right, ...], side: Side, remedy: str, evidence: dict[str, object]
) -> Finding:
    without = {right.command: right.without for right in tried.lacking(everything) if right.without}
    if not without:
        return passed(f"Every command that a run may need on the {side} is allowed.", **evidence)
    return found(
        Severity.INFO,
        f"What a run needs on the {side} is allowed; it does without {_some(list(without))}.",
        remedy,
        items=tuple(without),
        **evidence,
        without=without,
    )


def _by_part(tried: Tried, side: Side, engine: str, *, clustered: bool) -> dict[str, list[str]]:
    """Each part of a move that would be refused something that it needs."""
    parts = (*COPY_PARTS, *_LATER)
    lacking = {
        part.value: [
            right.command
            for right in tried.lacking(rights(side, [part], engine, clustered=clustered))
            if right.needed
        ]
        for part in parts
    }
    return {part: names for part, names in lacking.items() if names}


def parts_of_the_copy(settings: Settings, strategy: Strategy) -> tuple[RunPart, ...]:
    """What every run with these settings does before anything is followed."""
    parts = [RunPart.ASSESS, RunPart.COPY]
    if settings.snapshot.enabled:
        parts.append(RunPart.SNAPSHOT)
    if strategy is Strategy.NATIVE:
        parts.append(RunPart.NATIVE)
    return tuple(parts)


def _line_parts(strategy: Strategy) -> tuple[RunPart, ...]:
    return (*LIVE_PARTS, RunPart.NATIVE) if strategy is Strategy.NATIVE else LIVE_PARTS


def _copy_parts(strategy: Strategy) -> tuple[RunPart, ...]:
    return (*COPY_PARTS, RunPart.NATIVE) if strategy is Strategy.NATIVE else COPY_PARTS


def _some(names: list[str]) -> str:
    distinct = list(dict.fromkeys(names))
    more = f" and {len(distinct) - 6} more" if len(distinct) > 6 else ""
    return ", ".join(distinct[:6]) + more


CHECKS: Final = (
    Check(
        "rights.source",
        "Greenfly's rights on the source",
        Severity.BLOCKING,
        _source,
        source=Reach.EACH,
        target=Reach.WHOLE,
    ),
    Check(
        "rights.target",
        "Greenfly's rights on the target",
        Severity.BLOCKING,
        _target,
        source=Reach.WHOLE,
        target=Reach.EACH,
    ),
)
