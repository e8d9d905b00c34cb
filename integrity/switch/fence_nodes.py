"""One fence over many nodes: all of a cluster's, or all that Sentinels know of.

Each node has a plan of its own in the recorded one, replicas too: access rules are no part of replication, and a
replica that takes a master's place while the fence stands has to refuse by itself.  Replicas are refused first, and are
not paused, because a pause would hold up what their masters send them.

A node that is not in the plan has joined since, and its rules were not recorded: it is not touched, and the fence does
not hold while it is there.  A node that is dead, by its own silence and by the word of the others, takes no write: it
is passed over.  Its rules are in its memory, so it comes back without the fence, unless it was cut off and not
restarted, or its rules were saved: then it has to be lifted when it is back.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Final, Protocol

from integrity.cluster.members import Member, on_each, read_members, unlisted_member
from integrity.cluster.nodes import Place
from integrity.endpoint import Endpoint, Identity
from integrity.errors import Refused, ServerError, ServerNotReady, ServerUnreachable
from integrity.switch.clients import software_of
from integrity.switch.fence import Fence, require_plannable
from integrity.switch.fence_plan import FencePlan, FenceProbe, Method, NodePlan, Possibility

_NOTHING: Final = FencePlan("acl")
"""Lifting it takes away what Greenfly itself put on a node, and changes no rule."""


class Fencing(Protocol):
    """A fence of one server or of many; see :class:`~integrity.switch.fence.Fence` for what each call does."""

    def probe(self) -> FenceProbe: ...

    def plan(self) -> FencePlan: ...

    def pause(self, seconds: float) -> None: ...

    def refuse(self, plan: FencePlan) -> None: ...

    def unpause(self) -> None: ...

    def holds(self, plan: FencePlan) -> bool: ...

    def breaches(self, plan: FencePlan) -> tuple[str, ...]: ...

    def stands(self) -> bool: ...

    def lift(self, plan: FencePlan) -> tuple[Member, ...]: ...


def fence_of(
    endpoint: Endpoint, identify: Callable[[], Identity], *, keep_users: Sequence[str] = ()
) -> Fencing:
    """The fence of a server, a cluster, or what Sentinels know of.

    :param identify: asked only where there is one server: a cluster with a hole can still be lifted.
    :raises ServerError: who the server is cannot be asked.
    """
    if endpoint.address.mode == "single":
        return Fence(endpoint, identify(), keep_users=keep_users)
    return NodesFence(endpoint, keep_users=keep_users)


class NodesFence:
    """The fence of every node behind one address.  Holds no state of its own.

    :param endpoint: as configured, not as a user made by :func:`~integrity.switch.own_user.elevated`.
    :param keep_users: users that may go on writing.
    """

    def __init__(self, endpoint: Endpoint, *, keep_users: Sequence[str] = ()) -> None:
        self._endpoint = endpoint
        self._keep_users = tuple(keep_users)

    # -- before -------------------------------------------------------------------------------------------------

    def probe(self) -> FenceProbe:
        """What is possible on all nodes alike, and whom it would concern; without a lasting effect.

        :raises ServerError: a node cannot be reached, dead ones included, or does not tell.
        """
        return _together([(member, probe) for member, _, probe in self._probed()])

    def plan(self) -> FencePlan:
        """A plan for each node, by one method for all.

        :raises Refused: nothing is possible on all of them, a fence stands on one, or one is dead.
        :raises ServerError: a node cannot be asked.
        """
        return self._plan_of(self._probed())

    def _plan_of(self, probed: Sequence[tuple[Member, Fence, FenceProbe]]) -> FencePlan:
        whole = _together([(member, probe) for member, _, probe in probed])
        require_plannable(self._endpoint, whole)
        method: Method = "acl" if whole.method == "acl" else "min-replicas"
        plans = [
            NodePlan(member.name, str(member.place), fence.plan_by(replace(probe, method=method)))
            for member, fence, probe in probed
        ]
        return FencePlan(method, kept=whole.kept, nodes=tuple(plans))

    # -- putting it up ------------------------------------------------------------------------------------------

    def pause(self, seconds: float) -> None:
        """Delay every writer on every master.

        :raises ServerError: a master cannot, does not allow it, or does not answer.
        """
        masters = [member for member in self._members() if member.is_master]
        on_each(masters, lambda member: self._fence(member).pause(seconds))

    def refuse(self, plan: FencePlan) -> None:
        """Refuse writes on every node for good, replicas first; returns when it is in force.

        :raises Refused: it is not in force: a node has joined since, or a user came up.
        :raises ServerError: a node does not allow it, or does not answer and is not known to be dead.
        """
        members = self._members(plan)
        plans = _by_name(plan, members)
        planned = [member for member in members if member.name in plans]
        on_each(planned, lambda member: self._fence(member).refuse(plans[member.name]))
        joined = [str(member.endpoint) for member in members if member.name not in plans]
        if joined:
            raise Refused(
                f"{', '.join(joined)} joined since the fence was planned, and {'are' if joined[1:] else 'is'} not "
                "refused.",
                "Take it out, or lift the fence and plan it anew.",
            )

    def seal(self, record: Callable[[FencePlan], object]) -> tuple[Member, ...]:
        """Refuse writes for good on every node that answers, of a side that is given up.

        :param record: given the plan of those nodes before anything is done.
        :returns: nodes that do not answer; whoever brings one back brings it back without a fence.
        :raises Refused: it is not possible on one that answers, or a fence stands there.
        :raises ServerError: no node answers, or one does not allow it.
        """
        probed: dict[str, tuple[Member, Fence, FenceProbe]] = {}
        away: dict[str, ServerError] = {}

        def look(member: Member) -> None:
            try:
                fence = self._fence(member)
                probed[member.name] = member, fence, fence.probe()
            except (ServerUnreachable, ServerNotReady) as error:
                away[member.name] = error

        members = self._members()
        on_each(members, look)
        if not probed:
            raise next(iter(away.values()))
        plan = self._plan_of(list(probed.values()))
        record(plan)
        plans = _by_name(plan, members)
        answering = [member for member in members if member.name in probed]
        on_each(answering, lambda member: self._fence(member).refuse(plans[member.name]))
        return tuple(member for member in members if member.name in away)

    def unpause(self) -> None:
        """Let delayed commands go on, on every node: a master may be a replica by now.

        :raises ServerError: a node does not answer and is not known to be dead, or does not allow it.
        """
        on_each(self._members(), lambda member: self._fence(member).unpause())

    # -- looking and undoing ------------------------------------------------------------------------------------

    def holds(self, plan: FencePlan) -> bool:
        """Whether no node can be written to.

        :raises ServerError: a node cannot be asked, and is not known to be dead.
        """
        return not self.breaches(plan)

    def breaches(self, plan: FencePlan) -> tuple[str, ...]:
        """Who gets through where; nodes that have joined since the plan.

        :raises ServerError: a node cannot be asked, and is not known to be dead.
        """
        found: list[str] = []
        members = self._members(plan)
        plans = _by_name(plan, members)

        def look(member: Member) -> None:
            if member.name not in plans:
                found.append(f"whoever writes to {member.place}, which has joined since")
                return
            through = self._fence(member).breaches(plans[member.name])
            found.extend(f"{name} on {member.place}" for name in through)

        on_each(members, look)
        return tuple(sorted(found))

    def stands(self) -> bool:
        """Whether there is anything of a fence on any node.

        :raises ServerError: a node cannot be asked, and is not known to be dead.
        """
        found: list[bool] = []
        on_each(self._members(), lambda member: found.append(self._fence(member).stands()))
        return any(found)

    def lift(self, plan: FencePlan) -> tuple[Member, ...]:
        """Give back the rights on every node, and end every pause.

        Can be repeated.  Nodes that the cluster does not list any more are left alone.

        :returns: nodes that are dead; where one of them was not restarted it still refuses when it is back.
        :raises ServerError: a node does not answer and is not known to be dead, or does not allow it; all the others
            are lifted.
        """
        members = self._members(plan)
        plans = _by_name(plan, members)
        # Masters first: applications wait for them.
        return on_each(
            members[::-1], lambda member: self._fence(member).lift(plans.get(member.name, _NOTHING))
        )

    def lift_left(self, plan: FencePlan, names: Collection[str]) -> tuple[Member, ...]:
        """Lift the fence from nodes that were dead when the others were lifted, where it stands there still.

        :returns: those that are dead yet.
        :raises ServerError: as :meth:`lift`.
        """
        members = self._members(plan)
        plans = _by_name(plan, members)

        def lift(member: Member) -> None:
            fence = self._fence(member)
            # Where it was restarted, somebody may have given it other rules since.
            if fence.stands():
                fence.lift(plans.get(member.name, _NOTHING))

        return on_each([member for member in members if member.name in names], lift)

    def extend(self, plan: FencePlan) -> FencePlan:
        """The plan, with the nodes that have joined since; to be recorded before :meth:`refuse` is called.

        :raises Refused: what the plan does is not possible on one of them.
        :raises ServerError: a node cannot be asked, and is not known to be dead.
        """
        members = self._members(plan)
        plans = _by_name(plan, members)
        added: list[NodePlan] = []

        def add(member: Member) -> None:
            fence = self._fence(member)
            probe = fence.probe()
            if plan.method == "acl" and not probe.acl.possible:
                require_plannable(member.endpoint, replace(probe, method=None))
            added.append(
                NodePlan(member.name, str(member.place), fence.plan_by(replace(probe, method=plan.method)))
            )

        on_each([member for member in members if member.name not in plans], add)
        return replace(plan, nodes=(*plan.nodes, *added))

    # -- nodes --------------------------------------------------------------------------------------------------

    def _members(self, plan: FencePlan | None = None) -> tuple[Member, ...]:
        """All nodes; the master alone where the plan is that of one server."""
        known = {node.name: _place(node.place) for node in plan.nodes} if plan is not None else {}
        members = read_members(self._endpoint, list(known.values()))
        if plan is not None and not plan.nodes:
            return tuple(member for member in members if member.is_master)
        if self._endpoint.address.mode == "sentinel":
            # They forget the old master for a moment while they change it for another.
            listed = {member.name for member in members}
            unlisted = [place for name, place in known.items() if name not in listed]
            return (*(unlisted_member(self._endpoint, place) for place in unlisted), *members)
        return members

    def _all_members(self) -> tuple[Member, ...]:
        """
        :raises Refused: one is dead.
        """
        members = self._members()
        dead = [str(member.endpoint) for member in members if member.failed]
        if dead:
            raise Refused(
                f"{', '.join(dead)} of {self._endpoint} {'are' if dead[1:] else 'is'} dead, and would come back "
                "without a fence.",
                "Start it, or take it out (CLUSTER FORGET, SENTINEL RESET).",
            )
        return members

    def _probed(self) -> list[tuple[Member, Fence, FenceProbe]]:
        """What each node allows, in their order."""
        found: dict[str, tuple[Member, Fence, FenceProbe]] = {}

        def look(member: Member) -> None:
            fence = self._fence(member)
            found[member.name] = member, fence, fence.probe()

        members = self._all_members()
        on_each(members, look)
        return [found[member.name] for member in members]

    def _fence(self, member: Member) -> Fence:
        return Fence(member.endpoint, software_of(member.endpoint), keep_users=self._keep_users)


def _by_name(plan: FencePlan, members: Sequence[Member]) -> dict[str, FencePlan]:
    """The plan of each node; one that was made for a single server is the master's."""
    if not plan.nodes:
        return dict.fromkeys([member.name for member in members], plan)
    return {node.name: node.plan for node in plan.nodes}


def _place(text: str) -> Place:
    host, _, port = text.rpartition(":")
    return Place(host.strip("[]"), int(port) if port.isdecimal() else 0)


def _together(probes: Sequence[tuple[Member, FenceProbe]]) -> FenceProbe:
    """What all nodes allow."""

    def union(names: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for some in names for name in some))

    acl = _weakest([(member, probe.acl) for member, probe in probes])
    by_replicas = _weakest([(member, probe.min_replicas) for member, probe in probes])
    method: Method | None = "acl" if acl.possible else "min-replicas" if by_replicas.possible else None
    told = [probe for _, probe in probes]
    return FenceProbe(
        acl,
        by_replicas,
        _weakest([(member, probe.pause) for member, probe in probes]),
        method,
        users=union([probe.users for probe in told]),
        kept=union([probe.kept for probe in told]),
        own_user=told[0].own_user,
        own_user_fenced=any(probe.own_user_fenced for probe in told),
        nodes=len(told),
        already_fenced=any(probe.already_fenced for probe in told),
    )


def _weakest(found: Sequence[tuple[Member, Possibility]]) -> Possibility:
    """Possible only where it is on every node; the first that says no is named."""
    for member, possibility in found:
        if not possibility.possible:
            return replace(possibility, reason=f"{member.endpoint}: {possibility.reason}")
    return Possibility(True)
