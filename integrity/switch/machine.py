"""A state machine in the ledger: steps in order, each recorded before and after, undone in reverse where one fails.

Every step can be done again, and undone again: whoever takes over after a crash does not know whether the step that was
begun has happened, so it looks, or simply repeats it.  What undoing needs is recorded before the step begins.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Event, Thread, current_thread, main_thread
from time import monotonic, sleep
from types import FrameType, TracebackType
from typing import Final, Protocol, Self

from sqlalchemy import Engine

from integrity.errors import GreenflyError, LedgerError, RunTakenOver, Undone, Unfinished
from integrity.ledger import RunHandle
from integrity.ledger.operations import is_newest, is_running
from integrity.ledger.steps import StepBook, StepRecord, read_steps
from integrity.ledger.vocabulary import StepState
from integrity.progress import Progress

Detail = Mapping[str, object]
_HEAL_SECONDS: Final = 30.0
"""How long a process that was taken for dead waits for whoever took over to be done."""


class UndoFailed(Unfinished):
    """A step failed, and so did undoing: somebody has to look, now.  The sync process goes on trying."""


class BudgetExceeded(GreenflyError):
    """A step took longer than it may."""


class Recorder(Protocol):
    """Told before and after every record; tests end the process there."""

    def __call__(self, step: str, state: StepState, *, written: bool) -> None:
        """*written* is False right before the record, True right after it."""


def nobody(step: str, state: StepState, *, written: bool) -> None:
    """The recorder that does nothing."""


@dataclass(frozen=True, slots=True)
class Step:
    """One step.

    :ivar prepare: what has to be known to undo the step, recorded before it begins; asked once, not again on resume.
    :ivar do: does it, given that and a deadline (monotonic); what it returns is recorded too.
    :ivar undo: takes it back, given what was recorded; harmless where nothing was done.
    :ivar holds: where it cannot be taken back, the steps before it must not be either.
    """

    name: str
    seconds: float
    do: Callable[[Detail, float], Detail]
    prepare: Callable[[], Detail] = field(default=lambda: {})
    undo: Callable[[Detail], None] | None = None
    text: str = ""
    """What it does, for people."""
    holds: bool = False


class Keeper:
    """Renews a run's lease from a thread of its own, however long a step takes; a context manager."""

    def __init__(self, engine: Engine, handle: RunHandle, lease_seconds: float) -> None:
        self._mine = RunHandle(engine, handle.id, lease_seconds, handle.owner)
        self._every = lease_seconds / 4
        self._stop = Event()
        self._thread = Thread(target=self._run, name="greenfly:lease", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._mine.close()

    def _run(self) -> None:
        while not self._stop.wait(self._every):
            try:
                self._mine.renew_lease()
            except LedgerError:
                return  # The steps meet it themselves, at their next record.


@contextmanager
def undisturbed() -> Iterator[None]:
    """Put off Ctrl-C and other signals to end: what is half undone would keep everybody from writing."""
    if current_thread() is not main_thread():
        yield
        return

    def later(number: int, frame: FrameType | None) -> None:
        """The process is about to end anyway."""

    before = {
        number: signal.signal(number, later) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)


class Machine:
    """Runs the steps of one run.

    :param final: the step after which nothing is undone any more: what fails behind it is raised as it is.
    :param decided: whether that step has had its effect, whatever is recorded; asked where it was begun.
    """

    def __init__(
        self,
        engine: Engine,
        handle: RunHandle,
        steps: Sequence[Step],
        progress: Progress,
        *,
        final: str,
        decided: Callable[[], bool] = lambda: False,
        recorder: Recorder = nobody,
    ) -> None:
        self._final = final
        self._decided = decided
        self._engine = engine
        self._run_id = handle.id
        self._book = StepBook(engine, handle.id, handle.owner)
        self._steps = steps
        self._progress = progress
        self._recorder = recorder
        self._last: dict[str, StepRecord] = {}

    def records(self) -> dict[str, StepRecord]:
        """The steps as the ledger holds them."""
        return {record.name: record for record in read_steps(self._engine, self._run_id)}

    def require_owned(self) -> None:
        """To be called right before what nobody else could take back.

        :raises RunTakenOver: another process took the run over.
        """
        self._book.require_owned()

    def run(self) -> None:
        """Do every step that is not done yet; undo all of them where one fails.

        :raises Undone: one failed, and everything was undone.
        :raises UndoFailed: one failed, and something could not be undone.
        :raises RunTakenOver: another process took the run over; nothing was undone.
        """
        self._book.plan([(step.name, step.seconds) for step in self._steps])
        known = self.records()
        step = self._steps[0]
        try:
            for step in self._steps:
                if known[step.name].state is not StepState.DONE:
                    self._do(step, known[step.name])
        except RunTakenOver:
            self._heal(step)
            raise
        except BaseException as error:
            with undisturbed():
                try:
                    self._fail(step, error)
                except RunTakenOver:
                    self._heal(step)
                    raise
            raise

    def _do(self, step: Step, record: StepRecord) -> None:
        detail = dict(record.detail) if record.attempts else dict(step.prepare())
        self._record(step.name, StepState.RUNNING, detail)
        self._last = self.records()
        began = monotonic()
        self._progress.say(f"{step.name}: {step.text}")
        added = step.do(detail, began + step.seconds)
        if monotonic() - began > step.seconds and step.name != self._final:
            raise BudgetExceeded(
                f"Step {step.name} took {monotonic() - began:.1f} s, and may take {step.seconds:g} s.",
                "Raise its budget, or find out what was slow.",
            )
        self._record(step.name, StepState.DONE, added)

    def _fail(self, failed: Step, error: BaseException) -> None:
        problem = str(error) if isinstance(error, GreenflyError) else type(error).__name__
        if self._is_decided():
            # Undoing would be no way back: applications may have written where they are sent to now.
            state = StepState.DONE if failed.name == self._final else StepState.FAILED
            self._record_if_possible(failed.name, state, {"problem": problem})
            return
        self._record_if_possible(failed.name, StepState.FAILED, {"problem": problem})
        if not any(step.undo is not None and self._begun(step) for step in self._steps):
            return
        self._progress.say(f"{failed.name} failed: {problem} Undoing.")
        self.undo()
        if isinstance(error, GreenflyError):
            raise Undone(
                f"Step {failed.name} failed ({error.problem}), and everything was undone.", error.remedy
            ) from error

    def _is_decided(self) -> bool:
        """Whether the final step has had its effect.

        :raises UndoFailed: that cannot be found out.
        """
        record = self._known_records()[self._final]
        if record.state is StepState.DONE:
            return True
        if not record.attempts:
            return False
        try:
            return self._decided()
        except GreenflyError as error:
            raise UndoFailed(
                f"It is not known whether step {self._final} was done: {error.problem}",
                "Mend the cause; the sync process, or the same command once more, goes on or undoes.",
            ) from error

    def _heal(self, step: Step) -> None:
        """Take back the step in hand once more, where whoever took over has done so.

        This process may have stood still for longer than its lease in the middle of that step, and what it did to a
        server then came after the other one's undoing.
        """
        until = monotonic() + _HEAL_SECONDS
        try:
            while is_running(self._engine, self._run_id) and monotonic() < until:
                sleep(0.1)
            record = self._known_records().get(step.name)
            if record is None or record.state is not StepState.UNDONE or step.undo is None:
                return
            if is_newest(self._engine, self._run_id):
                with undisturbed():
                    step.undo(record.detail)
        except GreenflyError as error:
            self._progress.say(f"{step.name} may have been done after it was undone: {error}")

    def _begun(self, step: Step) -> bool:
        return self._known_records()[step.name].attempts > 0

    def _known_records(self) -> dict[str, StepRecord]:
        """The records; as they were last read where the ledger cannot be read any more."""
        try:
            self._last = self.records()
        except LedgerError:
            self._progress.say("The ledger cannot be read; undoing by what was recorded last.")
        return self._last

    def undo(self) -> None:
        """Take back every step that was begun, the newest first; it can be repeated.

        :raises UndoFailed: some could not be taken back; the others were.
        """
        records = self._known_records()
        problems = []
        for step in reversed(self._steps):
            record = records.get(step.name)
            if record is None or not record.attempts or record.state is StepState.UNDONE:
                continue
            if step.undo is None:
                continue
            try:
                step.undo(record.detail)
            except GreenflyError as error:
                problems.append(f"{step.name}: {error}")
                if step.holds and not isinstance(error, LedgerError):
                    break
                continue
            self._record_if_possible(step.name, StepState.UNDONE, {})
        if problems:
            raise UndoFailed(
                f"Something could not be undone: {' '.join(problems)}",
                "Mend the cause; the sync process, or the same command once more, undoes the rest.",
            )

    def _record_if_possible(self, name: str, state: StepState, detail: Detail) -> None:
        """A ledger that cannot be written must not keep the fence up."""
        try:
            self._record(name, state, detail)
        except RunTakenOver:
            raise
        except LedgerError as error:
            self._progress.say(f"{name} is {state.value}, which could not be recorded: {error.problem}")

    def _record(self, name: str, state: StepState, detail: Detail) -> None:
        self._recorder(name, state, written=False)
        if state is StepState.RUNNING:
            self._book.begin(name, detail)
        else:
            self._book.end(name, state, detail)
        self._recorder(name, state, written=True)
