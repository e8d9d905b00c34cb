"""``greenfly review``: the same decisions from the command line, and the page as a process."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep

import httpx
import pytest

from flows.approval_desk import wait_in_ledger
from greenfly.review_actions import actions_of
from integrity.errors import Refused
from integrity.ledger import Ledger, open_ledger
from integrity.ledger.models import FindingClass, RunKind, RunState, Verdict
from integrity.ledger.naming import operator_name
from integrity.ledger.reviews import Separate, decide
from integrity.ledger.store import NewFinding
from integrity.ledger.vocabulary import Decision
from integrity.progress import Silent
from integrity.settings import Settings, load_settings
from reports.review import RollbackRequest
from tests.cli import Greenfly
from tests.inprocess import run_here
from tests.tls import make_tls_pair


@pytest.fixture
def settings(state_dir: Path) -> Settings:
    servers = {"source": {"url": "redis://127.0.0.1:1"}, "target": {"url": "redis://127.0.0.1:2"}}
    return load_settings({"state_dir": state_dir, **servers}, environ={}).settings


@pytest.fixture
def ledger(settings: Settings) -> Iterator[Ledger]:
    with closing(open_ledger(settings)) as opened:
        yield opened


@pytest.fixture
def run(ledger: Ledger, settings: Settings) -> str:
    made = ledger.start_run(RunKind.SYNC, settings)
    made.identify(source={}, target={}, source_address="redis://blue", target_address="redis://green")
    made.finish(RunState.FINISHED, verdict=Verdict.PASS, reason="equal")
    return made.id


def test_a_token_is_made_listed_and_revoked(greenfly: Greenfly, ledger: Ledger) -> None:
    made = run_here(greenfly, "review", "token", "add", "--name", "grace", "--role", "reviewer", "--json")
    assert (made.exit_code, made.at("role"), made.at("state")) == (0, "reviewer", "valid")
    secret, number = str(made.at("token")), str(made.at("id"))
    plain = run_here(greenfly, "review", "token", "add", "--name", "vera", "--days", "1")
    assert plain.stdout.startswith("greenfly_")

    assert run_here(greenfly, "review", "token", "revoke", number).exit_code == 0

    listed = run_here(greenfly, "review", "token", "list", "--json")
    assert [listed.at("tokens", place, "state") for place in (0, 1)] == ["revoked", "valid"]
    assert secret not in listed.stdout
    assert run_here(greenfly, "review", "token", "revoke", number).exit_code == 4


UNUSABLE: tuple[tuple[str, ...], ...] = (
    ("token", "add", "--name", "x", "--role", "admin"),
    ("token", "add", "--name", "x", "--days", "0"),
    ("token", "add", "--name", "x", "--days", "nan"),
    ("token", "revoke", "nothing"),
    ("approve", "nothing"),
    ("approve", "latest", "--gate", "nothing"),
    ("reject", "latest", "--as", "grace"),
    ("waive", "latest", "--class", "nothing", "--why", "x", "--key", "a"),
    ("waive", "latest", "--class", "value", "--why", "x"),
    ("waive", "latest", "--class", "value", "--why", "x", "--key", "\\"),
    ("waive", "latest", "--class", "value", "--key", "a", "--as", "grace"),
    *(
        ("waive", "latest", "--class", "value", "--why", "x", "--as", "grace", *flags)
        for flags in (
            ("--key", "a", "--key-hex", "61"),
            ("--key-hex", "6"),
            ("--key-hex", "61*"),
            ("--key", "\udcff"),
            ("--pattern", "\udcff"),
            ("--pattern", r"\x0"),
            ("--pattern", "[a-\xff]"),
            ("--key", "a", "--at-most", "0"),
        )
    ),
    ("waive", "latest", "--class", "unreadable", "--why", "x", "--key", "a", "--as", "grace"),
    ("unwaive", "99"),
    ("unwaive", "9" * 30),
    ("--port", "1", "list"),
    ("--host", "0.0.0.0"),  # noqa: S104  (refused)
)


def test_what_cannot_be_done_is_a_usage_error(greenfly: Greenfly, run: str) -> None:
    for flags in UNUSABLE:
        assert run_here(greenfly, "review", *flags).exit_code == 2, flags
    assert run_here(greenfly, "approve", run, "--reject", "--as", "grace").exit_code == 2


def test_decisions_of_the_command_line_are_those_of_the_page(
    greenfly: Greenfly, ledger: Ledger, run: str
) -> None:
    assert run_here(greenfly, "review", "approve", run).exit_code == 4
    approved = run_here(greenfly, "review", "approve", run, "--as", "grace", "--json")
    assert (approved.exit_code, approved.at("stands"), approved.at("approvers", 0)) == (
        0,
        "approved",
        "grace",
    )
    again = run_here(
        greenfly, "review", "reject", run, "--repeat", "--comment", "of other keys", "--as", "ada", "--json"
    )
    assert again.at("stands") == "repeat asked for"

    cutover = run_here(greenfly, "review", "approve", run, "--gate", "cutover", "--as", "grace", "--json")
    assert cutover.at("stands") == "approved"

    listed = run_here(greenfly, "review", "list", "--json")
    stands = {str(listed.at("gates", place, "gate")): listed.at("gates", place, "stands") for place in (0, 1)}
    assert stands == {"cutover": "approved", "review": "repeat asked for"}
    assert run_here(greenfly, "review", "list", "--open").stdout == "Nothing to decide.\n"


@dataclass(slots=True)
class Answering(Silent):
    """Somebody who decides as soon as the cutover waits."""

    ledger: Ledger
    run: str
    decision: Decision

    def say(self, text: str) -> None:
        """Decide."""
        decide(self.ledger.engine, self.run, "cutover", self.decision, "ada", "because", Separate())


def test_a_cutover_that_waits_goes_on_with_a_yes_and_ends_with_a_no(
    settings: Settings, ledger: Ledger, run: str
) -> None:
    waiting = {"state_dir": settings.state_dir, "cutover": {"approvals": 1}}
    patient = load_settings(waiting, environ={}).settings
    for no in (Decision.REJECTED, Decision.REPEAT):
        with pytest.raises(Refused, match="ada"):
            wait_in_ledger(patient, run, Answering(ledger, run, no))
    wait_in_ledger(patient, run, Answering(ledger, run, Decision.APPROVED))
    asked = [event.actor for event in ledger.events(run) if event.kind == "approval.requested"]
    assert asked == [operator_name()] * 3

    other = ledger.start_run(RunKind.SYNC, settings)
    other.close()
    hasty = load_settings(waiting | {"flows": {"approval_seconds": 1}}, environ={}).settings
    with pytest.raises(Refused, match="Nobody"):
        wait_in_ledger(hasty, other.id, Silent())


def test_a_waiver_from_the_command_line_names_a_key_of_any_bytes(greenfly: Greenfly, run: str) -> None:
    flags = ("--class", "value", "--key", r"a\xff\\", "--why", "known", "--as", "grace", "--json")
    waived = run_here(greenfly, "review", "waive", run, *flags)
    assert (waived.exit_code, waived.at("key_hex"), waived.at("state")) == (0, b"a\xff\\".hex(), "in force")


def test_without_a_ledger_there_is_nothing_to_review(greenfly: Greenfly) -> None:
    assert run_here(greenfly, "review", "list").exit_code == 5


def test_a_terminal_is_told_nothing_by_a_hostile_label(greenfly: Greenfly, ledger: Ledger) -> None:
    hostile = "\x1b[31mgrace"
    flags = ("review", "approve", "latest", "--as", hostile)
    made = ledger.start_run(RunKind.VERIFY, load_settings({}, environ={}).settings)
    made.add_findings("verify", [NewFinding(FindingClass.VALUE, 0, b"a")])  # type: ignore[arg-type]
    made.close()
    run_here(greenfly, *flags)
    assert "\x1b" not in run_here(greenfly, "review", "list").stdout


def test_the_page_is_served_by_tls_and_ends_with_its_process(
    greenfly: Greenfly, ledger: Ledger, tmp_path: Path
) -> None:
    pair = make_tls_pair(tmp_path)
    files = {
        "GREENFLY_REVIEW__TLS_CERT_FILE": str(pair.cert_file),
        "GREENFLY_REVIEW__TLS_KEY_FILE": str(pair.key_file),
    }
    process = greenfly.start("review", "--json", "--port", "0", env=files)
    assert process.stdout is not None
    address = json.loads(process.stdout.readline())["url"]
    assert address.startswith("https://127.0.0.1:")
    secret = run_here(greenfly, "review", "token", "add", "--name", "vera").stdout.strip()
    answer = httpx.post(f"{address}sign-in", data={"token": secret}, verify=False)  # noqa: S501
    assert "Secure" in answer.headers["set-cookie"]
    assert answer.headers["set-cookie"].startswith("__Host-")
    assert "strict-transport-security" in answer.headers
    process.terminate()
    assert process.wait(20) == 143


def test_a_certificate_that_cannot_be_used_is_a_usage_error(
    greenfly: Greenfly, ledger: Ledger, tmp_path: Path
) -> None:
    (tmp_path / "x.pem").write_text("no certificate")
    files = {f"GREENFLY_REVIEW__TLS_{name}_FILE": str(tmp_path / "x.pem") for name in ("CERT", "KEY")}
    assert run_here(greenfly, "review", "--port", "0", env=files).exit_code == 2


def test_a_rollback_is_begun_as_the_command(
    settings: Settings, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    for side in ("SOURCE", "TARGET"):
        monkeypatch.setenv(f"GREENFLY_{side}__URL", "redis://127.0.0.1:1")
    act = actions_of(settings, None, settings.state_dir).roll_back
    assert act is not None
    act(RollbackRequest("20260101-000000-abcdef", "otto", "--slow", abandon_green=False))
    until, said = monotonic() + 30, ""
    while "20260101-000000-abcdef" not in said and monotonic() < until:
        sleep(0.1)
        logs = list((settings.state_dir / "review").glob("rollback-*.log"))
        said = logs[0].read_text() if logs else ""
    assert "holds no run '20260101-000000-abcdef'" in said
