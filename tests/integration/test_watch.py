"""The guard on real servers: breaches, notifications, the rollback it starts once, and what it records."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from threading import Event, Thread, Timer
from time import monotonic, sleep

import pytest
from redis.exceptions import ResponseError

from integrity.endpoint import Endpoint
from integrity.errors import ConfigurationError, Interrupted, LedgerError, Refused, StopSignal
from integrity.ledger import Ledger, RunHandle, open_ledger
from integrity.ledger.models import PhaseName, PhaseState, RunKind, RunState
from integrity.ledger.samples import read_samples
from integrity.ledger.steps import StepBook
from integrity.ledger.sync_board import SyncBoard, SyncStatus
from integrity.ledger.vocabulary import Direction, StepState, SyncState
from integrity.settings import EndpointSettings, Settings, load_settings
from integrity.switch.fence import Fence
from integrity.switch.fence_plan import FencePlan
from integrity.switch.guard import GuardOutcome
from integrity.switch.health import Health, record_baseline
from integrity.switch.lookout import Look
from integrity.switch.watch import look_once, watch
from integrity.switch.watch_settings import WatchSettings
from integrity.switch.watch_subject import Subject, find_subject, recorded_fence
from tests.cli import Greenfly
from tests.conftest import StartServer
from tests.inprocess import run_here
from tests.servers import Store
from tests.unit.test_guard_notify import SECRET, receiver

BASELINE = Health(
    at=datetime(2026, 1, 1, tzinfo=UTC),
    reachable=True,
    latency_p50_ms=1.0,
    latency_p99_ms=50.0,
    errors_per_second=0.0,
    evicted_per_second=0.0,
    ops_per_second=0.0,
)
QUICK: dict[str, object] = {
    "interval_seconds": 0.2,
    "window_seconds": 1.0,
    "recover_seconds": 0.5,
    "rollback_after_seconds": 0.5,
    "blue_seconds": 0.3,
}
# The machine that tests run on may be busy itself: only one that stands still for long is late.
LATE: dict[str, object] = {"latency_p99": {"limit": 900, "for_seconds": 0.3}}
RULES: dict[str, object] = {
    "latency_p50_ratio": {"enabled": False},
    "latency_p99_ratio": {"enabled": False},
    "unreachable": {"limit": 1.5},
} | LATE


@dataclass(slots=True)
class Rollback:
    """What the guard starts."""

    fails: bool = False
    calls: list[tuple[str, bool]] = field(default_factory=list)

    def __call__(self, reason: str, *, abandon: bool) -> None:
        self.calls.append((reason, abandon))
        if self.fails:
            raise Refused("It cannot be.", "Try again.")


@dataclass(frozen=True, slots=True)
class Scene:
    """A sync run whose cutover is over."""

    blue: Store
    green: Store
    settings: Settings
    ledger: Ledger
    sync: RunHandle
    cutover: RunHandle

    @property
    def subject(self) -> Subject:
        return find_subject(self.ledger, self.sync.id)

    def watch(
        self,
        rules: Mapping[str, object] | None = None,
        *,
        seconds: float = 30.0,
        enough: Callable[[Look], object] = lambda _: False,
        rollback: Rollback | None = None,
        at_look: Callable[[int], object] = lambda _: None,
        **options: object,
    ) -> tuple[str, GuardOutcome]:
        """Watch until it is *enough*."""
        chosen = WatchSettings.model_validate(QUICK | {"rules": RULES | dict(rules or {})} | options)
        ended, looks, give_up = Event(), 0, monotonic() + seconds

        def on_look(look: Look) -> None:
            nonlocal looks
            looks += 1
            at_look(looks)
            if enough(look):
                ended.set()

        return watch(
            self.settings,
            chosen,
            self.ledger,
            self.subject,
            rollback or Rollback(),
            stop=lambda: ended.is_set() or monotonic() > give_up,
            on_look=on_look,
        )

    def events(self, run_id: str, kind: str) -> list[dict[str, object]]:
        return [json.loads(event.payload) for event in self.ledger.events(run_id) if event.kind == kind]


SetScene = Callable[..., Scene]


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SetScene]:
    monkeypatch.chdir(tmp_path)
    opened: list[Ledger] = []

    def make(blue: Store, green: Store, *, baseline: Health | None = BASELINE, lease: float = 30.0) -> Scene:
        settings = load_settings(
            {
                "state_dir": tmp_path / "state",
                "source": {"url": blue.url},
                "target": {"url": green.url},
                "lease_seconds": lease,
            },
            environ={},
        ).settings
        ledger = open_ledger(settings)
        opened.append(ledger)
        sync = ledger.start_run(RunKind.SYNC, settings)
        addresses = [
            str(Endpoint.from_settings("source", settings.source)),
            str(Endpoint.from_settings("target", settings.target)),
        ]
        sync.identify(source=None, target=None, source_address=addresses[0], target_address=addresses[1])
        with SyncBoard(ledger.engine, sync.id) as board:
            board.publish(SyncStatus(Direction.BACKWARD, SyncState.FOLLOWING))
        cutover = ledger.start_run(RunKind.CUTOVER, settings, parent_id=sync.id)
        if baseline is not None:
            record_baseline(ledger.engine, cutover.id, baseline)
        cutover.finish(RunState.FINISHED, verdict=None, reason=None)
        return Scene(blue, green, settings, ledger, sync, cutover)

    yield make
    for ledger in opened:
        ledger.close()


def pause(store: Store, seconds: float) -> None:
    store.client.execute_command("CLIENT", "PAUSE", str(round(seconds * 1000)), "ALL")  # type: ignore[no-untyped-call]


def process(store: Store) -> int:
    assert store.server is not None
    assert store.server.pid is not None
    return store.server.pid


def breached(*names: str) -> Callable[[Look], bool]:
    return lambda look: set(names) <= {state.name for state in look.breached}


# -- looking and recording ---------------------------------------------------------------------------------------------


def test_a_green_that_is_well_is_watched_without_a_breach(blue: Store, green: Store, scene: SetScene) -> None:
    stage, rollback = scene(blue, green), Rollback()
    run_id, outcome = stage.watch(seconds=3.5, rollback=rollback, on_breach="rollback", on_dead="abandon")
    assert outcome.clean
    assert outcome.rollback == "none"
    assert rollback.calls == []
    run = stage.ledger.find_run(run_id)
    assert (run.kind, run.state, run.parent_id) == (RunKind.WATCH, RunState.FINISHED, stage.sync.id)
    assert run.error_kind is None
    (phase,) = stage.ledger.phases(run_id)
    assert (phase.name, phase.state) == (PhaseName.WATCH, PhaseState.DONE)
    assert phase.detail["looks"] == outcome.looks
    rows = read_samples(stage.ledger.engine, run_id, "green")
    assert 3 <= len(rows) <= 4
    assert outcome.looks > len(rows)
    for before, after in pairwise(rows):
        assert after.at - before.at > timedelta(seconds=0.9)
    last = Health.from_dict(rows[-1].numbers)
    assert last.reachable
    assert last.ops_per_second is not None
    (started,) = stage.events(run_id, "guard.started")
    assert started["cutover"] == stage.cutover.id
    assert started["baseline"] == BASELINE.to_dict()
    assert stage.ledger.chain_state().intact


def test_a_pause_of_green_is_a_breach_that_recovers_and_is_told(
    blue: Store, green: Store, scene: SetScene, tmp_path: Path
) -> None:
    stage, file = scene(blue, green), tmp_path / "events.jsonl"
    save = "import sys; open(sys.argv[1], 'a').write(sys.stdin.read() + '\\n')"
    with receiver(200) as got:
        run_id, outcome = stage.watch(
            {"unreachable": {"limit": 20}},
            at_look=lambda look: pause(green, 1.8) if look == 3 else None,
            enough=lambda look: not look.breached and told_of_recovery(got.bodies),
            notify_command=[sys.executable, "-c", save, str(file)],
            notify_webhook=got.url,
        )
    (breach,) = outcome.breaches
    assert breach.rule == "latency_p99"
    assert breach.recovered_at is not None
    assert breach.since < breach.recovered_at
    assert breach.worst is not None
    assert breach.worst > 900
    (told,) = stage.events(run_id, "guard.breached")
    assert told["rule"] == "latency_p99"
    assert told["limit"] == 900
    assert len(stage.events(run_id, "guard.recovered")) == 1
    by_webhook = [body for body in got.bodies if isinstance(body, dict)]
    by_command = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    assert by_webhook == by_command
    assert [body["event"] for body in by_webhook] == ["guard.breached", "guard.recovered"]
    assert by_webhook[0]["run"] == run_id
    assert by_webhook[0]["sync_run"] == stage.sync.id
    assert by_webhook[0]["value"] > 900
    assert by_webhook[0]["health"]["latency_p99_ms"] > 900
    notified = stage.events(run_id, "guard.notified")
    assert [(row["event"], row["channel"], row["delivered"]) for row in notified] == [
        ("guard.breached", "command", True),
        ("guard.breached", "webhook", True),
        ("guard.recovered", "command", True),
        ("guard.recovered", "webhook", True),
    ]


def told_of_recovery(bodies: list[object]) -> bool:
    return any(isinstance(body, dict) and body["event"] == "guard.recovered" for body in bodies)


def test_no_secret_reaches_the_ledger_or_a_notification(
    start_redis: StartServer, scene: SetScene, tmp_path: Path
) -> None:
    blue, green = start_redis(password="blue-hush"), start_redis(password="green-hush")
    stage, file = scene(blue, green), tmp_path / "events.jsonl"
    with receiver(500) as got:
        timer = Timer(0.8, os.kill, (process(green), signal.SIGKILL))
        timer.start()
        stage.watch(
            seconds=6.0,
            enough=breached("unreachable"),
            notify_webhook=got.url,
            notify_command=["sh", "-c", f"cat >> {file}"],
        )
        timer.join()
    stage.ledger.close()
    told = file.read_bytes() + json.dumps(got.bodies).encode()
    kept = b"".join(path.read_bytes() for path in sorted((tmp_path / "state").iterdir()) if path.is_file())
    assert b"guard.breached" in told
    assert b"guard.breached" in kept
    for secret in (b"blue-hush", b"green-hush", SECRET.encode()):
        assert secret not in told
        assert secret not in kept


# -- rolling back ------------------------------------------------------------------------------------------------------


def test_a_breach_that_lasts_starts_the_rollback_exactly_once_and_ends_the_watch(
    blue: Store, green: Store, scene: SetScene
) -> None:
    stage, rollback = scene(blue, green), Rollback()
    green.client.set("text", "x")
    stop = Event()
    broken = Thread(target=fail_again_and_again, args=(green, stop))
    broken.start()
    try:
        begun = monotonic()
        run_id, outcome = stage.watch(
            {"errors": {"limit": 5, "for_seconds": 0.5}}, rollback=rollback, on_breach="rollback"
        )
        took = monotonic() - begun
    finally:
        stop.set()
        broken.join()
    ((reason, abandon),) = rollback.calls
    assert not abandon
    assert outcome.rollback == "done"
    assert outcome.reason == reason
    assert took >= 1.0
    (started,) = stage.events(run_id, "guard.rollback-started")
    assert started["rules"] == ["errors"]
    assert len(stage.events(run_id, "guard.rollback-done")) == 1
    assert stage.ledger.find_run(run_id).state is RunState.FINISHED


def fail_again_and_again(store: Store, stop: Event) -> None:
    while not stop.wait(0.02):
        with pytest.raises(ResponseError):
            store.client.lpush("text", "y")


def test_a_breach_that_ends_in_time_starts_nothing(blue: Store, green: Store, scene: SetScene) -> None:
    stage, rollback = scene(blue, green), Rollback()
    _, outcome = stage.watch(
        {"unreachable": {"limit": 20}},
        seconds=7.0,
        rollback=rollback,
        on_breach="rollback",
        rollback_after_seconds=5.0,
        at_look=lambda look: pause(green, 1.5) if look == 3 else None,
    )
    assert [breach.rule for breach in outcome.breaches] == ["latency_p99"]
    assert rollback.calls == []


def test_a_rule_that_may_not_roll_back_only_tells(blue: Store, green: Store, scene: SetScene) -> None:
    stage, rollback = scene(blue, green), Rollback()
    with SyncBoard(stage.ledger.engine, stage.sync.id) as board:
        board.publish(SyncStatus(Direction.BACKWARD, SyncState.FOLLOWING, dirty=9, lag_ms=90_000, gap="cut"))
    run_id, outcome = stage.watch(
        {
            "lag_keys": {"limit": 8, "for_seconds": 0},
            "lag_seconds": {"for_seconds": 0},
            "fall_back_gap": {"for_seconds": 0},
        },
        seconds=2.5,
        rollback=rollback,
        on_breach="rollback",
        on_dead="abandon",
    )
    assert {breach.rule for breach in outcome.breaches} == {"lag_keys", "lag_seconds", "fall_back_gap"}
    assert rollback.calls == []
    assert {row["value"] for row in stage.events(run_id, "guard.breached")} >= {9.0, 1.0}


def test_a_killed_green_is_abandoned_once_where_the_policy_says_so(
    blue: Store, start_redis: StartServer, scene: SetScene
) -> None:
    green, rollback = start_redis(), Rollback()
    stage = scene(blue, green)
    _, outcome = stage.watch(
        rollback=rollback,
        on_dead="abandon",
        at_look=lambda look: os.kill(process(green), signal.SIGKILL) if look == 3 else None,
    )
    ((_, abandon),) = rollback.calls
    assert abandon
    assert outcome.rollback == "done"


def test_a_stopped_green_is_only_told_of_by_default(
    blue: Store, start_redis: StartServer, scene: SetScene
) -> None:
    green, rollback = start_redis(), Rollback()
    stage = scene(blue, green)
    try:
        _, outcome = stage.watch(
            rollback=rollback,
            on_breach="rollback",
            at_look=lambda look: os.kill(process(green), signal.SIGSTOP) if look == 3 else None,
            enough=breached("unreachable", "latency_p99"),
        )
        assert {"unreachable", "latency_p99"} <= {breach.rule for breach in outcome.breaches}
        assert rollback.calls == []
    finally:
        os.kill(process(green), signal.SIGCONT)


def test_a_green_that_does_not_answer_is_not_asked_to_be_drained(
    blue: Store, start_redis: StartServer, scene: SetScene
) -> None:
    green, rollback = start_redis(), Rollback()
    stage = scene(blue, green)
    try:
        _, outcome = stage.watch(
            {"unreachable": {"limit": 60}},
            seconds=8.0,
            rollback=rollback,
            on_breach="rollback",
            on_dead="abandon",
            at_look=lambda look: os.kill(process(green), signal.SIGSTOP) if look == 3 else None,
        )
    finally:
        os.kill(process(green), signal.SIGCONT)
    assert [breach.rule for breach in outcome.breaches] == ["latency_p99"]
    assert rollback.calls == []


def test_a_watch_that_begins_after_green_died_still_judges_it(
    blue: Store, start_redis: StartServer, scene: SetScene
) -> None:
    green, rollback = start_redis(), Rollback()
    stage = scene(blue, green)
    os.kill(process(green), signal.SIGKILL)
    _, outcome = stage.watch(rollback=rollback, on_dead="abandon")
    assert [abandon for _, abandon in rollback.calls] == [True]
    assert outcome.rollback == "done"


def test_nothing_is_started_while_blue_does_not_answer_either(
    start_redis: StartServer, scene: SetScene
) -> None:
    blue, green, rollback = start_redis(), start_redis(), Rollback()
    stage = scene(blue, green)

    def kill_both(look: int) -> None:
        if look == 3:
            os.kill(process(blue), signal.SIGKILL)
            os.kill(process(green), signal.SIGKILL)

    run_id, outcome = stage.watch(
        {"blue_unreachable": {"limit": 1.5}},
        seconds=6.0,
        rollback=rollback,
        on_dead="abandon",
        at_look=kill_both,
    )
    assert rollback.calls == []
    assert outcome.rollback == "none"
    assert {"unreachable", "blue_unreachable"} <= {breach.rule for breach in outcome.breaches}
    assert len(stage.events(run_id, "guard.rollback-withheld")) == 1


def test_a_rollback_that_fails_is_told_not_repeated_and_green_is_watched_on(
    blue: Store, start_redis: StartServer, scene: SetScene
) -> None:
    green, rollback = start_redis(), Rollback(fails=True)
    stage = scene(blue, green)
    green.client.set("text", "x")
    stop = Event()
    broken = Thread(target=fail_again_and_again, args=(green, stop))
    broken.start()

    def kill_later(_: int) -> None:
        if len(rollback.calls) == 1 and not stop.is_set():
            stop.set()
            broken.join()
            os.kill(process(green), signal.SIGKILL)

    try:
        run_id, outcome = stage.watch(
            {"errors": {"limit": 5, "for_seconds": 0.5}},
            seconds=10.0,
            rollback=rollback,
            on_breach="rollback",
            on_dead="abandon",
            at_look=kill_later,
        )
    finally:
        stop.set()
        broken.join()
    # Abandoning is another thing than rolling back, so it is tried too, once.
    assert [abandon for _, abandon in rollback.calls] == [False, True]
    assert outcome.rollback == "failed"
    failures = stage.events(run_id, "guard.rollback-failed")
    assert [failure["error_kind"] for failure in failures] == ["Refused", "Refused"]
    assert stage.ledger.find_run(run_id).state is RunState.FINISHED


def test_the_run_is_kept_while_a_rollback_takes_longer_than_its_lease(
    blue: Store, start_redis: StartServer, scene: SetScene
) -> None:
    green = start_redis()
    stage = scene(blue, green, lease=1.0)
    os.kill(process(green), signal.SIGKILL)
    refused: list[Refused] = []

    class Slow(Rollback):
        def __call__(self, reason: str, *, abandon: bool) -> None:
            sleep(3.0)
            with pytest.raises(Refused) as taken:
                stage.ledger.take_over(stage.ledger.runs(1)[0].id, 1.0)
            refused.append(taken.value)

    run_id, outcome = stage.watch(rollback=Slow(), on_dead="abandon")
    assert len(refused) == 1
    assert outcome.rollback == "done"
    assert stage.ledger.find_run(run_id).state is RunState.FINISHED


# -- blue and its fence ------------------------------------------------------------------------------------------------


def fenced(stage: Scene) -> Fence:
    """Fence blue, and record the plan in a step of the cutover as a cutover does."""
    endpoint = Endpoint.from_settings("source", stage.settings.source)
    fence = Fence(endpoint, endpoint.identify())
    plan = fence.plan()
    cutover = stage.ledger.start_run(RunKind.CUTOVER, stage.settings, parent_id=stage.sync.id)
    book = StepBook(stage.ledger.engine, cutover.id, cutover.owner)
    book.plan([("gates", 5.0), ("pause", 5.0), ("open", 5.0), ("switch", 5.0)])
    book.begin("pause", {"plan": plan.to_dict()})
    fence.refuse(plan)
    book.end("pause", StepState.DONE, {})
    # What an earlier rollback had put up on green.
    book.begin("open", {"plan": FencePlan("min-replicas").to_dict()})
    for name in ("open", "switch"):
        book.end(name, StepState.DONE, {})
    cutover.finish(RunState.FINISHED, verdict=None, reason=None)
    assert recorded_fence(stage.ledger, cutover.id) == plan
    return fence


def test_a_fence_on_blue_that_falls_is_a_breach(start_redis: StartServer, scene: SetScene) -> None:
    blue, green = start_redis(), start_redis()
    stage = scene(blue, green)
    fence = fenced(stage)
    plan = recorded_fence(stage.ledger, stage.subject.cutover.id)
    assert plan is not None
    run_id, outcome = stage.watch(
        {"fence": {"for_seconds": 0.5}},
        at_look=lambda look: fence.lift(plan) if look == 8 else None,
        enough=breached("fence"),
    )
    (breach,) = outcome.breaches
    assert breach.rule == "fence"
    first = read_samples(stage.ledger.engine, run_id, "green")[0]
    assert breach.since > first.at


# -- what is watched ---------------------------------------------------------------------------------------------------


def test_a_watch_is_found_by_sync_cutover_or_latest(blue: Store, green_redis: Store, scene: SetScene) -> None:
    stage = scene(blue, green_redis)
    other = stage.ledger.start_run(RunKind.VERIFY, stage.settings)
    other.finish(RunState.FINISHED, verdict=None, reason=None)
    for name in (stage.sync.id, stage.cutover.id, "latest"):
        found = find_subject(stage.ledger, name)
        assert (found.sync.id, found.cutover.id) == (stage.sync.id, stage.cutover.id)
    with pytest.raises(ConfigurationError):
        find_subject(stage.ledger, other.id)


def test_without_a_cutover_that_holds_there_is_nothing_to_watch(
    blue: Store, green_redis: Store, scene: SetScene
) -> None:
    stage = scene(blue, green_redis)
    undone = stage.ledger.start_run(RunKind.CUTOVER, stage.settings, parent_id=stage.sync.id)
    book = StepBook(stage.ledger.engine, undone.id, undone.owner)
    book.plan([("switch", 5.0)])
    book.begin("switch", {})
    book.end("switch", StepState.UNDONE, {})
    with pytest.raises(Refused):
        find_subject(stage.ledger, stage.sync.id)
    undone.finish(RunState.FINISHED, verdict=None, reason=None)
    with pytest.raises(Refused):
        find_subject(stage.ledger, stage.sync.id)


def operation(stage: Scene, kind: RunKind, switch: StepState, state: RunState) -> RunHandle:
    """A cutover or rollback that ended like this."""
    run = stage.ledger.start_run(kind, stage.settings, parent_id=stage.sync.id)
    book = StepBook(stage.ledger.engine, run.id, run.owner)
    book.plan([("switch", 5.0), ("confirm", 5.0)])
    book.begin("switch", {})
    book.end("switch", switch, {})
    run.finish(state, verdict=None, reason=None)
    return run


def test_a_cutover_that_failed_after_the_switch_has_applications_on_green_all_the_same(
    blue: Store, green_redis: Store, scene: SetScene
) -> None:
    stage = scene(blue, green_redis)
    unconfirmed = operation(stage, RunKind.CUTOVER, StepState.DONE, RunState.FAILED)
    assert stage.subject.cutover.id == unconfirmed.id


def test_after_a_rollback_there_is_nothing_to_watch(blue: Store, green_redis: Store, scene: SetScene) -> None:
    stage = scene(blue, green_redis)
    operation(stage, RunKind.ROLLBACK, StepState.UNDONE, RunState.FAILED)
    assert stage.subject.cutover.id == stage.cutover.id
    operation(stage, RunKind.ROLLBACK, StepState.DONE, RunState.FAILED)
    with pytest.raises(Refused):
        find_subject(stage.ledger, stage.sync.id)
    again = operation(stage, RunKind.CUTOVER, StepState.DONE, RunState.FINISHED)
    assert stage.subject.cutover.id == again.id


def test_a_watch_ends_when_somebody_else_rolls_back(blue: Store, green_redis: Store, scene: SetScene) -> None:
    stage = scene(blue, green_redis)
    backs: list[str] = []

    def roll_back(look: int) -> None:
        if look == 3:
            backs.append(operation(stage, RunKind.ROLLBACK, StepState.DONE, RunState.FINISHED).id)

    begun = monotonic()
    run_id, outcome = stage.watch(seconds=30.0, at_look=roll_back)
    assert monotonic() - begun < 10
    assert outcome.clean
    assert outcome.rollback == "none"
    assert stage.events(run_id, "guard.ended") == [{"rolled_back_by": backs[0]}]


def test_two_do_not_watch_at_once(blue: Store, green_redis: Store, scene: SetScene) -> None:
    stage = scene(blue, green_redis)
    stage.ledger.start_run(RunKind.WATCH, stage.settings, parent_id=stage.sync.id)
    with pytest.raises(Refused):
        find_subject(stage.ledger, stage.sync.id)


def test_other_servers_than_those_of_the_sync_run_are_refused(
    blue: Store, green_redis: Store, start_redis: StartServer, scene: SetScene
) -> None:
    stage, other = scene(blue, green_redis), start_redis()
    settings = stage.settings.model_copy(
        update={"target": EndpointSettings.model_validate({"url": other.url})}
    )
    with pytest.raises(Refused):
        watch(settings, WatchSettings(), stage.ledger, stage.subject, Rollback(), stop=lambda: True)
    assert [run.kind for run in stage.ledger.runs()] == [RunKind.CUTOVER, RunKind.SYNC]


# -- its end -----------------------------------------------------------------------------------------------------------


def test_a_signal_ends_the_watch_and_what_it_saw_is_kept(
    blue: Store, green_redis: Store, scene: SetScene
) -> None:
    stage = scene(blue, green_redis)

    def interrupt(look: int) -> None:
        if look == 4:
            raise StopSignal(signal.SIGTERM)

    with pytest.raises(Interrupted) as ended:
        stage.watch(at_look=interrupt)
    assert ended.value.signal_number == signal.SIGTERM
    run = stage.ledger.runs(1)[0]
    assert (run.kind, run.state) == (RunKind.WATCH, RunState.INTERRUPTED)
    (phase,) = stage.ledger.phases(run.id)
    assert phase.detail["looks"] == 4


def test_a_watch_whose_run_was_taken_over_ends(blue: Store, green_redis: Store, scene: SetScene) -> None:
    stage = scene(blue, green_redis, lease=1.0)

    def steal(look: int) -> None:
        if look == 2:
            run = stage.ledger.runs(1)[0]
            stage.ledger.join(run.id, run.lease_owner, 1.0).finish(RunState.FAILED, verdict=None, reason=None)

    with pytest.raises(LedgerError):
        stage.watch(at_look=steal)


# -- one look, and the command -----------------------------------------------------------------------------------------


def test_one_look_judges_without_patience_and_records_nothing(
    blue: Store, green: Store, scene: SetScene
) -> None:
    stage = scene(blue, green)
    strict = WatchSettings.model_validate(
        QUICK | {"rules": {"latency_p99": {"limit": 0.0, "for_seconds": 3600}}}
    )
    look = look_once(stage.settings, strict, stage.ledger, stage.subject)
    assert "latency_p99" in {state.name for state in look.over}
    assert not look.breached
    assert look.health.ops_per_second is not None
    assert [run.kind for run in stage.ledger.runs()] == [RunKind.CUTOVER, RunKind.SYNC]


def command(
    stage: Scene, greenfly: Greenfly, *arguments: str, env: Mapping[str, str] | None = None
) -> tuple[int, dict[str, object]]:
    servers = ("--source", stage.blue.url, "--target", stage.green.url)
    state = ("--state-dir", str(stage.settings.state_dir))
    done = run_here(greenfly, "watch", *arguments, *servers, *state, "--json", env=env)
    return done.exit_code, done.json()


def test_the_command_watches_for_a_while(
    blue: Store, green: Store, scene: SetScene, greenfly: Greenfly
) -> None:
    stage = scene(blue, green, baseline=None)
    code, told = command(stage, greenfly, "latest", "--for", "2.5")
    assert (code, told["exit_code"]) == (0, 0)
    assert told["sync_run"] == stage.sync.id
    assert told["breaches"] == []
    run = stage.ledger.find_run(str(told["run"]))
    assert run.kind is RunKind.WATCH


def test_the_command_ends_with_seven_after_a_breach(
    blue: Store, start_redis: StartServer, scene: SetScene, greenfly: Greenfly, tmp_path: Path
) -> None:
    master, green = start_redis(), start_redis()
    stage = scene(blue, green)
    metrics = tmp_path / "greenfly.prom"
    green.client.execute_command("REPLICAOF", "127.0.0.1", master.url.rsplit(":", 1)[1].split("/")[0])  # type: ignore[no-untyped-call]
    code, told = command(
        stage,
        greenfly,
        stage.sync.id,
        "--for",
        "2",
        env={
            "GREENFLY_WATCH__RULES__REPLICA__FOR_SECONDS": "0.5",
            "GREENFLY_METRICS__TEXTFILE": str(metrics),
        },
    )
    assert (code, told["exit_code"]) == (7, 7)
    breaches = told["breaches"]
    assert isinstance(breaches, list)
    assert [breach["rule"] for breach in breaches] == ["replica"]
    assert 'greenfly_run_state{kind="watch",state="finished"} 1.0' in metrics.read_text()


def test_the_command_takes_one_look(blue: Store, green: Store, scene: SetScene, greenfly: Greenfly) -> None:
    stage = scene(blue, green)
    code, told = command(stage, greenfly, stage.cutover.id, "--once")
    assert code in {0, 7}
    rules = told["rules"]
    assert isinstance(rules, list)
    assert {rule["rule"] for rule in rules} >= {"latency_p99", "fence", "lag_keys"}
    assert "run" not in told


def test_a_watch_of_nothing_is_refused_with_its_code(
    blue: Store, green_redis: Store, scene: SetScene, greenfly: Greenfly
) -> None:
    stage = scene(blue, green_redis)
    operation(stage, RunKind.ROLLBACK, StepState.DONE, RunState.FINISHED)
    state = ("--state-dir", str(stage.settings.state_dir))
    assert run_here(greenfly, "watch", "latest", *state).exit_code == 4
    assert run_here(greenfly, "watch", "latest", "--once", "--for", "3", *state).exit_code == 2
