"""The access rule that an operator can paste: a user with the rights that a run needs, and no other."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterable
from typing import Final

from integrity.assess.needed_rights import Right, RunPart, Side, rights

USER: Final = "greenfly"
PASSWORD: Final = "CHANGE-ME"  # noqa: S105  # a placeholder, which whoever pastes the line replaces
COPY_PARTS: Final = (RunPart.ASSESS, RunPart.COPY, RunPart.SNAPSHOT)
LIVE_PARTS: Final = (*COPY_PARTS, RunPart.SYNC, RunPart.CUTOVER, RunPart.ROLLBACK)


def least_privilege(
    side: Side,
    parts: Iterable[RunPart],
    engine: str,
    known: Collection[str] | None = None,
    *,
    clustered: bool = False,
) -> str:
    """An ``ACL SETUSER`` for one side, as it is typed into a server's shell.

    :param engine: of that side's server: ``redis``, ``valkey`` or ``dragonfly``.
    :param clustered: for a node of a cluster.
    :param known: commands that it has, because it refuses a rule about another (:attr:`Tried.known
        <integrity.assess.rights_probe.Tried.known>`); all by default.
    """
    # Dragonfly knows no reset; a rule that takes everything away comes first on every engine.
    begin = [] if engine == "dragonfly" else ["reset"]
    rules = list(
        dict.fromkeys(
            right.rule(engine) for right in granted(side, parts, engine, known, clustered=clustered)
        )
    )
    words = ["ACL", "SETUSER", USER, *begin, "on", f">{PASSWORD}", "~*", "-@all", *rules]
    return " ".join(shlex.quote(word) if " " in word else word for word in words)


def granted(
    side: Side,
    parts: Iterable[RunPart],
    engine: str,
    known: Collection[str] | None = None,
    *,
    clustered: bool = False,
) -> list[Right]:
    """The rights that the line gives: what a better command of the server replaces is left out."""
    offered = [right for right in rights(side, parts, engine, clustered=clustered) if right.offered]
    if known is None:
        return offered
    return [right for right in offered if right.command in known and right.better not in known]
