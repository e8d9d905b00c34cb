"""Notifications reach a command and a webhook, and nothing secret comes back from either."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from time import monotonic, sleep

import pytest

from integrity.switch.notify import Delivery, Notifier
from integrity.switch.watch_settings import WatchSettings

SECRET = "T0K3N-of-the-channel"
SAVE = "import sys, pathlib; pathlib.Path(sys.argv[1]).write_bytes(sys.stdin.buffer.read())"


@dataclass(slots=True)
class Receiver:
    """A webhook on loopback."""

    answers: list[int]
    """Status of each answer; the last one again and again."""
    delay: float = 0.0
    url: str = ""
    bodies: list[object] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)


@contextmanager
def receiver(*answers: int, delay: float = 0.0) -> Iterator[Receiver]:
    got = Receiver(list(answers), delay)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            got.bodies.append(json.loads(body))
            got.paths.append(self.path)
            sleep(got.delay)
            status = got.answers.pop(0) if len(got.answers) > 1 else got.answers[0]
            self.send_response(status)
            if 300 <= status < 400:
                self.send_header("Location", f"{got.url}/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_POST

        def log_message(self, format: str, *args: object) -> None:
            """Nothing on stderr."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    got.url = f"http://127.0.0.1:{server.server_port}/{SECRET}"
    try:
        yield got
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def send(settings: dict[str, object], *events: str) -> list[Delivery]:
    notifier = Notifier(WatchSettings.model_validate(settings))
    with notifier:
        for event in events or ("guard.breached",):
            notifier.send(event, {"rule": "errors", "value": 12.5})
    found = notifier.deliveries()
    assert SECRET not in repr(found)
    return found


def test_the_webhook_gets_the_event_as_json() -> None:
    with receiver(204) as got:
        (delivery,) = send({"notify_webhook": got.url})
    assert got.bodies == [{"event": "guard.breached", "rule": "errors", "value": 12.5}]
    assert got.paths == [f"/{SECRET}"]
    assert delivery.delivered
    assert (delivery.channel, delivery.detail, delivery.attempts) == ("webhook", "HTTP 204", 1)


def test_the_command_gets_the_event_as_json_on_stdin(tmp_path: Path) -> None:
    file = tmp_path / "event.json"
    (delivery,) = send({"notify_command": [sys.executable, "-c", SAVE, str(file)]})
    assert json.loads(file.read_bytes()) == {"event": "guard.breached", "rule": "errors", "value": 12.5}
    assert delivery.delivered
    assert (delivery.channel, delivery.detail) == ("command", "exit code 0")


def test_both_are_told_of_every_event_in_order(tmp_path: Path) -> None:
    with receiver(200) as got:
        found = send({"notify_webhook": got.url, "notify_command": ["true"]}, "one", "two")
    assert [(delivery.event, delivery.channel) for delivery in found] == [
        ("one", "command"),
        ("one", "webhook"),
        ("two", "command"),
        ("two", "webhook"),
    ]
    assert [body["event"] for body in got.bodies if isinstance(body, dict)] == ["one", "two"]


def test_a_command_gets_no_password_of_greenfly_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GREENFLY_TARGET__PASSWORD", "hidden")
    monkeypatch.setenv("PAGER_TEAM", "on-call")
    file = tmp_path / "environment.json"
    dump = "import os, json, sys, pathlib; pathlib.Path(sys.argv[1]).write_text(json.dumps(dict(os.environ)))"
    send({"notify_command": [sys.executable, "-c", dump, str(file)]})
    environment = json.loads(file.read_text("utf-8"))
    assert environment["PAGER_TEAM"] == "on-call"
    assert "hidden" not in environment.values()


def test_a_webhook_that_fails_for_a_while_is_tried_again() -> None:
    with receiver(503, 200) as got:
        (delivery,) = send({"notify_webhook": got.url})
    assert delivery.delivered
    assert delivery.attempts == 2
    assert len(got.bodies) == 2


def test_a_webhook_that_refuses_is_not_tried_again() -> None:
    with receiver(404) as got:
        (delivery,) = send({"notify_webhook": got.url})
    assert not delivery.delivered
    assert (delivery.detail, delivery.attempts, len(got.bodies)) == ("HTTP 404", 1, 1)


def test_a_redirect_is_not_followed() -> None:
    with receiver(302) as got:
        (delivery,) = send({"notify_webhook": got.url})
    assert not delivery.delivered
    assert delivery.detail == "HTTP 302"
    assert got.paths == [f"/{SECRET}"]


def test_a_webhook_where_nobody_listens_is_a_failure_without_its_url() -> None:
    with receiver(200) as got:
        url = got.url
    (delivery,) = send({"notify_webhook": url})
    assert not delivery.delivered
    assert delivery.attempts == 3


@pytest.mark.parametrize("command", [["/no/such/program"], ["false"], ["sh", "-c", "kill -9 $$"]])
def test_a_command_that_fails_is_a_failure_and_no_error(command: list[str]) -> None:
    (delivery,) = send({"notify_command": command})
    assert not delivery.delivered


def test_what_does_not_end_is_ended_with_its_children(tmp_path: Path) -> None:
    begun, sign = monotonic(), tmp_path / "still-here"
    script = f"(sleep 2; touch {sign}) & sleep 30"
    (delivery,) = send({"notify_command": ["sh", "-c", script], "notify_timeout_seconds": 0.3})
    assert not delivery.delivered
    assert monotonic() - begun < 5
    sleep(2.2)
    assert not sign.exists()


def test_a_slow_receiver_does_not_hold_up_whoever_sends() -> None:
    with receiver(200, delay=1.0) as got:
        notifier = Notifier(WatchSettings.model_validate({"notify_webhook": got.url}))
        with notifier:
            begun = monotonic()
            notifier.send("guard.breached", {})
            took = monotonic() - begun
            assert notifier.deliveries() == []
        (delivery,) = notifier.deliveries()
    assert took < 0.5
    assert delivery.delivered
    assert delivery.seconds >= 1.0


def test_where_nobody_is_named_nothing_is_sent() -> None:
    assert not Notifier(WatchSettings()).active
    assert send({}) == []
