"""Requests to roll back that end without a rollback; those that roll back are in the scenarios and with the webhook."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.rollback_request import Answer, Origin, bring_back, recovered
from integrity.endpoint import Endpoint
from integrity.errors import GreenflyError
from integrity.ledger import Ledger, RunHandle, open_ledger
from integrity.ledger.models import RunKind, RunState
from integrity.progress import Silent
from integrity.settings import Settings, load_settings


@pytest.fixture
def settings(tmp_path: Path, state_dir: Path) -> Settings:
    """An environment that says blue; nobody listens on these ports, and nobody has to."""
    (tmp_path / "app.env").write_text("REDIS_URL=redis://127.0.0.1:1\n")
    return load_settings(
        {
            "state_dir": state_dir,
            "source": {"url": "redis://127.0.0.1:1"},
            "target": {"url": "redis://127.0.0.1:2"},
            "switch": {"kind": "dotenv", "dotenv": {"path": str(tmp_path / "app.env")}},
        },
        environ={},
    ).settings


@pytest.fixture
def ledger(settings: Settings) -> Iterator[Ledger]:
    opened = open_ledger(settings)
    yield opened
    opened.close()


@pytest.fixture
def sync(settings: Settings, ledger: Ledger) -> RunHandle:
    run = ledger.start_run(RunKind.SYNC, settings)
    addresses = [
        str(Endpoint.from_settings("source", settings.source)),
        str(Endpoint.from_settings("target", settings.target)),
    ]
    run.identify(source=None, target=None, source_address=addresses[0], target_address=addresses[1])
    return run


def kinds(ledger: Ledger, run_id: str) -> list[str]:
    return [event.kind for event in ledger.events(run_id) if event.kind.startswith("rollback.")]


@pytest.mark.parametrize("origin", list(Origin))
def test_on_blue_nothing_is_done_and_whoever_asked_is_recorded(
    settings: Settings, ledger: Ledger, sync: RunHandle, origin: Origin
) -> None:
    answer = bring_back(settings, "latest", Silent(), origin=origin, reason="slow", flow_run_id="f-1")
    assert (answer.answer, answer.sync_run_id, answer.outcome) == (Answer.ON_BLUE, sync.id, None)
    assert kinds(ledger, sync.id) == ["rollback.triggered", "rollback.not-needed"]
    (asked,) = (event for event in ledger.events(sync.id) if event.kind == "rollback.triggered")
    assert json.loads(asked.payload) == {
        "origin": origin.value,
        "reason": "slow",
        "abandon": False,
        "flow_run": "f-1",
    }
    assert ledger.child_runs(sync.id) == []


def test_what_cannot_be_done_is_tried_once_and_not_again_and_again(
    settings: Settings, ledger: Ledger, sync: RunHandle, tmp_path: Path
) -> None:
    (tmp_path / "app.env").write_text("REDIS_URL=redis://127.0.0.1:1\nDRAGONFLY_URL=redis://127.0.0.1:2\n")
    with pytest.raises(GreenflyError):
        bring_back(settings, sync.id, Silent(), origin=Origin.EVENT, reason="slow", patience_seconds=30)
    (run,) = ledger.child_runs(sync.id)
    assert (run.kind, run.state) == (RunKind.ROLLBACK, RunState.FAILED)


def test_a_breach_that_has_recovered_asks_for_nothing_any_more(
    settings: Settings, ledger: Ledger, sync: RunHandle
) -> None:
    watch = ledger.start_run(RunKind.WATCH, settings, parent_id=sync.id)
    assert recovered(settings, None, None) is None
    assert recovered(settings, watch.id, "errors") is None
    watch.event("guard.breached", {"rule": "errors"})
    watch.event("guard.breached", {"rule": "ops"})
    watch.event("guard.recovered", {"rule": "ops"})
    assert recovered(settings, watch.id, "errors") is None
    assert recovered(settings, watch.id, "ops")
    watch.event("guard.breached", {"rule": "ops"})
    assert recovered(settings, watch.id, "ops") is None
