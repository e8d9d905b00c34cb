"""The state machine of cutovers and rollbacks, with steps that only write down what was done to them."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from threading import Timer
from time import sleep

import pytest

from integrity.errors import EnvironmentFailed, LedgerError, Refused, RunTakenOver, ServerUnreachable, Undone
from integrity.ledger import Ledger, RunHandle, open_ledger
from integrity.ledger.models import RunKind, RunState
from integrity.ledger.steps import StepBook
from integrity.ledger.vocabulary import StepState
from integrity.progress import Silent
from integrity.settings import Settings
from integrity.switch.machine import (
    BudgetExceeded,
    Detail,
    Keeper,
    Machine,
    Step,
    UndoFailed,
    undisturbed,
)

NAMES = ("one", "two", "final", "after")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(state_dir=tmp_path / "state", lease_seconds=2.0)


@pytest.fixture
def ledger(settings: Settings) -> Iterator[Ledger]:
    opened = open_ledger(settings)
    yield opened
    opened.close()


@pytest.fixture
def handle(ledger: Ledger, settings: Settings) -> RunHandle:
    parent = ledger.start_run(RunKind.SYNC, settings)
    return ledger.start_run(RunKind.CUTOVER, settings, parent_id=parent.id)


class Table:
    """Steps whose doings are written down."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.fails: dict[str, BaseException] = {}
        """By what is done: ``do two``, ``undo one``, ``prepare one``, ``decided``."""
        self.decided = False
        self.slow: dict[str, float] = {}
        self.holds: set[str] = set()
        self.seconds = 5.0

    def steps(self) -> list[Step]:
        return [self._step(name) for name in NAMES]

    def is_decided(self) -> bool:
        self._happens("decided")
        return self.decided

    def machine(self, ledger: Ledger, handle: RunHandle) -> Machine:
        return Machine(ledger.engine, handle, self.steps(), Silent(), final="final", decided=self.is_decided)

    def _happens(self, what: str) -> None:
        self.done.append(what)
        sleep(self.slow.get(what, 0.0))
        if what in self.fails:
            raise self.fails[what]

    def _step(self, name: str) -> Step:
        def do(detail: Detail, until: float) -> Detail:
            assert detail == {"before": name}
            self._happens(f"do {name}")
            return {"result": name}

        def prepare() -> Detail:
            self._happens(f"prepare {name}")
            return {"before": name}

        def undo(detail: Detail) -> None:
            assert detail["before"] == name
            self._happens(f"undo {name}")

        return Step(
            name,
            self.seconds,
            do,
            prepare=prepare,
            undo=None if name == "after" else undo,
            holds=name in self.holds,
        )


@pytest.fixture
def table() -> Table:
    return Table()


def states(machine: Machine) -> dict[str, str]:
    return {name: record.state.value for name, record in machine.records().items()}


def test_steps_are_done_in_order_and_recorded(table: Table, ledger: Ledger, handle: RunHandle) -> None:
    machine = table.machine(ledger, handle)
    machine.run()
    assert table.done == [f"{what} {name}" for name in NAMES for what in ("prepare", "do")]
    assert set(states(machine).values()) == {"done"}
    assert machine.records()["two"].detail == {"before": "two", "result": "two"}


def test_a_step_that_fails_undoes_itself_and_those_before_it_newest_first(
    table: Table, ledger: Ledger, handle: RunHandle
) -> None:
    table.fails["do two"] = Refused("no")
    machine = table.machine(ledger, handle)
    with pytest.raises(Undone) as caught:
        machine.run()
    assert isinstance(caught.value.__cause__, Refused)
    assert [what for what in table.done if what.startswith("undo")] == ["undo two", "undo one"]
    assert states(machine) == {"one": "undone", "two": "undone", "final": "pending", "after": "pending"}


def test_a_step_that_cannot_be_prepared_is_not_undone_itself(
    table: Table, ledger: Ledger, handle: RunHandle
) -> None:
    table.fails["prepare two"] = Refused("no")
    with pytest.raises(Undone):
        table.machine(ledger, handle).run()
    assert "undo two" not in table.done
    assert "undo one" in table.done


def test_where_nothing_was_begun_the_failure_is_raised_as_it_is(
    table: Table, ledger: Ledger, handle: RunHandle
) -> None:
    table.fails["prepare one"] = Refused("no")
    with pytest.raises(Refused):
        table.machine(ledger, handle).run()


def test_a_step_beyond_its_budget_is_undone(table: Table, ledger: Ledger, handle: RunHandle) -> None:
    table.seconds, table.slow = 0.1, {"do two": 0.2}
    with pytest.raises(Undone) as caught:
        table.machine(ledger, handle).run()
    assert isinstance(caught.value.__cause__, BudgetExceeded)
    assert table.done[-2:] == ["undo two", "undo one"]


def test_the_final_step_beyond_its_budget_is_done_all_the_same(
    table: Table, ledger: Ledger, handle: RunHandle
) -> None:
    table.seconds, table.slow = 0.1, {"do final": 0.2}
    machine = table.machine(ledger, handle)
    machine.run()
    assert set(states(machine).values()) == {"done"}


def test_behind_the_final_step_nothing_is_undone(table: Table, ledger: Ledger, handle: RunHandle) -> None:
    table.fails["do after"] = ServerUnreachable("source", "x", "gone")
    machine = table.machine(ledger, handle)
    with pytest.raises(ServerUnreachable):
        machine.run()
    assert not [what for what in table.done if what.startswith("undo")]
    assert states(machine) == {"one": "done", "two": "done", "final": "done", "after": "failed"}


@pytest.mark.parametrize("error", [KeyboardInterrupt(), LedgerError("full")])
def test_a_final_step_that_had_its_effect_counts_as_done_whatever_ended_it(
    table: Table, ledger: Ledger, handle: RunHandle, error: BaseException
) -> None:
    table.fails["do final"], table.decided = error, True
    machine = table.machine(ledger, handle)
    with pytest.raises(type(error)):
        machine.run()
    assert not [what for what in table.done if what.startswith("undo")]
    assert states(machine)["final"] == "done"


def test_where_nobody_knows_whether_the_final_step_had_its_effect_nothing_is_undone(
    table: Table, ledger: Ledger, handle: RunHandle
) -> None:
    table.fails = {"do final": EnvironmentFailed("lost"), "decided": EnvironmentFailed("unreadable")}
    with pytest.raises(UndoFailed):
        table.machine(ledger, handle).run()
    assert not [what for what in table.done if what.startswith("undo")]


def test_what_cannot_be_undone_does_not_keep_the_rest_from_it(
    table: Table, ledger: Ledger, handle: RunHandle
) -> None:
    table.fails = {"do final": Refused("no"), "undo two": ServerUnreachable("source", "x", "gone")}
    machine = table.machine(ledger, handle)
    with pytest.raises(UndoFailed):
        machine.run()
    assert states(machine) == {"one": "undone", "two": "done", "final": "undone", "after": "pending"}


def test_a_step_that_holds_keeps_those_before_it_from_being_undone(
    table: Table, ledger: Ledger, handle: RunHandle
) -> None:
    table.holds = {"two"}
    table.fails = {"do final": Refused("no"), "undo two": ServerUnreachable("source", "x", "gone")}
    machine = table.machine(ledger, handle)
    with pytest.raises(UndoFailed):
        machine.run()
    assert "undo one" not in table.done
    table.fails.clear()
    machine.undo()
    assert table.done[-2:] == ["undo two", "undo one"]


def test_undoing_again_repeats_only_what_was_not_undone(
    table: Table, ledger: Ledger, handle: RunHandle
) -> None:
    table.fails = {"do final": Refused("no"), "undo two": ServerUnreachable("source", "x", "gone")}
    machine = table.machine(ledger, handle)
    with pytest.raises(UndoFailed):
        machine.run()
    table.fails.clear()
    table.done.clear()
    machine.undo()
    assert table.done == ["undo two"]


def test_another_process_goes_on_behind_the_last_step_that_is_done(
    table: Table, ledger: Ledger, handle: RunHandle
) -> None:
    """What was begun is done again, with what was prepared then."""
    book = StepBook(ledger.engine, handle.id, handle.owner)
    book.plan([(name, 5.0) for name in NAMES])
    for name in NAMES[:2]:
        book.begin(name, {"before": name})
    book.end("one", StepState.DONE, {})
    handle.let_go()
    machine = table.machine(ledger, ledger.take_over(handle.id, 30.0))
    machine.run()
    assert table.done == ["do two", "prepare final", "do final", "prepare after", "do after"]
    assert machine.records()["two"].attempts == 2


def test_a_process_that_lost_its_run_takes_its_step_in_hand_back_once_more(
    table: Table, ledger: Ledger, handle: RunHandle, settings: Settings
) -> None:
    """It stood still in the middle of it, and what it did came after the other one's undoing."""
    others = Table()

    def take_over_and_undo() -> None:
        handle.let_go()
        taken = ledger.take_over(handle.id, 30.0)
        others.machine(ledger, taken).undo()
        taken.finish(RunState.FAILED, verdict=None, reason=None)

    step = table.steps()[1]

    def do(detail: Detail, until: float) -> Detail:
        take_over_and_undo()
        table.done.append("do two, too late")
        return {}

    late = Step("two", 5.0, do, prepare=step.prepare, undo=step.undo)
    steps = [table.steps()[0], late, *table.steps()[2:]]
    machine = Machine(ledger.engine, handle, steps, Silent(), final="final")
    with pytest.raises(RunTakenOver):
        machine.run()
    assert others.done == ["undo two", "undo one"]
    assert table.done[-2:] == ["do two, too late", "undo two"]


def test_it_takes_nothing_back_where_a_newer_operation_has_begun(
    table: Table, ledger: Ledger, handle: RunHandle, settings: Settings
) -> None:
    def do(detail: Detail, until: float) -> Detail:
        handle.let_go()
        taken = ledger.take_over(handle.id, 30.0)
        Table().machine(ledger, taken).undo()
        taken.finish(RunState.FAILED, verdict=None, reason=None)
        ledger.start_run(RunKind.CUTOVER, settings, parent_id=ledger.find_run(handle.id).parent_id)
        return {}

    step = table.steps()[0]
    steps = [Step("one", 5.0, do, prepare=step.prepare, undo=step.undo), *table.steps()[1:]]
    with pytest.raises(RunTakenOver):
        Machine(ledger.engine, handle, steps, Silent(), final="final").run()
    assert "undo one" not in table.done


def test_a_process_that_lost_its_run_does_not_end_it(ledger: Ledger, handle: RunHandle) -> None:
    handle.let_go()
    taken = ledger.take_over(handle.id, 30.0)
    handle.finish(RunState.FAILED, verdict=None, reason="lost")
    assert ledger.find_run(handle.id).state is RunState.RUNNING
    StepBook(ledger.engine, taken.id, taken.owner).require_owned()


def test_a_lease_is_renewed_while_a_step_takes_its_time(ledger: Ledger, handle: RunHandle) -> None:
    before = ledger.find_run(handle.id).lease_until
    with Keeper(ledger.engine, handle, 2.0):
        sleep(1.2)
    assert ledger.find_run(handle.id).lease_until > before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_undoing_is_not_interrupted(
    table: Table, ledger: Ledger, handle: RunHandle, number: signal.Signals
) -> None:
    table.fails["do final"] = Refused("no")
    table.slow["undo final"] = 0.4
    sender = Timer(0.2, os.kill, (os.getpid(), number))
    sender.start()
    with pytest.raises(Undone):
        table.machine(ledger, handle).run()
    sender.join()
    assert table.done[-3:] == ["undo final", "undo two", "undo one"]


def test_signals_have_their_handlers_again_when_undoing_has_ended() -> None:
    before = signal.getsignal(signal.SIGINT)
    with undisturbed():
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before
