"""The ``greenfly`` command line."""

from __future__ import annotations

import signal
import sys
import threading
import traceback
from types import FrameType

import typer

from greenfly.commands import (
    approve,
    assess,
    audit,
    config,
    cutover,
    db,
    demo,
    flow,
    metrics,
    migrate,
    repair,
    report,
    review,
    runs,
    serve,
    snapshot,
    sync,
    verify,
    watch,
)
from greenfly.commands.options import Json
from greenfly.exit_codes import MEANING, ExitCode
from integrity.version import __version__

app = typer.Typer(
    name="greenfly",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Move an application from Redis to Dragonfly, prove that nothing was lost, and be able to move it back.",
    epilog="Exit codes: 0 done or PASS, 1 the sides differ, 2 usage, 3 inconclusive, 4 refused; "
    "`greenfly exit-codes` lists all.",
)
app.command("migrate", short_help="Copy every key and prove both sides equal.")(migrate.migrate)
app.command("sync", short_help="Copy, then follow every change until it is stopped.")(sync.sync)
app.command("cutover", short_help="Move the applications to green.")(cutover.cutover)
app.command("watch", short_help="Guard green after the cutover.")(watch.watch)
app.command("rollback", short_help="Move the applications back to blue, with what they wrote.")(
    cutover.rollback
)
app.command("approve", short_help="Approve, request or reject a cutover.")(approve.approve)
app.command("verify", short_help="Compare every key of both servers.")(verify.verify)
app.command("repair", short_help="Re-copy exactly what a run found to differ, and prove it.")(repair.repair)
app.command("serve", short_help="Serve the flows with schedules, and the rollback's webhook.")(serve.serve)
app.command("report", short_help="Write a run's report again.")(report.report)
app.command("demo", short_help="Migrate made-up data between servers of its own.")(demo.demo)
app.add_typer(assess.app, name="assess")
app.add_typer(snapshot.app, name="snapshot")
app.add_typer(runs.app, name="runs")
app.add_typer(flow.app, name="flow")
app.add_typer(config.app, name="config")
app.add_typer(db.app, name="db")
app.add_typer(audit.app, name="audit")
app.add_typer(review.app, name="review")
app.add_typer(metrics.app, name="metrics")


@app.command("exit-codes")
def exit_codes(as_json: Json = False) -> None:
    """List what every exit code means."""
    if as_json:
        from greenfly.console import print_json

        print_json({"exit_codes": [{"code": int(code), "meaning": text} for code, text in MEANING.items()]})
        return
    for code, meaning in MEANING.items():
        typer.echo(f"{int(code):>3}  {meaning}")


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"greenfly {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: bool = typer.Option(
        False, "--version", callback=_show_version, is_eager=True, help="Show the version."
    ),
) -> None:
    """Nothing but the version."""


def _on_terminate(number: int, _frame: FrameType | None) -> None:
    from integrity.errors import StopSignal

    raise StopSignal(number)


def _stop_again(swallowed: sys.UnraisableHookArgs) -> None:
    """A signal may arrive inside a callback of Python's own (a weak reference's), which drops what its handler raises.

    Then it is sent once more, a little later, when that callback has ended; else Ctrl-C would be lost.
    """
    error = swallowed.exc_value
    if not isinstance(error, KeyboardInterrupt):
        sys.__unraisablehook__(swallowed)
        return
    number, main_thread = getattr(error, "signal_number", signal.SIGINT), threading.main_thread().ident
    again = threading.Timer(0.01, signal.pthread_kill, (main_thread, number))
    again.daemon = True
    again.start()


def main() -> None:
    """Run the command line; ends the process with a code of :class:`~greenfly.exit_codes.ExitCode`."""
    from integrity.errors import GreenflyError

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _on_terminate)
    sys.unraisablehook = _stop_again
    try:
        app()
    except GreenflyError as error:
        from greenfly.console import print_error
        from greenfly.exit_codes import exit_code_for

        code = exit_code_for(error)
        print_error(error, code, as_json="--json" in sys.argv)
        sys.exit(code)
    except KeyboardInterrupt as error:
        number = getattr(error, "signal_number", signal.SIGINT)
        sys.stderr.write(f"Stopped by {signal.Signals(number).name}.\n")
        sys.exit(128 + number)
    except Exception:  # noqa: BLE001  (the process's last word: Python's own exit code, 1, means "the sides differ")
        sys.stderr.write(
            f"{traceback.format_exc()}\nThis is a defect in Greenfly; please report it with the lines above.\n"
        )
        sys.exit(ExitCode.INTERNAL)
