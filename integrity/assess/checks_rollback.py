"""Whether there would be a way back after the cutover."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from integrity.assess.memory import mib
from integrity.assess.model import Check, Finding, Reach, Severity, found, not_applicable, passed, unknown
from integrity.assess.needed_rights import FENCE_RIGHTS, Side
from integrity.assess.server import Server
from integrity.assess.subject import Subject
from integrity.assess.way_back import ways_back
from integrity.errors import ConfigurationError, PermissionRefused, ProtocolError
from integrity.rules import Rules
from integrity.switch.access import user_names
from integrity.switch.sides import green_url

_STANDING: Final = "greenfly-fence"
"""The user that stands on a server as long as a fence does (docs/fence.md)."""
_FULL: Final = 0.95
"""The share of blue's memory beyond which the gate of a cutover is closed."""
_TIGHT: Final = 0.85


def _readiness(subject: Subject) -> Finding:
    green, blue = subject.target_identity, subject.source_identity
    ways = ways_back(green, blue, subject.source_commands)
    commands = _used(subject.source_info)
    used = {way.kind: way.uses(commands) for way in ways}
    evidence: dict[str, object] = {
        "kinds": {way.kind: way.carried + (f": {way.lost}" if way.lost else "") for way in ways},
        "used_on_the_source": {kind: names for kind, names in used.items() if names},
    }
    lossy = [way for way in ways if way.carried != "whole"]
    rules = subject.settings.rules
    if not Rules.of(rules).selects_all or not Rules.of(rules).maps_nothing:
        return found(
            Severity.WARNING,
            "Rules leave keys out or rename them, which has no way back: a rollback would lose what was written to "
            "green.",
            "Move everything under its own name where a rollback is wanted.",
            items=("rules",),
            **evidence,
        )
    in_use = [way for way in lossy if used.get(way.kind)]
    if in_use:
        return found(
            Severity.WARNING,
            f"What is in use and does not come back whole into {blue.title}: "
            + "; ".join(f"{way.kind} ({way.lost})" for way in in_use)
            + ".",
            "Know that a rollback loses this, or upgrade blue first.",
            items=tuple(way.kind for way in in_use),
            **evidence,
        )
    new = [way.kind for way in lossy if way.carried == "not"]
    if new:
        return found(
            Severity.INFO,
            f"All that is in use comes back into {blue.title}. Until a rollback is no longer wanted, applications "
            f"should not begin to use: {'; '.join(new)}.",
            "",
            items=tuple(new),
            **evidence,
        )
    return passed(f"Every kind of value comes back into {blue.title}.", **evidence)


def _used(info: Mapping[str, str]) -> set[str]:
    """Commands that were called, from INFO commandstats, subcommands cut off."""
    return {
        name.removeprefix("cmdstat_").partition("|")[0].lower()
        for name, value in info.items()
        if name.startswith("cmdstat_") and not value.startswith("calls=0,")
    }


def _fence(subject: Subject) -> Finding:
    problems: dict[Side, list[str]] = {"source": [], "target": []}
    standing, untold = [], []
    for side, refused in problems.items():
        for server in subject.source_servers if side == "source" else subject.target_servers:
            tried = server.tried(FENCE_RIGHTS)
            refused += [right.command for right in tried.lacking(FENCE_RIGHTS)]
            untold += [f"{right.command} on the {side}" for right in tried.untold(FENCE_RIGHTS)]
            if not refused and not untold:
                with server.connection() as connection:
                    if _STANDING in user_names(connection):
                        standing.append(str(server))
    items = tuple(
        dict.fromkeys(f"{name} on the {side}" for side, names in problems.items() for name in names)
    )
    if standing:
        return found(
            Severity.WARNING,
            f"A fence stands on {', '.join(standing)}: applications cannot write there, and none can be put up anew.",
            "Lift it by the run that put it up (`greenfly rollback`, or docs/fence.md for by hand).",
            items=tuple(standing),
        )
    if items:
        return found(
            Severity.WARNING,
            f"A fence cannot be put up as it should: {', '.join(items)} refused. Without it neither a cutover nor a "
            "rollback is safe.",
            "Give the users the rights of the line that the checks of rights show. On Redis 7.0 and later "
            "min-replicas-to-write can stand in on the source, with cutover.fallback = false.",
            items=items,
        )
    if untold:
        return unknown(
            Severity.WARNING, f"Whether a fence can be put up cannot be tried ({', '.join(untold[:3])} …)."
        )
    return passed("Applications can be kept from writing, on either side.")


def _room(subject: Subject) -> Finding:
    blue = subject.source_identity
    if not blue.max_memory:
        return passed("Blue has no memory limit.")
    share = blue.used_memory / blue.max_memory
    evidence: dict[str, object] = {"used_bytes": blue.used_memory, "limit_bytes": blue.max_memory}
    free = mib(max(0, blue.max_memory - blue.used_memory))
    if share > _TIGHT:
        shut = share > _FULL
        return found(
            Severity.WARNING,
            f"Blue has {free} left ({1 - share:.0%}) for what is written to green after the cutover"
            + ("; the gate of a cutover is closed like this." if shut else "."),
            "Raise blue's maxmemory for the time of the fall-back.",
            items=(),
            **evidence,
        )
    return passed(f"Blue has {free} left for what is written to green after the cutover.", **evidence)


def _environment(subject: Subject) -> Finding:
    settings = subject.settings
    if settings.switch.kind == "none":
        return found(
            Severity.INFO,
            "No environment is configured: a cutover and a rollback would fence and prove, and leave it to you to move "
            "the applications.",
            "Set switch.kind (docs/environment-switch.md) where Greenfly is to move them.",
        )
    try:
        green_url(settings)
    except ConfigurationError as error:
        return found(Severity.WARNING, error.problem, error.remedy)
    back = "" if settings.cutover.fallback else " cutover.fallback is off: a rollback loses later writes."
    return (
        found(Severity.WARNING, f"The switch is configured.{back}", "Leave cutover.fallback on.")
        if back
        else passed(f"The switch is configured ({settings.switch.kind}).")
    )


def _persistence(subject: Subject) -> Finding:
    evidence: dict[str, object] = {}
    items, texts, untold = [], [], []
    for side, server in _named(subject):
        info = server.info
        kept = (
            _dragonfly_keeps(server.config)
            if server.identity.engine == "dragonfly"
            else _redis_keeps(info, server.config)
        )
        evidence[side] = kept if kept is not None else "not told"
        if kept is None:
            untold.append(side)
        elif not kept:
            items.append(f"the {side} keeps nothing on disk")
            texts.append(f"the {side} keeps nothing on disk, so a restart of it loses everything")
        for name in ("rdb_last_bgsave_status", "aof_last_write_status"):
            if info.get(name, "ok") != "ok":
                items.append(f"{name} of the {side}")
                texts.append(f"{name} of the {side} says {info[name]}: it may refuse writes")
    if texts:
        text = "; ".join(texts)
        return found(
            Severity.WARNING,
            f"{text[0].upper()}{text[1:]}.",
            "Switch saving on (save or appendonly; on Dragonfly --dbfilename and --snapshot_cron), on blue until a "
            "rollback is no longer wanted. A cache may not need it.",
            items=tuple(items),
            **evidence,
        )
    if untold:
        return unknown(
            Severity.WARNING,
            f"Whether the {' and the '.join(untold)} keeps its data on disk, it does not tell.",
            "See its persistence settings (on a managed server, its backups).",
            **evidence,
        )
    return passed("Both servers keep their data on disk.", **evidence)


def _named(subject: Subject) -> list[tuple[str, Server]]:
    """Every server of both sides, by what it is called."""
    return [
        (side if len(servers) == 1 else f"{side}'s node {server.place}", server)
        for side, servers in (("source", subject.source_servers), ("target", subject.target_servers))
        for server in servers
    ]


_Config = Callable[[str], str | None]


def _redis_keeps(info: Mapping[str, str], config: _Config) -> str | None:
    """How; empty where it does not, None where it does not tell."""
    if info.get("aof_enabled") == "1":
        return "appendonly"
    try:
        points = config("save")
    except (PermissionRefused, ProtocolError):
        return None
    if points is None:
        return None
    return f"save {points}" if points else ""


def _dragonfly_keeps(config: _Config) -> str | None:
    """It also saves when it is shut down in order; what counts here is what is there after a crash."""
    try:
        name, times = (config(option) for option in ("dbfilename", "snapshot_cron"))
    except (PermissionRefused, ProtocolError):
        return None
    if name is None or times is None:
        return None
    return f"snapshot_cron {times}" if name and times else ""


def _if_wanted(look: Callable[[Subject], Finding]) -> Callable[[Subject], Finding]:
    """Only where a fall-back is wanted."""

    def asked(subject: Subject) -> Finding:
        if not subject.settings.cutover.fallback:
            return not_applicable("cutover.fallback is off: there is to be no way back.")
        return look(subject)

    return asked


CHECKS: Final = (
    Check(
        "rollback.readiness",
        "What comes back, kind by kind",
        Severity.WARNING,
        _if_wanted(_readiness),
        source=Reach.WHOLE,
        target=Reach.WHOLE,
    ),
    Check(
        "rollback.fence",
        "Fences on both sides",
        Severity.WARNING,
        _fence,
        source=Reach.WHOLE,
        target=Reach.WHOLE,
    ),
    Check(
        "rollback.room",
        "Memory for the way back",
        Severity.WARNING,
        _if_wanted(_room),
        source=Reach.EACH,
        target=Reach.WHOLE,
    ),
    Check(
        "rollback.environment",
        "The applications' environment",
        Severity.WARNING,
        _environment,
        source=Reach.WHOLE,
        target=Reach.WHOLE,
    ),
    Check(
        "rollback.persistence",
        "What survives a restart",
        Severity.WARNING,
        _persistence,
        source=Reach.WHOLE,
        target=Reach.WHOLE,
    ),
)
