"""Serving the page until the process is told to stop."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from types import FrameType

import uvicorn

from integrity.errors import ConfigurationError, Interrupted
from integrity.ledger import Ledger
from integrity.review_settings import ReviewSettings
from integrity.settings import Settings
from reports.review.actions import Actions
from reports.review.app import build_app

_BACKLOG = 128


def serve(ledger: Ledger, settings: Settings, actions: Actions, on_ready: Callable[[str], None]) -> None:
    """Serve until the process is told to stop.

    :param on_ready: told the address when somebody can connect.
    :raises Interrupted: it was.
    :raises ConfigurationError: the address cannot be listened on, or the certificate cannot be used.
    """
    review = settings.review
    listener = _listen(review)
    port = int(listener.getsockname()[1])
    config = uvicorn.Config(
        build_app(ledger, settings, actions, port),
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        lifespan="off",
        ssl_certfile=review.tls_cert_file,
        ssl_keyfile=review.tls_key_file,
        h11_max_incomplete_event_size=64 * 1024,
        limit_concurrency=200,
        timeout_graceful_shutdown=5,
    )
    try:
        try:
            config.load()
        except OSError as error:  # also what a certificate or key is refused with
            raise ConfigurationError(
                f"The certificate or key of the review page cannot be used ({error.strerror or error}).",
                "Check review.tls_cert_file and review.tls_key_file.",
            ) from error
        host = f"[{review.host}]" if ip_address(review.host).version == 6 else review.host
        on_ready(f"{'https' if review.tls else 'http'}://{host}:{port}/")
        server = _Server(config)
        server.run(sockets=[listener])
    finally:
        listener.close()
    if server.stopped_by is not None:
        stopped = Interrupted(server.stopped_by)
        stopped.remedy = "Nobody is signed in any more; what was decided is in the ledger."
        raise stopped


class _Server(uvicorn.Server):
    """Ends in order when a signal comes, and remembers which: the command's exit code tells it."""

    stopped_by: int | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to end."""
        self.stopped_by = sig
        super().handle_exit(sig, frame)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As the library's, but the signal is not sent once more from inside the event loop, which would swallow it."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        before = {number: signal.signal(number, self.handle_exit) for number in signals}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _listen(settings: ReviewSettings) -> socket.socket:
    family = socket.AF_INET6 if ip_address(settings.host).version == 6 else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((settings.host, settings.port))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise ConfigurationError(
            f"The review page cannot listen on {settings.host} port {settings.port} ({error.strerror}).",
            "Give another one with --port, or end what listens there.",
        ) from error
    return listener
