"""The rollback: fence green, carry its changes back to blue, prove, turn the sync round, open blue, switch, confirm.

::

    check → pause → drain → refuse → prove → turn → open → switch → close → confirm

Nothing that was written to green is lost.  Where green is dead there is another table: what is at risk is recorded,
blue is opened and the environment switched at once::

    check → at-risk → seal → open → switch → confirm

Whoever takes over after a crash goes forward where blue may have been opened already, and undoes where it was not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

from integrity.errors import GreenflyError, Refused, ServerError, Undone
from integrity.kinds.base import plural
from integrity.ledger import Ledger, RunHandle, models
from integrity.ledger.models import FindingClass, PhaseName, Verdict
from integrity.ledger.steps import read_steps
from integrity.ledger.store import NewFinding
from integrity.ledger.vocabulary import Ask, Direction, StepState
from integrity.phases.sync import at_risk, spool_path
from integrity.progress import Progress
from integrity.settings import Settings
from integrity.switch.asker import Asker, NotDone, is_heard
from integrity.switch.conductor import Conductor, NotConfirmed, recorded_plan
from integrity.switch.fence_nodes import NodesFence, fence_of
from integrity.switch.fence_plan import FencePlan
from integrity.switch.gates import ALIVE_SECONDS
from integrity.switch.machine import Detail, Machine, Recorder, Step, nobody
from integrity.switch.sides import impatient
from integrity.sync.spool import read_spool
from integrity.verify.verdict import Conclusion

_CHECK_SECONDS: Final = 30.0
_DEAD_SECONDS: Final = 1.0
"""How long a server that is given up may take to answer."""
_AT_A_TIME: Final = 1000


class Rollback:
    """One rollback, in a run of its own.

    :param abandon: green is dead, or given up: nothing is carried back.
    :param handle: of the rollback's run, owned by this process.
    """

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger,
        handle: RunHandle,
        sync_run: models.Run,
        asker: Asker,
        progress: Progress,
        *,
        abandon: bool,
        reason: str,
        recorder: Recorder = nobody,
    ) -> None:
        self._settings = settings
        self._ledger = ledger
        self._handle = handle
        self._asker = asker
        self._progress = progress
        self._sync_run = sync_run
        self._reason = reason
        self._abandon = abandon
        self._conductor = Conductor(settings, ledger, sync_run, asker, progress, handle)
        self._machine = Machine(
            ledger.engine,
            handle,
            self._steps(),
            progress,
            final="switch",
            decided=lambda: not self._conductor.environment_says_green(),
            recorder=recorder,
        )

    # -- the tables -------------------------------------------------------------------------------------------------

    def _steps(self) -> list[Step]:
        return self._without_green() if self._abandon else self._with_green()

    def _with_green(self) -> list[Step]:
        rollback, conductor = self._settings.rollback, self._conductor
        return [
            Step(
                "check", _CHECK_SECONDS, self._check, text="both servers, the sync process, the environment"
            ),
            Step(
                "pause",
                rollback.fence_seconds,
                self._pause,
                prepare=lambda: {"plan": conductor.fence("green").plan().to_dict()},
                undo=self._lift_green,
                text="writers wait",
            ),
            Step("drain", rollback.drain_seconds, self._drain, text="carry green's changes back"),
            Step(
                "refuse",
                rollback.fence_seconds,
                self._refuse,
                undo=self._lift_planned,
                text="green refuses writes",
            ),
            Step("prove", rollback.drain_seconds, self._prove, text="blue holds what green holds"),
            Step(
                "turn",
                rollback.drain_seconds,
                lambda _, until: self._asker.ask(Ask.FORWARD, rollback.drain_seconds),
                undo=self._turn_back,
                holds=True,
                text="blue is followed from now on",
            ),
            Step(
                "open",
                rollback.fence_seconds,
                self._open_blue,
                prepare=self._plan_of_blue,
                undo=self._close_blue,
                text="blue takes writes again",
            ),
            Step(
                "switch",
                rollback.switch_seconds,
                self._switch,
                undo=lambda _: self._switch_back(),
                holds=True,
                text="the environment says blue",
            ),
            Step(
                "close",
                rollback.fence_seconds,
                lambda _, until: conductor.close_applications("green"),
                text="close connections to green",
            ),
            Step(
                "confirm",
                rollback.confirm_seconds + rollback.fence_seconds,
                lambda _, until: self._confirm(until - rollback.fence_seconds, dead=False),
                text="applications have moved",
            ),
        ]

    def _without_green(self) -> list[Step]:
        rollback = self._settings.rollback
        return [
            Step("check", _CHECK_SECONDS, self._check_blue, text="blue, and what its fence was"),
            Step("at-risk", rollback.drain_seconds, self._record_at_risk, text="what may be lost"),
            Step(
                "seal",
                rollback.fence_seconds + 3 * _DEAD_SECONDS,
                self._seal_green,
                text="green refuses writes, if it answers",
            ),
            Step(
                "open",
                rollback.fence_seconds,
                self._open_blue,
                prepare=self._plan_of_blue,
                text="blue takes writes again",
            ),
            Step(
                "switch",
                rollback.switch_seconds,
                self._switch,
                text="the environment says blue",
            ),
            Step(
                "confirm",
                rollback.confirm_seconds + rollback.fence_seconds,
                lambda _, until: self._confirm(until - rollback.fence_seconds, dead=True),
                text="applications have moved",
            ),
        ]

    def plan(self) -> list[tuple[str, float, str]]:
        """The steps: name, budget in seconds, what it does."""
        return [(step.name, step.seconds, step.text) for step in self._steps()]

    # -- running ----------------------------------------------------------------------------------------------------

    def run(self) -> Conclusion:
        """Do it.

        :raises Undone: a step failed, and everything was undone: green serves as before.
        :raises UndoFailed: something could not be undone.
        """
        self._machine.run()
        return self._conclude()

    def take_over(self) -> Conclusion:
        """Go on where a process that died has left it.

        :raises Undone: it was undone.
        :raises UndoFailed: something could not be undone.
        """
        records = self._machine.records()
        opened = records.get("open")
        # Undoing that has begun goes on: going forward would fence green again, which may be the only one that lives.
        undoing = any(step.state in {StepState.FAILED, StepState.UNDONE} for step in records.values())
        if self._abandon or (opened is not None and opened.attempts and not undoing):
            self._progress.say("Blue may be open already: going on.")
            return self.run()
        self._progress.say("Blue is not open yet: undoing.")
        self._machine.undo()
        raise Undone(
            "The process that rolled back was gone before blue was open, and everything was undone.",
            "Start the rollback again.",
        )

    def _conclude(self) -> Conclusion:
        steps = {step.name: step for step in read_steps(self._ledger.engine, self._handle.id)}
        moved = steps["confirm"].detail
        came = moved.get("confirmed_by") != "nobody"
        text = (
            "Applications are on blue again"
            if came
            else "The environment says blue; no application has come yet"
        )
        if self._abandon:
            keys = steps["at-risk"].detail.get("keys")
            changed = plural(keys, "changed key") if isinstance(keys, int) else "an unknown number of keys"
            return Conclusion(
                Verdict.INCONCLUSIVE,
                f"{text}. Green was abandoned with {changed} not known to be on blue; each is a finding. "
                f"What was written after {steps['at-risk'].detail.get('complete_until')} cannot be named.",
            )
        carried = [steps[name].detail.get("carried") for name in ("drain", "prove")]
        total = sum(n for n in carried if isinstance(n, int))
        text += f"; under the fence {plural(total, 'key')} {'was' if total == 1 else 'were'} carried back"
        compared = steps["prove"].detail.get("compared")
        text += (
            f", and {plural(compared, 'key')} {'was' if compared == 1 else 'were'} compared"
            if isinstance(compared, int)
            else ", and every key that had changed was compared"
        )
        if not came:
            return Conclusion(Verdict.PASS_WITH_EXCEPTIONS, f"{text}.")
        return Conclusion(Verdict.PASS, f"{text}.")

    # -- steps with green -------------------------------------------------------------------------------------------

    def _check(self, detail: Detail, until: float) -> Detail:
        conductor, status = self._conductor, self._asker.status()
        if status is None or status.direction is not Direction.BACKWARD:
            raise Refused(
                "Green is not followed, so its changes cannot be carried back.",
                "Start `greenfly sync --resume`; where green is dead, use --abandon-green.",
            )
        if not is_heard(status, ALIVE_SECONDS):
            raise Refused(
                f"The sync process of run {self._sync_run.id} gives no sign of life, so nothing can be carried back.",
                "Start `greenfly sync --resume`; where green is dead, use --abandon-green.",
            )
        self._plan_of_blue()
        conductor.identity("blue")
        conductor.identity("green")
        return {
            "reason": self._reason,
            "sync": status.to_dict(),
            "to_carry": status.dirty + status.unproven,
        } | dict(conductor.environment_now())

    def _pause(self, detail: Detail, until: float) -> Detail:
        rollback = self._settings.rollback
        self._conductor.fence("green").pause(rollback.drain_seconds + rollback.fence_seconds)
        return {}

    def _drain(self, detail: Detail, until: float) -> Detail:
        return self._asker.ask(Ask.DRAIN, self._settings.rollback.drain_seconds)

    def _refuse(self, detail: Detail, until: float) -> Detail:
        plan, fence = self._plan(), self._conductor.fence("green")
        fence.refuse(plan)
        fence.unpause()
        return {"method": plan.method, "users": list(plan.user_names), "nodes": len(plan.nodes) or 1}

    def _prove(self, detail: Detail, until: float) -> Detail:
        status = self._asker.status()
        everything = self._settings.rollback.prove == "everything"
        unsure = status is None or status.feed != "tracking"
        return self._asker.ask(
            Ask.PROVE if everything and unsure else Ask.DRAIN, self._settings.rollback.drain_seconds
        )

    def _turn_back(self, detail: Detail) -> None:
        plan = recorded_plan(self._machine.records())
        self._conductor.turn_back(Direction.BACKWARD, "green", plan, self._settings.rollback.drain_seconds)

    def _plan(self) -> FencePlan:
        plan = recorded_plan(self._machine.records())
        if plan is None:
            raise Refused("The plan of green's fence is not recorded.", "Start the rollback again.")
        return plan

    def _lift_green(self, detail: Detail) -> None:
        plan = detail.get("plan")
        if isinstance(plan, Mapping):
            self._conductor.lift("green", FencePlan.from_dict(plan))

    def _lift_planned(self, detail: Detail) -> None:
        self._conductor.lift("green", self._plan())

    # -- blue -------------------------------------------------------------------------------------------------------

    def _plan_of_blue(self) -> Detail:
        plan = self._conductor.standing_fence("blue")
        if plan is None:
            raise Refused(
                "No cutover of this sync run has fenced blue, so there is nothing to go back from.",
                "`greenfly runs list` shows what was done.",
            )
        return {"plan": plan.to_dict()}

    def _open_blue(self, detail: Detail, until: float) -> Detail:
        plan = detail.get("plan")
        if not isinstance(plan, Mapping):
            return {}
        return {"dead_nodes": self._conductor.lift("blue", FencePlan.from_dict(plan))}

    def _close_blue(self, detail: Detail) -> None:
        plan = detail.get("plan")
        if isinstance(plan, Mapping):
            self._conductor.refuse_again("blue", FencePlan.from_dict(plan))

    def _switch(self, detail: Detail, until: float) -> Detail:
        return self._conductor.switch_to("blue", self._machine.require_owned)

    def _switch_back(self) -> None:
        if not self._conductor.environment_says_green():
            self._conductor.switch_to("green")

    def _confirm(self, until: float, *, dead: bool) -> Detail:
        try:
            return self._conductor.confirm("green", "blue", until, dead=dead)
        except NotConfirmed as error:
            # There is no other side to go to: blue serves, and says so.
            self._progress.say(f"{error}")
            return {"confirmed_by": "nobody", "problem": error.problem}

    # -- without green ----------------------------------------------------------------------------------------------

    def _check_blue(self, detail: Detail, until: float) -> Detail:
        self._plan_of_blue()
        self._conductor.identity("blue")
        return {"reason": self._reason} | dict(self._conductor.environment_now())

    def _record_at_risk(self, detail: Detail, until: float) -> Detail:
        try:
            answer = self._asker.ask(Ask.AT_RISK, 2 * _DEAD_SECONDS)
        except NotDone as error:
            self._progress.say(f"{error.problem} Reading what it left.")
        else:
            self._copy_findings()
            return answer
        path = spool_path(self._settings.state_dir, self._sync_run.id, Direction.BACKWARD)
        names = sorted(read_spool(path))
        known = datetime.now(UTC)
        if path.exists():
            known = datetime.fromtimestamp(path.stat().st_mtime, UTC)
        databases = tuple(sorted(self._conductor.identity("blue").databases)) or (0,)
        for start in range(0, len(names), _AT_A_TIME):
            self._add(at_risk(names[start : start + _AT_A_TIME], databases, known))
        return {
            "ok": True,
            "keys": len(names),
            "databases": list(databases),
            "complete_until": known.isoformat(),
            "from": "the file that the sync process left",
        }

    def _copy_findings(self) -> None:
        """What the sync process recorded, as findings of this run too."""
        after = 0
        while page := self._ledger.findings(
            self._sync_run.id, classes=[FindingClass.AT_RISK], limit=_AT_A_TIME, after_id=after
        ):
            after = page[-1].id
            self._add([NewFinding(f.finding_class, f.database, f.key, detail=f.detail) for f in page])

    def _add(self, findings: Sequence[NewFinding]) -> None:
        self._handle.add_findings(PhaseName.ROLLBACK, findings)

    def _seal_green(self, detail: Detail, until: float) -> Detail:
        """Keep a green that is given up but not dead from taking writes."""
        green = impatient(self._conductor.sides.green, _DEAD_SECONDS)
        plans: list[FencePlan] = []

        def record(plan: FencePlan) -> None:
            # Before it is put up: whoever lifts it has to know what there was.
            self._handle.event("green.sealed", {"plan": plan.to_dict()})
            plans.append(plan)

        try:
            fence = fence_of(green, green.identify, keep_users=self._settings.cutover.keep_users)
            if isinstance(fence, NodesFence):
                away = ", ".join(str(member.endpoint) for member in fence.seal(record))
                if away:
                    problem = f"No answer from {away}."
                    return {"sealed": False, "problem": problem, "plan": plans[0].to_dict()}
            else:
                record(fence.plan())
                fence.refuse(plans[0])
        except ServerError as error:
            return {"sealed": False, "problem": error.problem}
        except GreenflyError as error:
            return {"sealed": False, "problem": str(error)}
        return {"sealed": True, "plan": plans[0].to_dict()}
