"""The cutover: fence blue, carry over and prove what is left, turn the sync round, switch, confirm.

::

    gates → baseline → pause → drain → refuse → prove → arm → open → switch → close → confirm

From ``pause`` to ``switch`` nobody can write.  The pause only delays writers, and ends by itself when its budget is
over; ``refuse`` makes it lasting, ends the pause, and only then the rest is proven (docs/fence.md).  A process that
dies before ``refuse`` therefore leaves blue writable again; one that dies after it is replaced by the sync process,
which looks for operations whose process is gone.

Whoever takes over goes on where the environment says green already, and undoes everything where it does not.  Once
the environment has said green, nothing is undone any more: the way back is a rollback, which loses nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack

from integrity.errors import GreenflyError, Refused, ServerUnreachable, Undone
from integrity.kinds.base import plural
from integrity.ledger import Ledger, RunHandle, models
from integrity.ledger.models import Verdict
from integrity.ledger.samples import add_samples
from integrity.ledger.steps import read_steps
from integrity.ledger.vocabulary import Ask, Direction
from integrity.progress import Progress
from integrity.settings import Settings
from integrity.switch.asker import Asker
from integrity.switch.canary import Canary
from integrity.switch.conductor import Conductor, NotConfirmed, recorded_plan
from integrity.switch.fence_plan import FencePlan
from integrity.switch.gates import Gate, Gates, refused
from integrity.switch.health import measure_baseline, record_baseline
from integrity.switch.machine import Detail, Machine, Recorder, Step, nobody
from integrity.switch.sides import blue_as_application, green_as_application
from integrity.verify.verdict import Conclusion

_BASELINE_SECONDS = 2.0
_OPEN_SECONDS = 30.0


class GatesClosed(Refused):
    """A gate did not pass; nothing was done."""

    def __init__(self, gates: list[Gate]) -> None:
        closed = refused(gates)
        super().__init__(
            "The cutover was not begun: "
            + "; ".join(f"{gate.name} is {gate.value} (wanted: {gate.limit})" for gate in closed)
            + ".",
            " ".join(gate.text for gate in closed),
        )
        self.gates = gates


class Cutover:
    """One cutover, in a run of its own.

    :param handle: of the cutover's run, owned by this process.
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
        recorder: Recorder = nobody,
    ) -> None:
        self._settings = settings
        self._ledger = ledger
        self._handle = handle
        self._asker = asker
        self._progress = progress
        self._conductor = Conductor(settings, ledger, sync_run, asker, progress, handle)
        self._sync_run = sync_run
        self._canary: Canary | None = None
        self._machine = Machine(
            ledger.engine,
            handle,
            self._steps(),
            progress,
            final="switch",
            decided=self._conductor.environment_says_green,
            recorder=recorder,
        )

    # -- the table --------------------------------------------------------------------------------------------------

    def _steps(self) -> list[Step]:
        cutover, conductor = self._settings.cutover, self._conductor
        steps = [
            Step("gates", _OPEN_SECONDS, self._pass_gates, text="what must hold before anything is done"),
            Step(
                "baseline",
                _OPEN_SECONDS,
                self._measure_baseline,
                prepare=conductor.environment_now,
                text="blue's health, to compare green's with",
            ),
            Step(
                "pause",
                cutover.fence_seconds,
                self._pause,
                prepare=lambda: {"plan": conductor.fence("blue").plan().to_dict()},
                undo=self._lift,
                text="writers wait",
            ),
            Step("drain", cutover.drain_seconds, self._settle, text="carry over and prove what is left"),
            Step(
                "refuse",
                cutover.fence_seconds,
                self._refuse,
                undo=self._lift_planned,
                text="blue refuses writes",
            ),
            Step("prove", cutover.drain_seconds, self._drain, text="what waiting writers still did"),
        ]
        if cutover.fallback:
            steps.append(
                Step(
                    "arm",
                    cutover.drain_seconds,
                    lambda _, until: self._asker.ask(Ask.BACKWARD, cutover.drain_seconds),
                    undo=self._disarm,
                    holds=True,
                    text="green is followed from now on",
                )
            )
        else:
            steps.append(
                Step(
                    "end",
                    cutover.drain_seconds,
                    # Else it would carry what expires on blue, say, over what applications write to green.
                    lambda _, until: self._asker.ask(Ask.STOP, cutover.drain_seconds),
                    text="the sync process ends; nothing is carried back",
                )
            )
        steps += [
            Step(
                "open",
                cutover.fence_seconds,
                self._open_green,
                prepare=self._plan_of_green,
                undo=self._close_green,
                text="lift what an earlier rollback fenced",
            ),
            Step(
                "switch",
                cutover.switch_seconds,
                self._switch,
                undo=self._switch_back,
                holds=True,
                text="the environment says green",
            ),
            Step("close", cutover.fence_seconds, self._close, text="close connections to blue"),
            Step(
                "confirm",
                # The wait for applications is bounded by the budget itself; what is looked up after it is not.
                cutover.confirm_seconds + cutover.fence_seconds,
                self._confirm,
                text="applications have moved",
            ),
        ]
        return steps

    def plan(self) -> list[tuple[str, float, str]]:
        """The steps: name, budget in seconds, what it does."""
        return [(step.name, step.seconds, step.text) for step in self._steps()]

    # -- running ----------------------------------------------------------------------------------------------------

    def run(self) -> Conclusion:
        """Do it.

        :raises GatesClosed: a gate did not pass; nothing was done.
        :raises Undone: a step failed, and everything was undone.
        :raises UndoFailed: something could not be undone.
        """
        with ExitStack() as stack:
            stack.callback(self._stop_canary)
            try:
                self._machine.run()
            except Undone as error:
                if isinstance(error.__cause__, GatesClosed):
                    raise error.__cause__ from None
                raise
        return self._conclude()

    def take_over(self) -> Conclusion:
        """Go on where a process that died has left it: forward where the environment says green, else undo.

        :raises Undone: it was undone.
        :raises UndoFailed: something could not be undone.
        """
        if self._conductor.environment_says_green():
            self._progress.say("The environment says green already: going on.")
            return self.run()
        self._progress.say("The environment does not say green: undoing.")
        self._machine.undo()
        raise Undone(
            "The process that cut over was gone before it had switched, and everything was undone.",
            "Start the cutover again.",
        )

    def _conclude(self) -> Conclusion:
        steps = {step.name: step for step in read_steps(self._ledger.engine, self._handle.id)}
        confirm, prove = steps["confirm"].detail, steps["prove"].detail
        pause = confirm.get("write_pause_ms")
        text = "Applications are on green"
        if isinstance(pause, int | float):
            text += f"; writes paused for {pause:,.0f} ms"
        carried = [steps[name].detail.get("carried") for name in ("drain", "prove")]
        total = sum(n for n in carried if isinstance(n, int))
        text += (
            f"; under the fence {plural(total, 'key')} {'was' if total == 1 else 'were'} carried over, and every key "
            "that had changed was compared"
        )
        left = confirm.get("left")
        if isinstance(left, int) and left > 0:
            return Conclusion(
                Verdict.PASS_WITH_EXCEPTIONS,
                f"{text}. Still coming to blue: {plural(left, 'connection')}, whose writes are refused.",
            )
        if prove.get("ok") is not True:
            return Conclusion(Verdict.INCONCLUSIVE, f"{text}, but the last proof is not recorded.")
        return Conclusion(Verdict.PASS, f"{text}.")

    # -- steps ------------------------------------------------------------------------------------------------------

    def gates(self) -> list[Gate]:
        """The gates and their present values."""
        conductor = self._conductor
        return Gates(
            self._settings, self._ledger, self._sync_run, conductor.sides, conductor.environment
        ).evaluate(self._asker.status(), conductor.identity("blue"), conductor.identity("green"))

    def _pass_gates(self, detail: Detail, until: float) -> Detail:
        gates = self.gates()
        self._handle.event("cutover.gates", {"gates": [gate.to_dict() for gate in gates]})
        if refused(gates):
            raise GatesClosed(gates)
        return {"gates": [gate.to_dict() for gate in gates]}

    def _measure_baseline(self, detail: Detail, until: float) -> Detail:
        baseline = measure_baseline(self._conductor.sides.blue, _BASELINE_SECONDS)
        record_baseline(self._ledger.engine, self._handle.id, baseline)
        return {"baseline": baseline.to_dict()}

    def _pause(self, detail: Detail, until: float) -> Detail:
        self._start_canary()
        # Longer than the drain may take, so that the refusal is in place before it ends.
        cutover = self._settings.cutover
        self._conductor.fence("blue").pause(cutover.drain_seconds + cutover.fence_seconds)
        return {}

    def _settle(self, detail: Detail, until: float) -> Detail:
        # What nobody announces is compared once, by the last proof.
        return self._asker.ask(Ask.SETTLE, self._settings.cutover.drain_seconds)

    def _drain(self, detail: Detail, until: float) -> Detail:
        return self._asker.ask(Ask.DRAIN, self._settings.cutover.drain_seconds)

    def _refuse(self, detail: Detail, until: float) -> Detail:
        plan, fence = self._plan(), self._conductor.fence("blue")
        fence.refuse(plan)
        fence.unpause()
        return {"method": plan.method, "users": list(plan.user_names), "nodes": len(plan.nodes) or 1}

    def _plan(self) -> FencePlan:
        plan = recorded_plan(self._machine.records())
        if plan is None:
            raise Refused("The plan of the fence is not recorded.", "Start the cutover again.")
        return plan

    def _lift(self, detail: Detail) -> None:
        plan = detail.get("plan")
        if isinstance(plan, Mapping):
            self._conductor.lift("blue", FencePlan.from_dict(plan))

    def _lift_planned(self, detail: Detail) -> None:
        self._conductor.lift("blue", self._plan())

    def _disarm(self, detail: Detail) -> None:
        plan = recorded_plan(self._machine.records())
        self._conductor.turn_back(Direction.FORWARD, "blue", plan, self._settings.cutover.drain_seconds)

    def _plan_of_green(self) -> Detail:
        plan = self._conductor.standing_fence("green")
        return {"plan": plan.to_dict() if plan is not None else None}

    def _open_green(self, detail: Detail, until: float) -> Detail:
        plan = detail.get("plan")
        if isinstance(plan, Mapping):
            self._conductor.lift("green", FencePlan.from_dict(plan))
        return {"lifted": isinstance(plan, Mapping)}

    def _close_green(self, detail: Detail) -> None:
        plan = detail.get("plan")
        if not isinstance(plan, Mapping):
            return
        try:
            self._conductor.refuse_again("green", FencePlan.from_dict(plan))
        except ServerUnreachable as error:
            # Nobody is sent there, and it forgets any fence when it restarts: that must not keep blue refused.
            self._progress.say(f"Green is not fenced any more: {error.problem}")

    def _switch(self, detail: Detail, until: float) -> Detail:
        written = self._conductor.switch_to("green", self._require_sure)
        if self._canary is not None:
            self._canary.switched()
        return written

    def _require_sure(self) -> None:
        """That this process conducts still, and blue refuses still; asked right before the environment is written."""
        if not self._conductor.environment_says_green():
            self._conductor.require_fenced("blue", self._plan())
        self._machine.require_owned()

    def _switch_back(self, detail: Detail) -> None:
        if self._conductor.environment_says_green():
            self._conductor.switch_to("blue")
        if self._canary is not None:
            self._canary.back()

    def _close(self, detail: Detail, until: float) -> Detail:
        return self._conductor.close_applications("blue")

    def _confirm(self, detail: Detail, until: float) -> Detail:
        try:
            moved = dict(
                self._conductor.confirm("blue", "green", until - self._settings.cutover.fence_seconds)
            )
        except NotConfirmed as error:
            if self._settings.cutover.unconfirmed == "keep":
                moved = {"confirmed_by": "nobody", "problem": error.problem}
            else:
                raise
        if self._canary is None:
            return moved
        self._stop_canary()
        return moved | self._canary.pause().to_dict()

    # -- canary -----------------------------------------------------------------------------------------------------

    def _start_canary(self) -> None:
        key = self._settings.cutover.canary_key
        if not key or self._canary is not None:
            return
        try:
            blue = blue_as_application(self._settings, self._conductor.environment.read())
            green = green_as_application(self._settings)
        except GreenflyError as error:
            self._progress.say(f"The write pause is not measured: {error.problem}")
            return
        self._canary = Canary(key.encode(), blue, green, ("blue", "green"))
        self._canary.start()
        self._asker.wait(0.2)  # So that there is something before the pause.

    def _stop_canary(self) -> None:
        if self._canary is not None:
            self._canary.stop()
            add_samples(self._ledger.engine, self._handle.id, self._canary.samples())
