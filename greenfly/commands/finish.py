"""The end of every command that makes a run: print the outcome, exit with the verdict's code."""

from __future__ import annotations

from typing import NoReturn

import typer

from flows.sequence import Outcome
from greenfly.console import print_outcome
from greenfly.exit_codes import ExitCode
from integrity.ledger.models import RunKind, Verdict

_BY_VERDICT = {
    Verdict.PASS: ExitCode.OK,
    Verdict.PASS_WITH_EXCEPTIONS: ExitCode.OK,
    Verdict.FAIL: ExitCode.DIFFERENT,
    Verdict.INCONCLUSIVE: ExitCode.INCONCLUSIVE,
}


def verdict_code(outcome: Outcome) -> ExitCode:
    """The exit code for an outcome; a run that owes a verdict and has none is INCONCLUSIVE."""
    if outcome.verdict is None:
        return ExitCode.OK if outcome.kind is RunKind.SNAPSHOT else ExitCode.INCONCLUSIVE
    return _BY_VERDICT[outcome.verdict]


def finish(outcome: Outcome, *, as_json: bool) -> NoReturn:
    """Print and exit."""
    code = verdict_code(outcome)
    print_outcome(outcome, code, as_json=as_json)
    raise typer.Exit(int(code))
