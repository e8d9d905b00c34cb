"""Exit codes: one for every error, told apart by side, and the same in the table that people read."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.sequence import Outcome
from greenfly.commands.finish import verdict_code
from greenfly.exit_codes import MEANING, ExitCode, exit_code_for
from integrity import errors
from integrity.errors import GreenflyError, Role, ServerError
from integrity.ledger.models import RunKind, Verdict
from integrity.switch.asker import NotDone
from integrity.switch.conductor import NotConfirmed
from integrity.switch.cutover import GatesClosed
from integrity.switch.environment import EnvironmentChanged
from integrity.switch.machine import UndoFailed

README = Path(__file__).parents[2] / "README.md"

SERVER_ERRORS: dict[type[ServerError], int] = {
    errors.ServerUnreachable: 0,
    errors.ServerRestarted: 0,
    errors.AuthenticationFailed: 1,
    errors.TlsFailed: 2,
    errors.ServerNotReady: 3,
    errors.PermissionRefused: 4,
    errors.ServerFull: 5,
    errors.ServerReadOnly: 6,
    errors.ReplicationFailed: 7,
    errors.ProtocolError: 9,
}
OTHER_ERRORS: dict[type[GreenflyError], int] = {
    errors.ConfigurationError: 2,
    errors.Refused: 4,
    errors.LedgerError: 5,
    errors.LedgerUnreachable: 5,
    errors.LedgerCollision: 5,
    errors.ArtifactError: 6,
    errors.Undone: 8,
    errors.Unfinished: 9,
    errors.OrchestratorFailed: 30,
    errors.EnvironmentFailed: 31,
}


def descendants(kind: type[GreenflyError]) -> Iterator[type[GreenflyError]]:
    for child in kind.__subclasses__():
        yield child
        yield from descendants(child)


@pytest.mark.parametrize(("role", "base"), [("source", 10), ("target", 20), ("server", 10)])
@pytest.mark.parametrize("kind", SERVER_ERRORS, ids=lambda kind: str(kind.__name__))
def test_a_server_error_tells_the_side_and_the_kind(kind: type[ServerError], role: Role, base: int) -> None:
    error = kind(role, "redis://cache:6379", "is out of order.", "Repair it.")

    assert exit_code_for(error) == base + SERVER_ERRORS[kind]


@pytest.mark.parametrize("kind", OTHER_ERRORS, ids=lambda kind: str(kind.__name__))
def test_every_other_error_has_its_code(kind: type[GreenflyError]) -> None:
    assert exit_code_for(kind("It happened.", "Undo it.")) == OTHER_ERRORS[kind]


def test_a_signal_ends_with_128_and_its_number() -> None:
    assert exit_code_for(errors.Interrupted(2)) is ExitCode.INTERRUPTED
    assert exit_code_for(errors.Interrupted(15)) is ExitCode.TERMINATED
    assert [int(ExitCode.INTERRUPTED), int(ExitCode.TERMINATED)] == [130, 143]


def test_a_run_that_another_process_took_over_is_an_error_of_the_ledger() -> None:
    assert exit_code_for(errors.RunTakenOver("20261126-004900-2a87bd")) is ExitCode.LEDGER


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (GatesClosed([]), ExitCode.REFUSED),
        (NotDone("The sync process did not answer.", ""), ExitCode.REFUSED),
        (NotConfirmed("Nobody came.", ""), ExitCode.UNDONE),
        (UndoFailed("The fence stands.", ""), ExitCode.UNFINISHED),
        (EnvironmentChanged("Somebody else wrote it.", ""), ExitCode.REFUSED),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_a_cutover_ends_with_has_the_code_of_its_kind(error: GreenflyError, code: ExitCode) -> None:
    assert exit_code_for(error) is code


def test_no_error_of_the_tree_is_left_without_a_code() -> None:
    known = {
        *SERVER_ERRORS,
        *OTHER_ERRORS,
        *(errors.Interrupted, errors.RunTakenOver, errors.ServerError),
    }
    ours = {kind for kind in descendants(GreenflyError) if kind.__module__ == errors.__name__}

    assert ours == known


def test_the_tree_in_the_docstring_names_every_error() -> None:
    text = errors.__doc__ or ""

    assert {kind.__name__ for kind in descendants(GreenflyError) if kind.__module__ == errors.__name__} <= {
        *re.findall(r"\w+", text)
    }


def test_an_error_says_what_happened_and_what_to_do() -> None:
    error = errors.ServerFull("target", "redis://green:6379", "is out of memory.", "Free some.")

    assert (error.role, error.address, error.remedy) == ("target", "redis://green:6379", "Free some.")
    assert str(error) == "Target redis://green:6379: is out of memory. Free some."


def test_every_code_has_a_meaning_of_its_own() -> None:
    assert set(MEANING) == set(ExitCode)
    assert len(set(MEANING.values())) == len(MEANING)
    assert list(MEANING) == sorted(MEANING)


def test_the_readmes_table_is_this_table() -> None:
    rows = re.findall(r"^\|\s*`?(\d+)`?\s*\|\s*(.*?)\s*\|\s*$", README.read_text("utf-8"), re.MULTILINE)
    if not rows:
        pytest.skip("README has no table of exit codes yet")

    assert {int(code): meaning.replace("`", "") for code, meaning in rows} == {
        int(code): meaning.replace("`", "") for code, meaning in MEANING.items()
    }


# -- verdicts ----------------------------------------------------------------------------------------------------------


def outcome(kind: RunKind, verdict: Verdict | None) -> Outcome:
    return Outcome("id", kind, "finished", verdict, None, None, None, None, (), {}, None, None)


@pytest.mark.parametrize(
    ("verdict", "code"),
    [
        (Verdict.PASS, 0),
        (Verdict.PASS_WITH_EXCEPTIONS, 0),
        (Verdict.FAIL, 1),
        (Verdict.INCONCLUSIVE, 3),
        (None, 3),
    ],
)
@pytest.mark.parametrize(
    "kind", [RunKind.MIGRATE, RunKind.VERIFY, RunKind.SYNC, RunKind.CUTOVER, RunKind.ROLLBACK]
)
def test_the_verdict_decides_the_code(kind: RunKind, verdict: Verdict | None, code: int) -> None:
    assert verdict_code(outcome(kind, verdict)) == code


def test_a_snapshot_owes_no_verdict() -> None:
    assert verdict_code(outcome(RunKind.SNAPSHOT, None)) == ExitCode.OK
