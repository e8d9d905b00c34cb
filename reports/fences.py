"""How a side was kept from being written to, node by node, from the plan that a step recorded before it began."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from integrity.ledger.steps import StepRecord
from reports import facts
from reports.facts import Facts, masked_text

FENCE_METHODS: Final = {
    "acl": "its users lose the commands that write (ACL)",
    "min-replicas": "every write is refused (min-replicas-to-write)",
}

_LIFTS: Final = "open"
"""The step that lifts the fence of the side that applications come to."""


@dataclass(frozen=True, slots=True)
class NodeFence:
    """The fence of one server, or of one node of a cluster."""

    name: str | None
    """Of the node; None for a single server."""
    place: str | None
    """``host:port``."""
    method: str | None
    users: tuple[str, ...]
    """Who is refused."""
    kept: tuple[str, ...]
    """Who is not."""


@dataclass(frozen=True, slots=True)
class FenceView:
    """The fence that one step put up, or lifted."""

    step: str
    lifted: bool
    """Whether the step lifts it; an earlier operation had put it up."""
    nodes: tuple[NodeFence, ...]


def build_fences(records: Sequence[StepRecord]) -> tuple[FenceView, ...]:
    """One for each step that recorded a plan, in their order."""
    return tuple(
        FenceView(masked_text(record.name), record.name == _LIFTS, tuple(_nodes(plan)))
        for record in records
        if record.attempts and (plan := facts.table(record.detail, "plan"))
    )


def _nodes(plan: Facts) -> Iterator[NodeFence]:
    nodes = facts.tables(plan, "nodes")
    if not nodes:
        yield _node(plan, None, None)
    for node in nodes:
        yield _node(facts.table(node, "plan"), facts.text(node, "name"), facts.text(node, "place"))


def _node(plan: Facts, name: str | None, place: str | None) -> NodeFence:
    users = [facts.text(user, "name") for user in facts.tables(plan, "users")]
    kept = plan.get("kept")
    return NodeFence(
        name,
        place,
        facts.text(plan, "method"),
        tuple(user for user in users if user is not None),
        tuple(masked_text(str(user)) for user in kept) if isinstance(kept, list | tuple) else (),
    )
