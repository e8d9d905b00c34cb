"""What must hold after a run that failed, whatever made it fail."""

from __future__ import annotations

from pathlib import Path

from tests.cli import CompletedRun, Greenfly, dig
from tests.inprocess import between, run_here
from tests.oracle import compare

SECRET = "n1netyN1ne-balloons"
"""The password of every test about failures; it must be found nowhere."""


def assert_no_secret(greenfly: Greenfly, *runs: CompletedRun, secret: str = SECRET) -> None:
    """Neither output nor any file of the state folder holds the password."""
    for run in runs:
        assert secret not in run.stdout + run.stderr
    files = [path for path in greenfly.state_dir.rglob("*") if path.is_file()]
    assert [path for path in files if secret.encode() in path.read_bytes()] == []


def assert_closed(greenfly: Greenfly, state: str = "failed", verdict: str | None = "INCONCLUSIVE") -> str:
    """The newest run is closed and consistent in the ledger; returns its id."""
    listed = run_here(greenfly, "runs", "list", "--json")
    newest = listed.at("runs", 0)
    assert (dig(newest, "state"), dig(newest, "verdict")) == (state, verdict)
    assert dig(newest, "ended_at")
    shown = run_here(greenfly, "runs", "show", str(dig(newest, "run")), "--json")
    phases = shown.at("phases")
    assert isinstance(phases, list)
    assert [phase for phase in phases if dig(phase, "state") == "running"] == []
    assert shown.at("error", "kind")
    assert run_here(greenfly, "audit", "verify").exit_code == 0
    return str(dig(newest, "run"))


def assert_failed(greenfly: Greenfly, run: CompletedRun, code: int, *, address: str, role: str) -> None:
    """The run told which server failed and what to do, was closed, reported, and gave no password away."""
    assert run.exit_code == code, run.stderr
    problem, remedy = str(run.at("error", "problem")), str(run.at("error", "remedy"))
    assert run.at("exit_code") == code
    assert address in problem
    assert problem.lower().startswith(role)
    assert remedy
    assert problem in run.stderr
    assert remedy in run.stderr
    assert "Traceback" not in run.stderr
    assert run.at("run") == assert_closed(greenfly)
    assert Path(str(run.at("report"))).is_file()
    assert_no_secret(greenfly, run)


def assert_works_now(greenfly: Greenfly, source: str, target: str, *arguments: str) -> CompletedRun:
    """A correct run after it passes."""
    run = run_here(greenfly, "migrate", *between(source, target), "--no-snapshot", "--json", *arguments)
    assert (run.exit_code, run.at("verdict")) == (0, "PASS"), run.stderr
    return run


def assert_same(source: str, target: str) -> None:
    """By the oracle."""
    assert compare(source, target) == []
