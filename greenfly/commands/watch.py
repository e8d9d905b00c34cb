"""``greenfly watch``"""

from __future__ import annotations

import sys
from time import monotonic
from typing import TYPE_CHECKING, Annotated, Final

import typer

from greenfly.commands import options as o
from greenfly.exit_codes import ExitCode

if TYPE_CHECKING:
    from integrity.ledger import Ledger
    from integrity.progress import Progress
    from integrity.settings import Settings
    from integrity.switch.guard import GuardOutcome, StartRollback
    from integrity.switch.guard_rules import RuleState
    from integrity.switch.health import Health
    from integrity.switch.lookout import Look
    from integrity.switch.watch_subject import Subject

_PLAIN_EVERY_SECONDS: Final = 30.0

RunName = Annotated[
    str, typer.Argument(help="The sync run or its cutover: its id, its beginning or ending, or latest.")
]
For = Annotated[
    float | None,
    typer.Option(
        "--for",
        min=0.1,
        metavar="SECONDS",
        help="End after so long; else at Ctrl-C.",
        rich_help_panel=o.RUNNING,
    ),
]
Once = Annotated[
    bool,
    typer.Option(
        "--once",
        help="One look: print what each rule says now, record nothing, tell nobody, start nothing.",
        rich_help_panel=o.RUNNING,
    ),
]


def watch(
    run: RunName = "latest",
    for_seconds: For = None,
    once: Once = False,
    source: o.Source = None,
    target: o.Target = None,
    label: o.Label = None,
    source_password_file: o.SourcePasswordFile = None,
    source_ca: o.SourceCa = None,
    source_cert: o.SourceCert = None,
    source_key: o.SourceKey = None,
    target_password_file: o.TargetPasswordFile = None,
    target_ca: o.TargetCa = None,
    target_cert: o.TargetCert = None,
    target_key: o.TargetKey = None,
    config: o.ConfigFile = None,
    state_dir: o.StateDir = None,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Guard green after the cutover: judge its health by rules, tell somebody, and roll back where that is wanted.

    Ends with 0 where no rule was breached, and with 7 where one was.
    """
    from integrity.errors import ConfigurationError
    from integrity.ledger import open_ledger
    from integrity.switch.watch_subject import find_subject

    if once and for_seconds is not None:
        raise ConfigurationError("--once and --for contradict each other.", "Give one of them.")
    settings = o.load(
        config,
        state_dir,
        {
            "source": o.endpoint_overrides(source, source_password_file, source_ca, source_cert, source_key),
            "target": o.endpoint_overrides(target, target_password_file, target_ca, target_cert, target_key),
            "label": label,
        },
    ).settings
    ledger = open_ledger(settings)
    try:
        subject = find_subject(ledger, run)
        if once:
            code = _look_once(settings, ledger, subject, as_json=as_json)
        else:
            code = _guard(settings, ledger, subject, for_seconds, as_json=as_json, quiet=quiet)
    finally:
        ledger.close()
    raise typer.Exit(int(code))


def _look_once(settings: Settings, ledger: Ledger, subject: Subject, *, as_json: bool) -> ExitCode:
    from greenfly.console import print_json
    from integrity.switch.watch import look_once

    look = look_once(settings, settings.watch, ledger, subject)
    code = ExitCode.BREACHED if look.over else ExitCode.OK
    if as_json:
        ids = {"sync_run": subject.sync.id, "cutover_run": subject.cutover.id}
        print_json(ids | look.to_dict() | {"exit_code": int(code)})
    else:
        typer.echo(_health_text(look))
        for state in look.states:
            typer.echo(f"  {state.name:<22} {'over' if state.over else state.status.value:<8} {state.text}")
    return code


def _guard(
    settings: Settings,
    ledger: Ledger,
    subject: Subject,
    for_seconds: float | None,
    *,
    as_json: bool,
    quiet: bool,
) -> ExitCode:
    from contextlib import ExitStack

    from flows.breach_events import BreachEvents
    from flows.observing import Watched, looked_on
    from greenfly.console import make_progress
    from integrity.ledger.vocabulary import RunKind
    from integrity.switch.watch import watch as guard_green

    until = None if for_seconds is None else monotonic() + for_seconds
    progress = make_progress(quiet=quiet)
    line = WatchLine(progress)
    with ExitStack() as stack:
        progress, tell = stack.enter_context(looked_on(settings, RunKind.WATCH, progress))
        events = stack.enter_context(BreachEvents(settings, subject)) if settings.flows.events else None

        def begin(run_id: str, baseline: Health | None) -> None:
            line.begin(run_id, baseline)
            if events is not None:
                events.watch_run_id = run_id

        def show(look: Look) -> None:
            line.show(look)
            if events is not None:
                events.see(look)

        run_id, outcome = guard_green(
            settings,
            settings.watch,
            ledger,
            subject,
            _rollback(settings, ledger, subject, progress),
            stop=lambda: until is not None and monotonic() >= until,
            on_begin=begin,
            on_look=show,
        )
        tell(Watched(run_id, outcome.breaches))
    code = ExitCode.OK if outcome.clean else ExitCode.BREACHED
    _print_outcome(run_id, subject, outcome, code, as_json=as_json)
    return code


def _rollback(settings: Settings, ledger: Ledger, subject: Subject, progress: Progress) -> StartRollback:
    def start(reason: str, *, abandon: bool) -> None:
        from integrity.switch.operate import roll_back

        roll_back(
            settings,
            ledger,
            subject.sync.id,
            progress,
            abandon=abandon,
            reason=f"The guard: {reason}",
        )

    return start


def _print_outcome(
    run_id: str, subject: Subject, outcome: GuardOutcome, code: ExitCode, *, as_json: bool
) -> None:
    from greenfly.console import print_json
    from integrity.switch.watch import summary

    if as_json:
        ids = {"run": run_id, "sync_run": subject.sync.id, "cutover_run": subject.cutover.id}
        print_json(ids | outcome.to_dict() | {"exit_code": int(code)})
        return
    typer.echo(f"\n{summary(outcome)}\n")
    typer.echo(f"  run       {run_id}")
    typer.echo(f"  sync      run {subject.sync.id}, cutover {subject.cutover.id}")
    for breach in outcome.breaches:
        end = f"until {breach.recovered_at:%H:%M:%S}" if breach.recovered_at else "not recovered"
        worst = "-" if breach.worst is None else f"{breach.worst:,.4g}"
        typer.echo(
            f"  breach    {breach.rule}: from {breach.since:%Y-%m-%d %H:%M:%S} UTC, {end}; "
            f"worst {worst}, limit {breach.limit:,.4g}"
        )


class WatchLine:
    """The state of green on stderr: a moving line on a terminal; elsewhere a line now and then, and at each change."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._every = 0.0 if sys.stderr.isatty() else _PLAIN_EVERY_SECONDS
        self._shown_at = float("-inf")
        self._known: dict[str, str] = {}

    def begin(self, run_id: str, baseline: Health | None) -> None:
        """Say what begins."""
        self._progress.say(f"Watching as run {run_id}.")
        if baseline is None:
            self._progress.say(
                "The cutover recorded no baseline of blue: rules that compare with it say nothing."
            )

    def show(self, look: Look) -> None:
        """Show one look."""
        for state in look.states:
            if self._changed(state):
                self._progress.say(f"{state.name} {state.status.value}: {state.text}")
        now = monotonic()
        if now - self._shown_at >= self._every:
            self._shown_at = now
            self._progress.show(_health_text(look))

    def _changed(self, state: RuleState) -> bool:
        """Whether a breach began or ended: what is only over comes and goes, and is in the line."""
        before, after = self._known.get(state.name), state.status.value
        self._known[state.name] = after
        return before != after and "breached" in {before, after}


def _health_text(look: Look) -> str:
    """``ok  p50 0.21 p99 1.3 ms  1,234 ops/s  …``"""
    health, fall_back = look.health, look.seen.fall_back
    trouble = [f"{state.name} breached" for state in look.breached]
    trouble += [f"{state.name} over" for state in look.over if state not in look.breached]
    parts = [", ".join(trouble) or "ok"]
    if not health.reachable:
        parts.append(f"no answer for {health.unreachable_seconds:.1f} s")
    if health.latency_p50_ms is not None and health.latency_p99_ms is not None:
        parts.append(f"p50 {health.latency_p50_ms:.2f} p99 {health.latency_p99_ms:.2f} ms")
    if health.ops_per_second is not None:
        parts.append(f"{health.ops_per_second:,.0f} ops/s")
    if health.errors_per_second:
        parts.append(f"{health.errors_per_second:,.1f} errors/s")
    if health.clients is not None:
        parts.append(f"{health.clients:,} clients")
    if health.headroom is not None:
        parts.append(f"{health.headroom:.0%} memory free")
    if fall_back is not None and fall_back.follows:
        parts.append(f"way back {fall_back.dirty:,} keys, {fall_back.lag_seconds:.1f} s behind")
    return "  ".join(parts)
