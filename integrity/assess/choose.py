"""Which road ``auto`` takes, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from integrity.assess.model import Result
from integrity.endpoint import Endpoint, Identity
from integrity.rules import Rules
from integrity.settings import ConflictPolicy, Settings
from integrity.strategy import Strategy


@dataclass(frozen=True, slots=True)
class Choice:
    """The road that is taken."""

    strategy: Strategy
    """Never ``auto``."""
    why: tuple[str, ...]
    """Sentences; never empty."""


def against_native(settings: Settings, target: Identity) -> tuple[str, ...]:
    """What in the settings and the target speaks against Dragonfly's own replication; no server is asked."""
    reasons = []
    if target.engine != "dragonfly":
        reasons.append(f"The target is {target.title}, not a Dragonfly.")
    source = Endpoint.from_settings("source", settings.source).address
    if source.mode == "cluster" and settings.native.master_host is not None:
        reasons.append("The source is a cluster, and native.master_host names one server.")
    if source.mode == "cluster" and settings.native.follow == "replication":
        reasons.append("The source is a cluster, which is not left attached (native.follow = replication).")
    if source.mode == "sentinel" and settings.native.master_host is None:
        reasons.append(
            "The source is named by Sentinels, and green has to be told one server (native.master_host and _port)."
        )
    if Rules.of(settings.rules).describe():
        reasons.append(
            "The run has rules about keys or databases, and replication carries all of them as they are."
        )
    if settings.databases is not None or source.database is not None:
        reasons.append("The run is limited to some databases, and replication carries all of them.")
    if settings.replica.url is not None:
        reasons.append("Keys are to be read from a replica.")
    if settings.copying.conflict is ConflictPolicy.SKIP:
        reasons.append(
            "Keys that the target has are to be kept (--conflict skip), and replication empties it first."
        )
    elif target.keys and settings.copying.conflict is not ConflictPolicy.REPLACE:
        reasons.append(f"The target holds {target.keys:,} keys, and replication empties it first.")
    return tuple(reasons)


def choose(
    settings: Settings,
    target: Identity,
    native: Sequence[Result],
    copying: Sequence[Result] = (),
) -> Choice:
    """The road for a run whose strategy is ``auto``.

    :param native: what the checks came to for the native road, waivers left aside.
    :param copying: the same for the copy; what stops both roads does not speak against one of them.
    """
    reasons = list(against_native(settings, target))
    both = {(result.check, result.outcome, result.items) for result in copying if result.blocks}
    reasons += [
        f"{result.title} ({result.check}): {result.summary}"
        for result in native
        if result.blocks and (result.check, result.outcome, result.items) not in both
    ]
    if reasons:
        return Choice(Strategy.COPY, tuple(reasons))
    return Choice(
        Strategy.NATIVE,
        (
            f"The target is {target.title}, and no check found anything against its own replication"
            f"{' that is not in the way of a copy as well' if both else ''}.",
        ),
    )
