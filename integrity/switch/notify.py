"""Telling somebody: a command that gets the event as JSON, a webhook that gets it by POST.

Notifications go out one after the other in a thread of their own, so that a slow receiver holds up neither the guard
nor a rollback.  What became of them is collected by the guard.  The webhook's URL is a secret and appears nowhere;
neither does what a receiver answered, or what the command printed.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import ssl
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from email.message import Message
from queue import Empty, SimpleQueue
from threading import Thread
from time import monotonic, sleep
from types import TracebackType
from typing import IO, Final, Literal, Self
from urllib.error import HTTPError, URLError
from urllib.request import HTTPRedirectHandler, HTTPSHandler, Request, build_opener

from integrity.switch.watch_settings import WatchSettings
from integrity.version import __version__

_WEBHOOK_ATTEMPTS: Final = 3
_RETRY_SECONDS: Final = 1.0

Channel = Literal["command", "webhook"]


@dataclass(frozen=True, slots=True)
class Delivery:
    """What became of one notification on one way."""

    event: str
    channel: Channel
    delivered: bool
    detail: str
    """Exit code or HTTP status, or why there is none; without secrets."""
    seconds: float
    attempts: int

    def to_dict(self) -> dict[str, object]:
        """Plain JSON values."""
        return {
            "event": self.event,
            "channel": self.channel,
            "delivered": self.delivered,
            "detail": self.detail,
            "seconds": round(self.seconds, 3),
            "attempts": self.attempts,
        }


class Notifier:
    """Sends events by the ways that *settings* name; a context manager.  Nothing is raised for a receiver's sake."""

    def __init__(self, settings: WatchSettings) -> None:
        self._settings = settings
        self._waiting: SimpleQueue[tuple[str, bytes] | None] = SimpleQueue()
        self._done: SimpleQueue[Delivery] = SimpleQueue()
        self._thread = Thread(target=self._run, name="greenfly-notify", daemon=True)

    def __enter__(self) -> Self:
        if self.active:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.finish()

    @property
    def active(self) -> bool:
        """Whether there is anybody to tell."""
        return bool(self._settings.notify_command) or self._settings.notify_webhook is not None

    def send(self, event: str, payload: Mapping[str, object]) -> None:
        """Hand an event over; returns at once."""
        if self.active:
            self._waiting.put((event, json.dumps({"event": event} | dict(payload)).encode()))

    def deliveries(self) -> list[Delivery]:
        """What became of notifications since the last call."""
        found = []
        with suppress(Empty):
            while True:
                found.append(self._done.get_nowait())
        return found

    def finish(self) -> None:
        """Wait until everything that was handed over is sent, as long as that may take by the settings."""
        if self._thread.is_alive():
            self._waiting.put(None)
            self._thread.join(
                (self._waiting.qsize() + 1) * (_WEBHOOK_ATTEMPTS + 1) * self._settings.notify_timeout_seconds
            )

    # -- the thread ---------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while (item := self._waiting.get()) is not None:
            event, body = item
            if self._settings.notify_command:
                self._done.put(self._call(event, body))
            if self._settings.notify_webhook is not None:
                self._done.put(self._post(event, body, self._settings.notify_webhook.get_secret_value()))

    def _call(self, event: str, body: bytes) -> Delivery:
        begun = monotonic()
        try:
            delivered, detail = self._run_command(body)
        except OSError as error:
            delivered, detail = False, f"cannot be started ({error.strerror or type(error).__name__})"
        except ValueError:
            delivered, detail = False, "cannot be started (its words cannot be passed on)"
        return Delivery(event, "command", delivered, detail, monotonic() - begun, 1)

    def _run_command(self, body: bytes) -> tuple[bool, str]:
        with subprocess.Popen(
            self._settings.notify_command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={name: value for name, value in os.environ.items() if not name.startswith("GREENFLY_")},
            # Ctrl-C at the terminal ends the guard, not what it has begun to tell.
            start_new_session=True,
        ) as process:
            try:
                process.communicate(body, self._settings.notify_timeout_seconds)
            except subprocess.TimeoutExpired:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                return False, f"no end within {self._settings.notify_timeout_seconds:g} s"
        return process.returncode == 0, f"exit code {process.returncode}"

    def _post(self, event: str, body: bytes, url: str) -> Delivery:
        begun = monotonic()
        attempts, delivered, again, detail = 0, False, True, ""
        while again and attempts < _WEBHOOK_ATTEMPTS:
            if attempts:
                sleep(_RETRY_SECONDS * attempts)
            attempts += 1
            delivered, again, detail = self._post_once(body, url)
        return Delivery(event, "webhook", delivered, detail, monotonic() - begun, attempts)

    def _post_once(self, body: bytes, url: str) -> tuple[bool, bool, str]:
        """Whether it was taken, whether trying again may help, and what was answered."""
        headers = {"Content-Type": "application/json", "User-Agent": f"greenfly/{__version__}"}
        opener = build_opener(HTTPSHandler(context=ssl.create_default_context()), _NoRedirect())
        try:
            # The settings allow http:// and https:// only.
            request = Request(url, body, headers, method="POST")  # noqa: S310
            with opener.open(request, timeout=self._settings.notify_timeout_seconds) as answer:
                return True, False, f"HTTP {answer.status}"
        except HTTPError as error:
            with error:
                return False, error.code >= 500 or error.code == 429, f"HTTP {error.code}"
        except URLError as error:
            return False, True, _reason(error.reason)
        except (OSError, http.client.HTTPException, ValueError) as error:
            # The text of an HTTPException or ValueError may hold a piece of the URL.
            return False, True, _reason(error)


def _reason(error: object) -> str:
    match error:
        case ssl.SSLCertVerificationError():
            return f"its certificate is not trusted ({error.verify_message})"
        case TimeoutError():
            return "no answer in time"
        case OSError() if error.strerror:
            return f"no connection ({error.strerror})"
        case _:
            return f"no answer that is HTTP ({type(error).__name__})"


class _NoRedirect(HTTPRedirectHandler):
    """An event goes where the operator said, and nowhere else: a redirect is an answer like a refusal."""

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> None:
        """Not followed."""
