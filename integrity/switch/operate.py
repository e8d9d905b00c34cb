"""Starting, taking over and recording cutovers and rollbacks: what the command line, the guard and the sync call.

One operation at a time rests on a sync run.  Whoever starts a second one while the first lives is told so; where the
first one's process is gone, it is taken over and ended before anything new begins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from integrity.afterwards import UNKNOWN, seen_now
from integrity.errors import GreenflyError, LedgerError, Refused, RunTakenOver, Undone, Unfinished
from integrity.ledger import Ledger, RunHandle, models
from integrity.ledger.models import PhaseName, RunKind, RunState, Verdict
from integrity.ledger.operations import abandoned_operation, is_alive, operations, under_way
from integrity.ledger.steps import StepBook, read_steps
from integrity.ledger.sync_board import SyncBoard, SyncStatus
from integrity.ledger.vocabulary import Ask, StepState
from integrity.migration import Run
from integrity.phases.sync import SyncPhase
from integrity.progress import Progress
from integrity.settings import Settings
from integrity.switch.asker import Asker, BoardAsker, NotDone, checked
from integrity.switch.conductor import NotConfirmed, find_sync_run
from integrity.switch.cutover import Cutover
from integrity.switch.fence_keeper import keep_fences
from integrity.switch.machine import Keeper, Recorder, nobody
from integrity.switch.rollback import Rollback
from integrity.switch.sides import Sides
from integrity.verify.verdict import Conclusion

_LOOK_SECONDS = 2.0
"""How long a server may take to say who it is, before and after; it may be the dead one that all this is about."""
OPERATION_LEASE_SECONDS = 3.0
"""How long the sync process waits before it takes a silent operation over; also bounds how long nobody can write."""


@dataclass(frozen=True, slots=True)
class Operated:
    """What an operation came to."""

    run_id: str
    sync_run_id: str
    kind: RunKind
    conclusion: Conclusion


def cut_over(
    settings: Settings,
    ledger: Ledger,
    wanted: str,
    progress: Progress,
    *,
    recorder: Recorder = nobody,
    on_started: Callable[[str], None] = lambda run_id: None,
) -> Operated:
    """Cut over.

    :param wanted: the sync run, or ``latest``.
    :param on_started: told the id of the cutover's run.
    :raises GatesClosed: a gate did not pass; nothing was done.
    :raises Undone: it did not go through, and everything was undone.
    :raises Refused: another operation is under way.
    """
    sync_run = find_sync_run(ledger, wanted)
    with SyncBoard(ledger.engine, sync_run.id) as board:
        asker = BoardAsker(board)
        ended = _end_what_is_under_way(settings, ledger, sync_run, asker, progress)
        if ended is not None and ended.kind is RunKind.CUTOVER:
            on_started(ended.run_id)
            return ended
        run = Run.start(_short(settings), ledger, RunKind.CUTOVER, progress, parent=sync_run)
        on_started(run.id)
        asker.speak_for(run.handle)
        with _operation(run, sync_run, ledger, look=("source", "target")) as recorded:
            _require_alone(ledger, run, sync_run)
            cutover = Cutover(settings, ledger, run.handle, sync_run, asker, progress, recorder=recorder)
            try:
                recorded.conclusion = cutover.run()
            except NotConfirmed as error:
                unconfirmed = error
            else:
                return Operated(run.id, sync_run.id, run.kind, recorded.conclusion)
            recorded.conclusion = Conclusion(Verdict.INCONCLUSIVE, f"{unconfirmed.problem} Rolled back.")
        progress.say(f"{unconfirmed.problem} Rolling back.")
        back = roll_back(settings, ledger, sync_run.id, progress, abandon=False, reason=unconfirmed.problem)
        raise NotConfirmed(
            f"{unconfirmed.problem} It was rolled back by run {back.run_id}.", unconfirmed.remedy
        )


def roll_back(
    settings: Settings,
    ledger: Ledger,
    wanted: str,
    progress: Progress,
    *,
    abandon: bool,
    reason: str,
    recorder: Recorder = nobody,
    on_started: Callable[[str], None] = lambda run_id: None,
) -> Operated:
    """Roll back.

    :param wanted: the sync run, its cutover, or ``latest``.
    :param abandon: green is dead or given up: switch at once, and record what is at risk.
    :raises Undone: it did not go through, and green serves as before.
    :raises Refused: there is nothing to go back from, or another operation is under way.
    """
    sync_run = find_sync_run(ledger, wanted)
    with SyncBoard(ledger.engine, sync_run.id) as board:
        asker = BoardAsker(board)
        ended = _end_what_is_under_way(settings, ledger, sync_run, asker, progress)
        if ended is not None and ended.kind is RunKind.ROLLBACK:
            on_started(ended.run_id)
            return ended
        run = Run.start(_short(settings), ledger, RunKind.ROLLBACK, progress, parent=sync_run)
        on_started(run.id)
        asker.speak_for(run.handle)
        # A green that is given up is not waited for.
        look = ("source",) if abandon else ("source", "target")
        with _operation(run, sync_run, ledger, look=look) as recorded:
            _require_alone(ledger, run, sync_run)
            rollback = Rollback(
                settings,
                ledger,
                run.handle,
                sync_run,
                asker,
                progress,
                abandon=abandon,
                reason=reason,
                recorder=recorder,
            )
            run.handle.event("rollback.requested", {"reason": reason, "abandon": abandon})
            recorded.conclusion = rollback.run()
            return Operated(run.id, sync_run.id, run.kind, recorded.conclusion)


def take_over(
    settings: Settings,
    ledger: Ledger,
    dead: models.Run,
    sync_run: models.Run,
    asker: Asker,
    progress: Progress,
    *,
    recorder: Recorder = nobody,
) -> Operated:
    """End an operation whose process is gone: go on with it, or undo it.

    :raises Undone: it was undone.
    :raises Refused: its process lives after all.
    """
    handle = ledger.take_over(dead.id, OPERATION_LEASE_SECONDS)
    progress.say(f"Taking over {dead.kind.value} {dead.id}, whose process is gone.")
    asker.speak_for(handle)
    with SyncBoard(ledger.engine, sync_run.id) as board:
        # What it asked last must not be done after this one has undone it.
        board.void()
    run = Run(_short(settings), ledger, handle, dead.kind, progress, resumed=dead)
    with _operation(run, sync_run, ledger) as recorded, _left_open_where_it_fails(ledger, dead.id):
        if dead.kind is RunKind.CUTOVER:
            cutover = Cutover(settings, ledger, handle, sync_run, asker, progress, recorder=recorder)
            recorded.conclusion = cutover.take_over()
        else:
            steps = {step.name for step in read_steps(ledger.engine, dead.id)}
            rollback = Rollback(
                settings,
                ledger,
                handle,
                sync_run,
                asker,
                progress,
                abandon="at-risk" in steps,
                reason="taken over",
                recorder=recorder,
            )
            recorded.conclusion = rollback.take_over()
    return Operated(run.id, sync_run.id, run.kind, recorded.conclusion)


@contextmanager
def _left_open_where_it_fails(ledger: Ledger, run_id: str) -> Iterator[None]:
    """A run under which a fence may stand must not end: nobody would look for it any more.

    :raises Unfinished: it could not be taken over, and stays open.
    """
    try:
        yield
    except (LedgerError, Undone, Unfinished):
        raise
    except GreenflyError as error:
        steps = {step.name: step for step in read_steps(ledger.engine, run_id)}
        fence = steps.get("pause")
        switch = steps.get("switch")
        stands = fence is not None and fence.attempts and fence.state is not StepState.UNDONE
        if not stands or (switch is not None and switch.state is StepState.DONE):
            raise
        raise Unfinished(
            f"Run {run_id} could be neither ended nor undone: {error.problem}",
            error.remedy or "Mend the cause; the sync process, or the same command once more, tries again.",
        ) from error


class _Direct:
    """Asks the sync process from within."""

    def __init__(self, phase: SyncPhase) -> None:
        self._phase = phase
        self._book: StepBook | None = None

    def speak_for(self, handle: RunHandle) -> None:
        self._book = StepBook(handle.engine, handle.id, handle.owner)

    def ask(self, ask: Ask, seconds: float) -> Mapping[str, object]:
        if self._book is not None:
            self._book.require_owned()
        try:
            answer = self._phase.do(ask, seconds)
        except GreenflyError as error:
            raise NotDone(str(error)) from error
        return checked(ask, answer)

    def wait(self, seconds: float) -> None:
        self._phase.wait(seconds)

    def status(self) -> SyncStatus | None:
        return self._phase.status()


def stand_by(
    settings: Settings, ledger: Ledger, sync_run_id: str, phase: SyncPhase, progress: Progress
) -> None:
    """For the sync process: end an operation whose process is gone, so that nobody waits for a person."""
    dead = abandoned_operation(ledger, sync_run_id)
    if dead is None:
        keep_fences(settings, ledger, sync_run_id, phase, _Direct(phase), progress)
        return
    try:
        take_over(settings, ledger, dead, ledger.find_run(sync_run_id), _Direct(phase), progress)
    except RunTakenOver as error:
        progress.say(f"{error}")  # The operation's run; this process keeps its own.
    except LedgerError:
        raise
    except GreenflyError as error:
        # Recorded with the operation's own run; this one goes on following.
        progress.say(f"{error}")
        if isinstance(error, Unfinished):
            phase.stand_by_later()
    else:
        phase.stand_by_later(again=False)


def _end_what_is_under_way(
    settings: Settings, ledger: Ledger, sync_run: models.Run, asker: Asker, progress: Progress
) -> Operated | None:
    """What it came to where it was gone on with; None where it was undone, or there was nothing.

    :raises Refused: its process lives.
    :raises Unfinished: it could be neither ended nor undone.
    """
    run = under_way(ledger, sync_run.id)
    if run is None:
        return None
    if is_alive(run):
        raise Refused(
            f"A {run.kind.value} is under way already (run {run.id}, by {run.lease_owner}).",
            f"Follow it with `greenfly runs show {run.id}`.",
        )
    try:
        return take_over(settings, ledger, run, sync_run, asker, progress)
    except (LedgerError, Unfinished):
        raise
    except GreenflyError as error:
        progress.say(f"{error}")
        return None


def _require_alone(ledger: Ledger, run: Run, sync_run: models.Run) -> None:
    """Of two that begin at the same moment, neither had seen the other before it was recorded.

    :raises Refused: another operation is under way.
    """
    for other in operations(ledger, sync_run.id):
        if other.state is RunState.RUNNING and other.id != run.id:
            raise Refused(
                f"A {other.kind.value} was begun at the same time (run {other.id}).",
                f"Follow it with `greenfly runs show {other.id}`.",
            )


def _short(settings: Settings) -> Settings:
    """The lease of an operation is short: while it is silent, nobody may be able to write."""
    return settings.model_copy(update={"lease_seconds": OPERATION_LEASE_SECONDS})


class _Recorded:
    """Where the conclusion of an operation is put."""

    def __init__(self) -> None:
        self.conclusion = Conclusion(Verdict.INCONCLUSIVE, "It did not come to its end.")


@contextmanager
def _operation(
    run: Run, sync_run: models.Run, ledger: Ledger, *, look: Sequence[str] = ()
) -> Iterator[_Recorded]:
    """Record the end of the run, whatever it is, and both servers before and after; keep its lease meanwhile.

    :param look: the roles of the servers that are asked who they are before it begins.  Who takes over does not ask:
        a fence may stand, and nobody can write until it is gone.
    """
    recorded = _Recorded()
    phase = PhaseName.CUTOVER if run.kind is RunKind.CUTOVER else PhaseName.ROLLBACK
    with run.recorded(), Keeper(ledger.engine, run.handle, OPERATION_LEASE_SECONDS):
        seen = _seen(run.settings, look)
        before = {role: facts for role, facts in seen.items() if UNKNOWN not in facts}
        run.handle.identify(
            source=before.get("source") or sync_run.source,
            target=before.get("target") or sync_run.target,
            source_address=sync_run.source_address,
            target_address=sync_run.target_address,
        )
        with run.phase(phase) as detail:
            detail["sync_run"] = sync_run.id
            try:
                yield recorded
            except (LedgerError, Unfinished):
                raise
            except GreenflyError:
                detail["afterwards"] = _seen(run.settings)
                raise
            detail["afterwards"] = _seen(run.settings)
        run.conclude(recorded.conclusion)


def _seen(settings: Settings, roles: Sequence[str] = ("source", "target")) -> dict[str, dict[str, object]]:
    """The servers as they are now, or why they do not say."""
    try:
        sides = Sides.of(settings)
    except GreenflyError:
        return {}  # The operation says so itself.
    chosen = [endpoint for endpoint in (sides.blue, sides.green) if endpoint.role in roles]
    return seen_now(chosen, patience=_LOOK_SECONDS)
