"""What stands first in the report of a live run: what it came to, what contradicts that, what must be known with it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from typing import Final

from integrity.ledger.models import Run, RunKind, RunState, Verdict
from integrity.ledger.vocabulary import Decision, StepState
from reports import facts
from reports.display import counted, duration, ended, moment
from reports.following import FollowingView
from reports.guarding import ACTION, GuardView
from reports.live import LiveView, OperationView
from reports.live_text import moment_text
from reports.model import Tone, VerdictView
from reports.outcome import Outcome

_TONES: Final[dict[Outcome, Tone]] = {
    Outcome.FINISHED: "pass",
    Outcome.ABANDONED: "inconclusive",
    Outcome.UNCONFIRMED: "inconclusive",
    Outcome.UNDONE: "undone",
    Outcome.REFUSED: "none",
    Outcome.RUNNING: "none",
    Outcome.BROKEN_OFF: "fail",
    Outcome.INTERRUPTED: "fail",
    Outcome.FAILED: "fail",
}
_OF_VERDICT: Final[dict[Verdict | None, Tone]] = {
    Verdict.PASS_WITH_EXCEPTIONS: "exceptions",
    Verdict.INCONCLUSIVE: "inconclusive",
    Verdict.FAIL: "fail",
}
_CUTOVER: Final[dict[Outcome, tuple[str, str]]] = {
    Outcome.FINISHED: (
        "CUT OVER",
        "The operation finished: the applications were moved from blue to green.",
    ),
    Outcome.UNDONE: (
        "UNDONE",
        "A step failed; the steps before it were undone. The applications stay on blue.",
    ),
    Outcome.REFUSED: ("REFUSED", "It was refused before anything was done. The applications stay on blue."),
}
_ROLLBACK: Final[dict[Outcome, tuple[str, str]]] = {
    Outcome.FINISHED: ("ROLLED BACK", "The operation finished: the applications were moved back to blue."),
    Outcome.ABANDONED: (
        "ROLLED BACK, GREEN ABANDONED",
        "The applications were moved back to blue without green. What had not reached blue is at risk.",
    ),
    Outcome.UNDONE: (
        "UNDONE",
        "A step failed; the steps before it were undone. The applications stay on green.",
    ),
    Outcome.REFUSED: ("REFUSED", "It was refused before anything was done. The applications stay on green."),
}
_EITHER: Final[dict[Outcome, tuple[str, str]]] = {
    Outcome.UNCONFIRMED: (
        "NOT CONFIRMED",
        "The environment was switched, but no application was seen to have followed. What was done about it is another "
        "run; see the story.",
    ),
    Outcome.RUNNING: (
        "UNDER WAY",
        "The operation has not ended yet. The steps below are as far as it has come.",
    ),
    Outcome.BROKEN_OFF: (
        "BROKEN OFF",
        "Its process is gone in the middle of the operation. Finish or undo it: until then the record does not tell "
        "which side the applications use.",
    ),
    Outcome.INTERRUPTED: (
        "INTERRUPTED",
        "It was stopped in the middle of the operation. Finish or undo it: until then the record does not tell which "
        "side the applications use.",
    ),
    Outcome.FAILED: (
        "FAILED",
        "It ended with an error, and what was done is not recorded as undone. Look at both servers before anything "
        "else.",
    ),
}


def judge_live(run: Run, live: LiveView, verdict: VerdictView, now: datetime) -> VerdictView:
    """*verdict* as a run of another kind would have it, in the words of this kind.

    :param now: for telling a run that goes on from one whose process is gone.
    """
    if live.operation is not None:
        return _of_operation(run, live, live.operation, verdict)
    if live.guard is not None:
        return _of_guard(run, live.guard, verdict, now)
    return _of_following(run, live.following, verdict, now) if live.following is not None else verdict


# -- cutover and rollback ----------------------------------------------------------------------------------------------


def _of_operation(run: Run, live: LiveView, operation: OperationView, verdict: VerdictView) -> VerdictView:
    outcome = operation.outcome
    words = _CUTOVER if run.kind is RunKind.CUTOVER else _ROLLBACK
    word, meaning = (words | _EITHER)[outcome]
    return replace(
        verdict,
        tone=_OF_VERDICT.get(verdict.verdict, "pass") if outcome is Outcome.FINISHED else _TONES[outcome],
        word=word,
        meaning=meaning,
        contradictions=(*verdict.contradictions, *_operation_contradictions(operation)),
        notes=(*_operation_notes(live, operation, verdict.verdict), *verdict.notes),
    )


def _operation_contradictions(operation: OperationView) -> Iterator[str]:
    outcome, pause = operation.outcome, operation.pause
    if outcome is Outcome.FINISHED:
        for step in operation.steps:
            if step.state is not StepState.DONE:
                yield f"The operation is finished, but the step {step.name} is {step.state.value}."
        if not operation.steps:
            yield "The operation is finished, but no step is recorded."
        if not any(row.decision is Decision.BREAK_GLASS for row in operation.approvals):
            for gate in operation.gates:
                if gate.passed is False:
                    yield f"The operation is finished, but the gate {gate.name} did not let it pass."
    if pause is not None and pause.changes > 1 and outcome in (Outcome.FINISHED, Outcome.ABANDONED):
        yield (
            f"The client's acknowledged writes changed sides {pause.changes} times, not once: both sides may have "
            "taken writes for a while."
        )


def _operation_notes(live: LiveView, operation: OperationView, verdict: Verdict | None) -> Iterator[str]:
    if live.at_risk is not None:
        keys = live.at_risk.keys
        yield (
            f"{counted(keys, 'key')} {'is' if keys == 1 else 'are'} known to be at risk. Writes that green took after "
            "the last moment at which the feed is known to have been complete cannot be named."
        )
    if verdict is not None and operation.outcome in (Outcome.FINISHED, Outcome.ABANDONED):
        yield f"The verdict of this operation is {verdict.value}."
    for row in operation.approvals:
        if row.decision is Decision.BREAK_GLASS:
            yield f"The gate {row.gate} was passed by {row.by} alone, in an emergency, at {moment(row.at)}."
    for step in operation.steps:
        if step.over_budget and step.seconds is not None:
            yield (
                f"The step {step.name} took {duration(step.seconds)}; its budget was "
                f"{duration(step.budget_seconds)}."
            )
        if step.attempts > 1:
            yield (
                f"The step {step.name} was begun {step.attempts} times; its times are those of the last attempt, and "
                "the audit events tell the others."
            )
    pause = operation.pause
    if pause is None:
        yield "No client measured the write pause."
    elif pause.recorded_ms is not None and pause.pause is not None:
        apart = abs(pause.recorded_ms - pause.pause.length_ms)
        if apart > max(100.0, 0.25 * pause.pause.length_ms):
            yield (
                f"The recorded write pause is {pause.recorded_ms:,.0f} ms; the client's recorded writes show "
                f"{pause.pause.length_ms:,.0f} ms."
            )


# -- sync --------------------------------------------------------------------------------------------------------------


def _of_following(run: Run, following: FollowingView, verdict: VerdictView, now: datetime) -> VerdictView:
    gap = following.unseen
    contradictions = list(verdict.contradictions)
    if run.verdict in (Verdict.PASS, Verdict.PASS_WITH_EXCEPTIONS):
        if gap is not None:
            contradictions.append(
                f"The verdict is {run.verdict.value}, but changes may have gone unseen: {ended(gap)}"
            )
        if not following.compared:
            contradictions.append(f"The verdict is {run.verdict.value}, but no pass compared any key.")
    verdict = replace(verdict, contradictions=tuple(contradictions))
    if run.verdict is not None:
        return verdict
    lost = run.state is RunState.RUNNING and run.lease_until < now
    if run.state is RunState.RUNNING and not lost:
        state = following.state.value if following.state is not None else "starting"
        word, tone = state.upper(), _tone("none")
        first = "The run goes on; what stands here is how it was when this report was written."
    else:
        word = "LOST" if lost else "STOPPED" if run.state is RunState.FINISHED else run.state.value.upper()
        tone = _tone("none" if run.state is RunState.FINISHED else "fail")
        first = (
            "The process that followed is gone; changes since then were not carried over."
            if lost
            else "Following has ended; changes since then were not carried over."
        )
    return replace(
        verdict,
        word=word,
        tone=_tone("inconclusive") if gap is not None else tone,
        meaning=f"{first} {_proof(following, gap)}",
    )


def _proof(following: FollowingView, gap: str | None) -> str:
    if gap is not None:
        return (
            f"Changes may have gone unseen and no pass over all keys has closed that gap since: {ended(gap)}"
        )
    if following.clean_since is not None:
        return f"The newest pass that left nothing unequal began at {moment(following.clean_since)}."
    return "No pass over all keys has left nothing unequal so far, so nothing is proven."


# -- watch -------------------------------------------------------------------------------------------------------------


def _of_guard(run: Run, guard: GuardView, verdict: VerdictView, now: datetime) -> VerdictView:
    breaches, still = len(guard.breaches), len(guard.open_breaches)
    ended = run.state is not RunState.RUNNING
    lost = not ended and run.lease_until < now
    if still:
        word, tone = "BREACHED", _tone("fail")
        meaning = (
            f"{counted(still, 'rule')} {'was' if still == 1 else 'were'} broken, and green did not recover."
        )
    elif not guard.green_samples:
        word, tone = "NOTHING MEASURED", _tone("inconclusive")
        meaning = "The guard recorded no sample of green: nothing can be said of its health."
    elif breaches:
        word, tone = "RECOVERED", _tone("exceptions")
        recovered = "it" if breaches == 1 else "each of them"
        meaning = f"{counted(breaches, 'breach', 'breaches')} seen; green recovered from {recovered}."
    else:
        word, tone = ("NO BREACH", _tone("pass")) if ended else ("GUARDING", _tone("none"))
        meaning = f"No rule was broken in the {duration(guard.seconds)} that were measured."
    notes = list(verdict.notes)
    if lost:
        word, tone = "LOST" if not still else word, _tone("fail")
        notes.insert(0, "The guard's process is gone: nobody watches green since its last sample.")
    elif run.state in (RunState.FAILED, RunState.INTERRUPTED):
        notes.insert(0, "The guard did not end by itself: nobody watches green since its last sample.")
    notes += _rollback_notes(guard)
    if guard.unreachable:
        notes.append(f"Green did not answer at {counted(guard.unreachable, 'sample')}.")
    if not guard.baseline:
        notes.append(
            "No baseline of blue is recorded: rules that compare with it had nothing to compare with."
        )
    return replace(verdict, word=word, tone=tone, meaning=meaning, notes=tuple(notes))


def _rollback_notes(guard: GuardView) -> Iterator[str]:
    for action in guard.actions:
        said = _ACTIONS.get(action.kind.removeprefix(ACTION))
        reason = facts.text(action.payload, "reason")
        if said is not None:
            yield f"{said} at {moment_text(action.at)} UTC{f': {reason}' if reason else '.'}"


_ACTIONS: Final = {
    "withheld": "The guard would have rolled back, but did not, because blue did not answer,",
    "started": "The guard started a rollback",
    "failed": "The rollback that the guard started failed",
    "done": "The rollback that the guard started was done",
}


def _tone(tone: Tone) -> Tone:
    return tone
