"""What a fence came to be after its plan was recorded, kept as events of the operation that put it up or lifted it.

A plan is part of a step, and steps are closed when the operation has ended.  A node may join a fenced cluster long
after that, and one that was dead when the fence was lifted may come back with it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from integrity.cluster.members import Member
from integrity.ledger.queries import LedgerReader
from integrity.switch.fence_plan import FencePlan

EXTENDED: Final = "fence.extended"
LEFT: Final = "fence.left"
LIFTED: Final = "fence.lifted"


@dataclass(frozen=True, slots=True)
class LeftFence:
    """A fence that was lifted everywhere but on nodes that were dead."""

    run_id: str
    """The operation that lifted it."""
    side: str
    names: tuple[str, ...]
    """The nodes, as :class:`~integrity.cluster.members.Member` calls them."""
    plan: FencePlan


def extended_plan(ledger: LedgerReader, run_id: str, plan: FencePlan) -> FencePlan:
    """The plan of an operation's fence, with the nodes that have joined since.

    :raises LedgerError: it cannot be read.
    """
    for _, facts in reversed(_events(ledger, run_id, {EXTENDED})):
        return _plan(facts) or plan
    return plan


def extension(side: str, plan: FencePlan) -> Mapping[str, object]:
    """The payload of :data:`EXTENDED`."""
    return {"side": side, "plan": plan.to_dict()}


def leaving(side: str, dead: Sequence[Member], plan: FencePlan) -> Mapping[str, object]:
    """The payload of :data:`LEFT`."""
    return {
        "side": side,
        "names": [member.name for member in dead],
        "places": [str(member.endpoint) for member in dead],
        "plan": plan.to_dict(),
    }


def left_fence(ledger: LedgerReader, run_id: str) -> LeftFence | None:
    """What this operation's lifting left on dead nodes, and nobody has lifted since.

    :raises LedgerError: it cannot be read.
    """
    for kind, facts in reversed(_events(ledger, run_id, {LEFT, LIFTED})):
        plan, names = _plan(facts), facts.get("names")
        if kind == LIFTED or plan is None or not isinstance(names, list):
            return None
        return LeftFence(run_id, str(facts.get("side")), tuple(map(str, names)), plan)
    return None


def _events(ledger: LedgerReader, run_id: str, kinds: set[str]) -> list[tuple[str, Mapping[str, object]]]:
    return [(event.kind, json.loads(event.payload)) for event in ledger.events(run_id) if event.kind in kinds]


def _plan(facts: Mapping[str, object]) -> FencePlan | None:
    plan = facts.get("plan")
    return FencePlan.from_dict(plan) if isinstance(plan, Mapping) else None
