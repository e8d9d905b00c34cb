"""What a cutover and a rollback have in common: the run, the sync run it rests on, the fences, the environment."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from time import monotonic
from typing import Final

from integrity.endpoint import Endpoint, Identity
from integrity.errors import LedgerError, Refused, ServerError, ServerUnreachable, Undone
from integrity.kinds.base import plural
from integrity.ledger import Ledger, RunHandle, models
from integrity.ledger.models import RunKind
from integrity.ledger.operations import operations
from integrity.ledger.steps import StepRecord, read_steps
from integrity.ledger.vocabulary import Ask, Direction, StepState
from integrity.progress import Progress
from integrity.settings import Settings
from integrity.switch.asker import Asker, NotDone
from integrity.switch.confirm import Moved, close_applications, wait_until_moved
from integrity.switch.environment import (
    EnvironmentFailed,
    EnvironmentSwitch,
    environment_switch,
    fingerprint,
    holds,
    masked,
)
from integrity.switch.fence_nodes import Fencing, NodesFence, fence_of
from integrity.switch.fence_plan import FencePlan
from integrity.switch.fence_record import EXTENDED, LEFT, extended_plan, extension, leaving
from integrity.switch.sides import Sides, green_url

_TURN_BACK_SECONDS: Final = 3.0
_ANEW_SECONDS: Final = 2.0
_PLAIN: Final = {Direction.FORWARD: Ask.FORWARD, Direction.BACKWARD: Ask.BACKWARD}
_FENCES: Final = {"blue": RunKind.CUTOVER, "green": RunKind.ROLLBACK}
"""Which operation fences a side."""
_ANEW: Final = {Direction.FORWARD: Ask.FORWARD_ANEW, Direction.BACKWARD: Ask.BACKWARD_ANEW}


class NotConfirmed(Undone):
    """The environment was switched, and no application came."""


class Conductor:
    """The means of both state machines.

    :param sync_run: the sync run that the operation rests on.
    :param handle: of the operation's own run, where there is one.
    """

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger,
        sync_run: models.Run,
        asker: Asker,
        progress: Progress,
        handle: RunHandle | None = None,
    ) -> None:
        self.settings = settings
        self.ledger = ledger
        self.sync_run = sync_run
        self.asker = asker
        self.progress = progress
        self._handle = handle
        self.sides = Sides.of(settings)
        self.environment: EnvironmentSwitch = environment_switch(settings.switch)
        self._identities: dict[str, Identity] = {}
        require_same_servers(sync_run, self.sides)

    # -- servers ----------------------------------------------------------------------------------------------------

    def identity(self, side: str) -> Identity:
        """Who blue or green is; asked once.

        :raises ServerError: it cannot be reached.
        """
        if side not in self._identities:
            self._identities[side] = self.endpoint(side).identify()
        return self._identities[side]

    def endpoint(self, side: str) -> Endpoint:
        """Blue or green."""
        return self.sides.blue if side == "blue" else self.sides.green

    def fence(self, side: str) -> Fencing:
        """The fence of blue or green."""
        return fence_of(
            self.endpoint(side), lambda: self.identity(side), keep_users=self.settings.cutover.keep_users
        )

    def lift(self, side: str, plan: FencePlan) -> list[str]:
        """Lift a fence; where that is not allowed, at least end the pause.

        :returns: nodes that are dead.  Where it still stands there when they come back, the sync process lifts it.
        :raises ServerError: it could not be lifted.
        """
        fence = self.fence(side)
        try:
            dead = fence.lift(plan)
        except ServerError:
            with suppress(ServerError):
                fence.unpause()
            raise
        places = [str(member.endpoint) for member in dead]
        if dead:
            self.progress.say(
                f"{', '.join(places)} of {side} {'are' if dead[1:] else 'is'} dead; where it still refuses writes "
                "when it is back, the sync process lifts that."
            )
            if self._handle is not None:
                try:
                    self._handle.event(LEFT, leaving(side, dead, plan))
                except LedgerError as error:
                    self.progress.say(f"That could not be recorded: {error.problem}")
        return places

    def refuse_again(self, side: str, plan: FencePlan) -> FencePlan:
        """Put a fence up again as it stood, and on nodes that have joined since; returns the plan of all of it.

        :raises Refused: it is not in force.
        :raises ServerError: a server does not allow it, or cannot be reached.
        """
        fence = self.fence(side)
        if isinstance(fence, NodesFence) and plan.nodes:
            whole = fence.extend(plan)
            run = self._fencing_run(side)
            if whole != plan and run is not None:
                self.ledger.record_event(EXTENDED, extension(side, whole), run.id)
                plan = whole
        fence.refuse(plan)
        return plan

    def require_fenced(self, side: str, plan: FencePlan) -> None:
        """See to it that nobody can write to a side that applications are about to leave.

        A server that does not answer at all is none that can be written to, and no reason to stay there.

        :raises Refused: somebody can: a server was restarted, or a node has joined, since it was fenced.
        """
        try:
            through = self.fence(side).breaches(plan)
        except ServerUnreachable as error:
            if plan.nodes:
                raise  # Others of its nodes may be written to.
            self.progress.say(f"It is not known whether {side} still refuses writes: {error.problem}")
            return
        if through:
            raise Refused(
                f"The fence of {side} does not hold any more: {', '.join(through)} can write.",
                "See what changed there, and start again.",
            )

    # -- fences of earlier operations -------------------------------------------------------------------------------

    def standing_fence(self, side: str) -> FencePlan | None:
        """The recorded plan of the fence that an earlier operation put up on this side and that was not undone.

        A cutover fences blue, a rollback green, and each lifts what the other has put up.
        """
        kind = _FENCES[side]
        for run in reversed(operations(self.ledger, self.sync_run.id)):
            steps = {step.name: step for step in read_steps(self.ledger.engine, run.id)}
            if run.kind is not kind:
                opened = steps.get("open")
                if opened is not None and opened.state is StepState.DONE:
                    return None  # It lifted whatever stood there; older plans say what is no longer so.
                continue
            plan = recorded_plan(steps)
            if plan is not None:
                return extended_plan(self.ledger, run.id, plan)
        return None

    def _fencing_run(self, side: str) -> models.Run | None:
        """The newest operation that fences this side."""
        runs = operations(self.ledger, self.sync_run.id)
        return next((run for run in reversed(runs) if run.kind is _FENCES[side]), None)

    # -- environment ------------------------------------------------------------------------------------------------

    def environment_says_green(self) -> bool:
        """Whether the environment sends applications to green.

        :raises EnvironmentFailed: it cannot be read.
        """
        return self.settings.switch.variable in self.environment.read().values

    def switch_to(self, side: str, sure: Callable[[], None] = lambda: None) -> Mapping[str, object]:
        """Write the environment; harmless where it says so already.

        :param sure: called when everything is ready to be written.
        :raises EnvironmentFailed: it could not be written, or it is not known whether it was.
        """
        switch = self.settings.switch
        value = green_url(self.settings) if side == "green" else None
        changes = {switch.variable: value, switch.phase_variable: side}
        before = self.environment.read()
        sure()
        try:
            after = self.environment.write(before, changes)
        except EnvironmentFailed:
            # What counts is what applications read.
            after = self.environment.read()
            if not holds(after.values, changes):
                raise
        return {
            "environment": self.environment.name,
            "variable": switch.variable,
            "before": masked(before.values.get(switch.variable)),
            "after": masked(after.values.get(switch.variable)),
            "after_fingerprint": fingerprint(after.values.get(switch.variable)),
        }

    def environment_now(self) -> Mapping[str, object]:
        """What there is before the first change, without a secret.

        :raises EnvironmentFailed: it cannot be read.
        """
        switch, state = self.settings.switch, self.environment.read()
        return {
            "environment": self.environment.name,
            "version": state.version,
            "values": {
                name: {
                    "value": masked(state.values.get(name)),
                    "fingerprint": fingerprint(state.values.get(name)),
                }
                for name in (switch.variable, switch.fallback_variable, switch.phase_variable)
            },
        }

    # -- the sync process -------------------------------------------------------------------------------------------

    def turn_back(self, direction: Direction, side: str, plan: FencePlan | None, seconds: float) -> None:
        """On undoing: have *side* followed again, before anybody can write there.

        Where its fence stands, nothing that changed can have gone unseen, and both sides stay proven equal.  Where it
        does not, or the sync process cannot do it, that process is told to follow anew: now, or before anything
        else as soon as it comes to it.  Else it would carry the other side's old values over what applications write.

        :raises LedgerError: it cannot be told.
        """
        try:
            if plan is not None and self.fence(side).holds(plan):
                self.asker.ask(_PLAIN[direction], min(seconds, _TURN_BACK_SECONDS))
                return
        except (NotDone, ServerError) as error:
            self.progress.say(f"{error.problem} It is told to follow {side} anew.")
        try:
            self.asker.ask(_ANEW[direction], _ANEW_SECONDS)
        except NotDone as error:
            self.progress.say(f"{error.problem} It will before it does anything else.")

    # -- applications -----------------------------------------------------------------------------------------------

    def close_applications(self, side: str) -> Mapping[str, object]:
        """Close the applications' connections to the side that they are to leave."""
        if not self.settings.cutover.close_connections:
            return {"closed": None}
        return {"closed": close_applications(self.endpoint(side), self.identity(side))}

    def confirm(self, left: str, arrived: str, until: float, *, dead: bool = False) -> Mapping[str, object]:
        """Wait for the rollout, then for the applications.

        :param dead: the side they leave is dead and is not asked.
        :raises NotConfirmed: nobody came.
        """
        problem = self.environment.confirm(max(0.1, until - monotonic()))
        if self.settings.cutover.confirm == "environment":
            return {"confirmed_by": "environment", "problem": problem}
        moved = wait_until_moved(
            (self.endpoint(left), None if dead else self.identity(left)),
            (self.endpoint(arrived), self.identity(arrived)),
            until,
            self.asker.wait,
        )
        detail: dict[str, object] = {"confirmed_by": "clients", "problem": problem} | moved.to_dict()
        if not moved.arrived:
            raise NotConfirmed(
                f"No application is connected to {arrived} ({self.endpoint(arrived)})"
                f"{f'; {problem}' if problem else ''}.",
                "Check that applications read the environment that is switched, and cutover.confirm_seconds.",
            )
        if not moved.complete:
            self.progress.say(stragglers_text(moved, left))
        return detail


def stragglers_text(moved: Moved, left: str) -> str:
    """Who stayed, for people."""
    hosts = ", ".join(moved.stragglers)
    return (
        f"Still coming to {left}: {plural(moved.left, 'connection')}, from {hosts}; their writes are refused."
    )


def recorded_plan(steps: Mapping[str, StepRecord]) -> FencePlan | None:
    """The plan of a fence that may stand, from the steps of the operation that put it up; None where it was undone."""
    pause = steps.get("pause") or steps.get("seal")
    if pause is None or not pause.attempts or pause.state is StepState.UNDONE:
        return None
    plan = pause.detail.get("plan")
    return FencePlan.from_dict(plan) if isinstance(plan, Mapping) else None


def find_sync_run(ledger: Ledger, wanted: str) -> models.Run:
    """The sync run that is meant: itself, or the one that an operation rests on; ``latest`` is the newest one.

    :raises ConfigurationError: no such run.
    :raises Refused: it is no sync run, and none stands behind it.
    """
    if wanted == "latest":
        for run in ledger.runs(1000):
            if run.kind is RunKind.SYNC:
                return run
    run = ledger.find_run(wanted)
    if run.kind is RunKind.SYNC:
        return run
    if run.parent_id is not None:
        parent = ledger.find_run(run.parent_id)
        if parent.kind is RunKind.SYNC:
            return parent
    raise Refused(
        f"Run {run.id} is a {run.kind.value}, which nothing can be cut over from.", "Give a sync run."
    )


def require_same_servers(sync_run: models.Run, sides: Sides) -> None:
    """Refuse to cut over between other servers than those that are followed.

    :raises Refused: they are others.
    """
    for name, address, endpoint in (
        ("source", sync_run.source_address, sides.blue),
        ("target", sync_run.target_address, sides.green),
    ):
        if address != str(endpoint):
            raise Refused(
                f"The {name} is {endpoint}, and run {sync_run.id} is about {address}.",
                "Give the servers of that run.",
            )
