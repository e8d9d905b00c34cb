"""What the ledger holds of a live move: the board of a sync, the steps of a cutover, approvals, samples, children."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import monotonic, sleep

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sqlalchemy import update

from integrity.errors import ConfigurationError, Refused, RunTakenOver
from integrity.ledger import Ledger, RunHandle, open_ledger
from integrity.ledger.approvals import (
    ApprovalRecord,
    Standing,
    read_decisions,
    standing,
)
from integrity.ledger.database import writing
from integrity.ledger.models import Run, RunKind, RunState, Verdict
from integrity.ledger.operations import abandoned_operation, is_alive, operations, under_way
from integrity.ledger.samples import SampleRecord, add_sample, add_samples, read_samples
from integrity.ledger.steps import StepBook, StepRecord, read_steps
from integrity.ledger.sync_board import (
    STANDING,
    Question,
    RunOwner,
    SyncBoard,
    SyncStatus,
    read_status,
)
from integrity.ledger.vocabulary import Ask, Decision, Direction, StepState, SyncState
from integrity.settings import Settings, load_settings
from tests.ledger import place, record_decision

FORWARD = SyncStatus(Direction.FORWARD, SyncState.FOLLOWING, "tracking")


@pytest.fixture
def settings(tmp_path: Path, ledger_url: str | None) -> Settings:
    return load_settings(place(tmp_path / "state", ledger_url), environ={}).settings


@pytest.fixture
def ledger(settings: Settings) -> Iterator[Ledger]:
    opened = open_ledger(settings)
    yield opened
    opened.close()


@pytest.fixture
def sync(ledger: Ledger, settings: Settings) -> RunHandle:
    return ledger.start_run(RunKind.SYNC, settings)


@pytest.fixture
def cutover(ledger: Ledger, settings: Settings, sync: RunHandle) -> RunHandle:
    return ledger.start_run(RunKind.CUTOVER, settings, parent_id=sync.id)


def soon(seconds: float = 60.0) -> datetime:
    return datetime.now(UTC) + timedelta(seconds=seconds)


def kinds_of_events(ledger: Ledger, run_id: str) -> list[str]:
    return [event.kind for event in ledger.events(run_id)]


# -- the board ---------------------------------------------------------------------------------------------------------


def test_a_board_that_nobody_has_published_on_takes_no_question(ledger: Ledger, sync: RunHandle) -> None:
    with SyncBoard(ledger.engine, sync.id) as board:
        assert (board.status(), board.question()) == (None, None)
        with pytest.raises(ConfigurationError):
            board.ask(Ask.DRAIN, soon())


def test_what_is_published_is_what_others_read(ledger: Ledger, sync: RunHandle) -> None:
    clean = datetime(2026, 11, 26, 1, 2, 3, 456_000, UTC)
    told = SyncStatus(
        *(Direction.BACKWARD, SyncState.COMPARING, "monitor", 5_000_000_000, 7, 3, 1250, 4096),
        gap="blue restarted",
        clean_since=clean,
        carried=12,
        removed=4,
    )
    before = datetime.now(UTC)

    with SyncBoard(ledger.engine, sync.id) as board:
        board.publish(FORWARD)
        board.publish(told)

    read = read_status(ledger.engine, sync.id)
    assert read is not None
    assert read.updated_at is not None
    assert before <= read.updated_at <= datetime.now(UTC)
    assert read.to_dict() | {"updated_at": None} == told.to_dict()


def test_a_question_is_answered_under_its_number(ledger: Ledger, sync: RunHandle) -> None:
    until = soon()
    with SyncBoard(ledger.engine, sync.id) as theirs, SyncBoard(ledger.engine, sync.id) as ours:
        theirs.publish(FORWARD)
        number = ours.ask(Ask.DRAIN, until)
        question = theirs.question()
        assert question == Question(number, Ask.DRAIN, until)
        assert ours.answer_to(number) is None

        theirs.answer(question, {"ok": True, "carried": 3})

        assert ours.answer_to(number) == {"ok": True, "carried": 3}
        assert theirs.question() is None
    assert kinds_of_events(ledger, sync.id)[-2:] == ["sync.asked", "sync.answered"]


def test_publishing_takes_away_neither_question_nor_answer(ledger: Ledger, sync: RunHandle) -> None:
    with SyncBoard(ledger.engine, sync.id) as theirs, SyncBoard(ledger.engine, sync.id) as ours:
        theirs.publish(FORWARD)
        number = ours.ask(Ask.STOP, soon())
        theirs.publish(FORWARD)
        question = theirs.question()
        assert question is not None
        theirs.answer(question, {"ok": True})
        theirs.publish(FORWARD)

        assert ours.answer_to(number) == {"ok": True}


def test_a_late_answer_is_not_taken_for_the_answer_to_what_was_asked_since(
    ledger: Ledger, sync: RunHandle
) -> None:
    with SyncBoard(ledger.engine, sync.id) as theirs, SyncBoard(ledger.engine, sync.id) as ours:
        theirs.publish(FORWARD)
        first = ours.ask(Ask.DRAIN, soon())
        late = theirs.question()
        assert late is not None
        second = ours.ask(Ask.FORWARD, soon())

        theirs.answer(late, {"ok": True, "late": True})

        assert ours.answer_to(second) is None
        waiting = theirs.question()
        assert waiting is not None
        assert (waiting.number, waiting.ask) == (second, Ask.FORWARD)
        theirs.answer(waiting, {"ok": True, "late": False})
        theirs.answer(late, {"ok": True, "late": True})
        assert ours.answer_to(second) == {"ok": True, "late": False}
        assert ours.answer_to(first) is None
        assert theirs.question() is None


def test_every_process_that_asks_gets_a_number_of_its_own(ledger: Ledger, sync: RunHandle) -> None:
    with SyncBoard(ledger.engine, sync.id) as theirs:
        theirs.publish(FORWARD)
        numbers = []
        for _ in range(3):
            with SyncBoard(ledger.engine, sync.id) as ours:
                numbers.append(ours.ask(Ask.DRAIN, soon()))
    assert len(set(numbers)) == 3


@pytest.mark.parametrize("ask", sorted(STANDING))
def test_what_stands_is_done_before_anything_else_is_asked(ledger: Ledger, sync: RunHandle, ask: Ask) -> None:
    with SyncBoard(ledger.engine, sync.id) as theirs, SyncBoard(ledger.engine, sync.id) as ours:
        theirs.publish(FORWARD)
        number = ours.ask(ask, soon(1))
        question = theirs.question()
        assert question is not None
        assert (question.ask, question.until > soon(3600)) == (ask, True)
        ours.void()
        with pytest.raises(Refused):
            ours.ask(Ask.DRAIN, soon())
        assert theirs.question() == question

        theirs.answer(question, {"ok": True})

        assert ours.answer_to(number) == {"ok": True}
        assert ours.ask(Ask.DRAIN, soon()) == number + 1


def test_what_a_dead_process_asked_can_be_voided(ledger: Ledger, sync: RunHandle) -> None:
    with SyncBoard(ledger.engine, sync.id) as theirs, SyncBoard(ledger.engine, sync.id) as ours:
        theirs.publish(FORWARD)
        number = ours.ask(Ask.BACKWARD, soon())

        ours.void()

        answer = ours.answer_to(number)
        assert answer is not None
        assert answer["ok"] is False
        assert theirs.question() is None


def test_only_the_owner_of_a_run_may_ask_for_it(ledger: Ledger, sync: RunHandle, cutover: RunHandle) -> None:
    with SyncBoard(ledger.engine, sync.id) as board:
        board.publish(FORWARD)
        mine = RunOwner(cutover.id, cutover.owner)
        number = board.ask(Ask.DRAIN, soon(), owner=mine)
        cutover.let_go()
        ledger.take_over(cutover.id, 30.0)

        with pytest.raises(RunTakenOver):
            board.ask(Ask.BACKWARD, soon(), owner=mine)

        question = board.question()
        assert question is not None
        assert (question.number, question.ask) == (number, Ask.DRAIN)


def follow(state_dir: Path, ledger_url: str | None, run_id: str) -> None:
    """A sync process: publishes without a break, and answers each question with its number, until told to stop."""
    ledger = open_ledger(load_settings(place(state_dir, ledger_url), environ={}).settings)
    with closing(ledger), SyncBoard(ledger.engine, run_id) as board:
        for turn in range(1_000_000):
            board.publish(SyncStatus(Direction.FORWARD, SyncState.FOLLOWING, "tracking", dirty=turn))
            question = board.question()
            if question is None:
                continue
            board.answer(question, {"ok": True, "number": question.number, "ask": question.ask.value})
            if question.ask is Ask.STOP:
                return


def test_no_question_is_lost_between_two_processes(
    ledger: Ledger, settings: Settings, sync: RunHandle, ledger_url: str | None
) -> None:
    arguments = (settings.state_dir, ledger_url, sync.id)
    process = multiprocessing.get_context("spawn").Process(target=follow, args=arguments)
    process.start()
    try:
        until = monotonic() + 60
        while read_status(ledger.engine, sync.id) is None:
            assert monotonic() < until
            sleep(0.02)
        with SyncBoard(ledger.engine, sync.id) as board:
            for ask in [*[Ask.DRAIN, Ask.PROVE, Ask.BACKWARD, Ask.FORWARD] * 10, Ask.STOP]:
                number = board.ask(ask, soon())
                while (answer := board.answer_to(number)) is None:
                    assert monotonic() < until, f"{ask} was not answered"
                    sleep(0.001)
                assert answer == {"ok": True, "number": number, "ask": ask.value}
        process.join(timeout=30)
        assert process.exitcode == 0
    finally:
        process.kill()
        process.join()


# -- steps -------------------------------------------------------------------------------------------------------------


def states(ledger: Ledger, run_id: str) -> list[tuple[str, StepState, int]]:
    return [(step.name, step.state, step.attempts) for step in read_steps(ledger.engine, run_id)]


def test_a_step_keeps_what_was_recorded_before_it_began(ledger: Ledger, cutover: RunHandle) -> None:
    book = StepBook(ledger.engine, cutover.id, cutover.owner)
    book.plan([("pause", 5.0), ("drain", 10.5)])

    book.begin("pause", {"plan": {"users": ["default"]}})
    (running, pending) = read_steps(ledger.engine, cutover.id)
    book.end("pause", StepState.DONE, {"users": 1})
    done = read_steps(ledger.engine, cutover.id)[0]

    assert (running.state, running.seconds, running.detail) == (
        StepState.RUNNING,
        None,
        {"plan": {"users": ["default"]}},
    )
    assert pending == StepRecord("drain", StepState.PENDING, 10_500, 0, None, None, {})
    assert (done.state, done.attempts, done.budget_ms) == (StepState.DONE, 1, 5000)
    assert done.detail == {"plan": {"users": ["default"]}, "users": 1}
    assert done.seconds is not None
    assert 0 <= done.seconds < 60
    assert kinds_of_events(ledger, cutover.id)[-2:] == ["step.running", "step.done"]


def test_planning_again_leaves_what_was_done(ledger: Ledger, cutover: RunHandle) -> None:
    book = StepBook(ledger.engine, cutover.id, cutover.owner)
    book.plan([("pause", 5.0), ("drain", 10.0)])
    book.begin("pause", {})
    book.end("pause", StepState.DONE, {})

    book.plan([("pause", 7.0), ("drain", 10.0), ("refuse", 5.0)])

    assert states(ledger, cutover.id) == [
        ("pause", StepState.DONE, 1),
        ("drain", StepState.PENDING, 0),
        ("refuse", StepState.PENDING, 0),
    ]
    assert read_steps(ledger.engine, cutover.id)[0].budget_ms == 5000


def test_a_step_that_is_done_again_counts_its_attempts(ledger: Ledger, cutover: RunHandle) -> None:
    book = StepBook(ledger.engine, cutover.id, cutover.owner)
    book.plan([("switch", 30.0)])
    book.begin("switch", {"before": "blue"})
    book.begin("switch", {"before": "blue"})

    step = read_steps(ledger.engine, cutover.id)[0]

    assert (step.attempts, step.state, step.ended_at) == (2, StepState.RUNNING, None)


@pytest.mark.parametrize("ended", [False, True], ids=["taken over", "ended"])
def test_a_process_that_lost_its_run_records_no_step(
    ledger: Ledger, cutover: RunHandle, *, ended: bool
) -> None:
    book = StepBook(ledger.engine, cutover.id, cutover.owner)
    book.plan([("pause", 5.0), ("drain", 10.0)])
    book.begin("pause", {})
    if ended:
        cutover.finish(RunState.FAILED, verdict=Verdict.INCONCLUSIVE, reason="undone")
    else:
        cutover.let_go()
        ledger.take_over(cutover.id, 30.0)
    before, events = states(ledger, cutover.id), kinds_of_events(ledger, cutover.id)

    with pytest.raises(RunTakenOver):
        book.end("pause", StepState.DONE, {})
    with pytest.raises(RunTakenOver):
        book.begin("drain", {})
    with pytest.raises(RunTakenOver):
        book.plan([("refuse", 5.0)])

    assert (
        states(ledger, cutover.id)
        == before
        == [
            ("pause", StepState.RUNNING, 1),
            ("drain", StepState.PENDING, 0),
        ]
    )
    assert kinds_of_events(ledger, cutover.id) == events


def test_the_process_that_took_over_goes_on_with_the_same_steps(ledger: Ledger, cutover: RunHandle) -> None:
    StepBook(ledger.engine, cutover.id, cutover.owner).plan([("pause", 5.0)])
    cutover.let_go()
    new = ledger.take_over(cutover.id, 30.0)

    StepBook(ledger.engine, new.id, new.owner).begin("pause", {})

    assert states(ledger, cutover.id) == [("pause", StepState.RUNNING, 1)]


# -- approvals ---------------------------------------------------------------------------------------------------------

unhurried = hypothesis_settings(deadline=None)
PEOPLE = ("ada", "grace", "edsger")
AT = datetime(2026, 11, 26, tzinfo=UTC)
decisions = st.lists(
    st.builds(
        ApprovalRecord,
        gate=st.just("cutover"),
        decision=st.sampled_from(Decision),
        by=st.sampled_from(PEOPLE),
        at=st.just(AT),
        comment=st.just(""),
    ),
    max_size=12,
)


def plainly(made: Sequence[ApprovalRecord], *, separate: bool, requester: str | None = None) -> Standing:
    """Where a gate stands, read off the list instead of walked through."""
    no = {Decision.REJECTED, Decision.REPEAT}
    rejections = [place for place, each in enumerate(made) if each.decision in no]
    since = made[rejections[-1] + 1 :] if rejections else made
    approved = [each.by for each in since if each.decision is Decision.APPROVED]
    broken = [each.by for each in since if each.decision is Decision.BREAK_GLASS]
    requesters: set[str | None] = {each.by for each in made if each.decision is Decision.REQUESTED}
    barred = (requesters or {requester}) if separate else set()
    return Standing(
        approvers=tuple(name for name in dict.fromkeys(approved) if name not in barred),
        rejected_by=made[rejections[-1]].by if rejections and not approved else None,
        broken_by=broken[-1] if broken else None,
    )


@given(decisions, st.booleans(), st.sampled_from((None, *PEOPLE)))
@unhurried
def test_a_gate_stands_where_its_decisions_put_it(
    made: list[ApprovalRecord], separate: bool, requester: str | None
) -> None:
    stands = standing(made, separate=separate, requester=requester)
    assert stands == plainly(made, separate=separate, requester=requester)


@given(decisions, st.sampled_from(PEOPLE))
@unhurried
def test_whoever_passes_a_gate_that_nobody_requested_is_no_approver(
    made: list[ApprovalRecord], name: str
) -> None:
    unasked = [each for each in made if each.decision is not Decision.REQUESTED]
    assert name not in standing(unasked, separate=True, requester=name).approvers


@given(decisions, st.booleans())
@unhurried
def test_a_rejection_leaves_nothing_of_what_was_said_before(
    made: list[ApprovalRecord], separate: bool
) -> None:
    rejected = ApprovalRecord("cutover", Decision.REJECTED, "ada", AT, "")
    assert standing([*made, rejected], separate=separate) == Standing((), "ada", None)


@given(decisions)
@unhurried
def test_whoever_requested_is_no_approver_where_that_is_separate(made: list[ApprovalRecord]) -> None:
    requesters = {each.by for each in made if each.decision is Decision.REQUESTED}
    assert requesters.isdisjoint(standing(made, separate=True).approvers)


def test_decisions_are_kept_in_their_order_by_run_and_gate(
    ledger: Ledger, sync: RunHandle, cutover: RunHandle
) -> None:
    record_decision(ledger.engine, sync.id, "cutover", Decision.REQUESTED, "ada", "tonight")
    record_decision(ledger.engine, sync.id, "another", Decision.REJECTED, "edsger")
    record_decision(ledger.engine, cutover.id, "cutover", Decision.REJECTED, "edsger")
    record_decision(ledger.engine, sync.id, "cutover", Decision.APPROVED, "grace")

    found = read_decisions(ledger.engine, sync.id, "cutover")

    assert [(each.decision, each.by, each.comment) for each in found] == [
        (Decision.REQUESTED, "ada", "tonight"),
        (Decision.APPROVED, "grace", ""),
    ]
    assert found[0].at <= found[1].at
    assert len(read_decisions(ledger.engine, sync.id)) == 3
    assert [event.actor for event in ledger.events(sync.id) if event.kind == "approval.approved"] == ["grace"]
    assert ledger.chain_state().broken_at is None


# -- samples -----------------------------------------------------------------------------------------------------------


def test_samples_come_back_as_they_were_measured(ledger: Ledger, sync: RunHandle, cutover: RunHandle) -> None:
    at = datetime(2026, 11, 26, 1, 2, 3, 456_789, UTC)
    measured = [
        SampleRecord("client", at + timedelta(milliseconds=number), {"at_ms": number, "error": None})
        for number in range(5)
    ]
    add_samples(ledger.engine, cutover.id, measured)
    add_samples(ledger.engine, cutover.id, [])
    add_sample(ledger.engine, cutover.id, "blue", {"ops_per_second": 1.5})
    add_sample(ledger.engine, sync.id, "sync", {"dirty": 7})

    assert read_samples(ledger.engine, cutover.id, "client") == measured
    assert [sample.side for sample in read_samples(ledger.engine, cutover.id)] == ["client"] * 5 + ["blue"]
    (lag,) = read_samples(ledger.engine, sync.id)
    assert (lag.side, lag.numbers, lag.at.utcoffset()) == ("sync", {"dirty": 7}, timedelta(0))


def test_a_process_that_lost_its_run_does_not_end_it(ledger: Ledger, cutover: RunHandle) -> None:
    cutover.let_go()
    new = ledger.take_over(cutover.id, 30.0)

    cutover.finish(RunState.FAILED, verdict=Verdict.INCONCLUSIVE, reason="I was first")

    assert ledger.find_run(cutover.id).state is RunState.RUNNING
    new.finish(RunState.FINISHED, verdict=Verdict.PASS, reason="gone on with")
    assert ledger.find_run(cutover.id).reason == "gone on with"


# -- what rests on a sync ----------------------------------------------------------------------------------------------


def test_only_cutovers_and_rollbacks_are_operations(
    ledger: Ledger, settings: Settings, sync: RunHandle, cutover: RunHandle
) -> None:
    rollback, watch, repair, other = (
        ledger.start_run(kind, settings, parent_id=parent)
        for kind, parent in (
            (RunKind.ROLLBACK, sync.id),
            (RunKind.WATCH, sync.id),
            (RunKind.REPAIR, sync.id),
            (RunKind.CUTOVER, "20260101-000000-abcdef"),
        )
    )

    assert {run.id for run in operations(ledger, sync.id)} == {cutover.id, rollback.id}
    assert {run.id for run in ledger.child_runs(sync.id)} == {cutover.id, rollback.id, watch.id, repair.id}
    assert [run.id for run in ledger.child_runs("20260101-000000-abcdef")] == [other.id]


@pytest.mark.parametrize(("kind", "word"), [(RunKind.REPAIR, "repairs"), (RunKind.CUTOVER, "parent")])
def test_the_first_event_of_a_run_tells_what_it_rests_on(
    ledger: Ledger, settings: Settings, sync: RunHandle, kind: RunKind, word: str
) -> None:
    run = ledger.start_run(kind, settings, parent_id=sync.id)

    assert f'"{word}":"{sync.id}"' in ledger.events(run.id)[0].payload.replace(" ", "")


def test_an_operation_is_abandoned_when_its_lease_has_run_out(
    ledger: Ledger, sync: RunHandle, cutover: RunHandle
) -> None:
    run = under_way(ledger, sync.id)
    assert run is not None
    assert (run.id, is_alive(run), abandoned_operation(ledger, sync.id)) == (cutover.id, True, None)

    with writing(ledger.engine) as connection:
        connection.execute(update(Run).where(Run.id == cutover.id).values(lease_until=soon(-1)))

    dead = abandoned_operation(ledger, sync.id)
    assert dead is not None
    assert (dead.id, is_alive(dead)) == (cutover.id, False)
    cutover.finish(RunState.FAILED, verdict=None, reason="undone")
    assert (under_way(ledger, sync.id), abandoned_operation(ledger, sync.id)) == (None, None)
