"""The webhook that asks for a rollback: ``POST /rollback`` with a token, a run and a reason.

It works without an orchestrator, and answers when the rollback has ended or ``flows.webhook.wait_seconds`` are over.
A request is known by its ``Idempotency-Key``: the same one again starts nothing, and gets the same answer, also from
another process or after a restart, because the ledger keeps it.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from contextlib import contextmanager
from time import monotonic, sleep
from typing import Final

import uvicorn
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from flows.rollback_request import Origin, bring_back
from flows.webhook_book import find_request, key_digest, record_asked, record_ended
from integrity.errors import ConfigurationError, GreenflyError, LedgerError, Refused
from integrity.ledger import Ledger, open_ledger
from integrity.progress import Progress
from integrity.settings import Settings
from integrity.switch.conductor import find_sync_run

MOST_BYTES: Final = 16 * 1024
_KEY_LENGTH: Final = 100
_START_SECONDS: Final = 15.0
_NO_STORE: Final = {"Cache-Control": "no-store"}

_logger = logging.getLogger(__name__)


class RollbackAsked(BaseModel):
    """The body of ``POST /rollback``."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    run: str = Field(min_length=10, max_length=40, description="the sync run or its cutover; never latest")
    reason: str = Field(min_length=1, max_length=2000)
    abandon: bool = False


class Webhook:
    """Answers requests; what it starts goes on in threads of its own.

    :raises ConfigurationError: no token is set.
    """

    def __init__(self, settings: Settings, progress: Progress) -> None:
        token = settings.flows.webhook.token
        if token is None:
            raise ConfigurationError(
                "The webhook has no token.",
                "Set GREENFLY_FLOWS__WEBHOOK__TOKEN, for example to what `openssl rand -hex 32` prints.",
            )
        self._settings = settings
        self._progress = progress
        self._token: SecretStr = token
        self._lock = threading.Lock()
        self._under_way: dict[tuple[str, str], Future[dict[str, object]]] = {}
        self._pool = ThreadPoolExecutor(max_workers=4, thread_name_prefix="greenfly-webhook")

    def app(self) -> Starlette:
        """The application."""
        return Starlette(
            routes=[
                Route("/rollback", self._rollback, methods=["POST"]),
                Route("/health", self._health, methods=["GET"]),
            ]
        )

    def close(self) -> None:
        """Wait for what is under way: nobody else would end it."""
        self._pool.shutdown(wait=True)

    # -- requests ---------------------------------------------------------------------------------------------------

    async def _health(self, request: Request) -> JSONResponse:
        return JSONResponse({"ok": True}, headers=_NO_STORE)

    async def _rollback(self, request: Request) -> JSONResponse:
        if not self._is_known(request.headers.get("authorization", "")):
            _logger.warning("A request without the right token was refused.")
            return _answer(401, "The token is missing or wrong.", {"WWW-Authenticate": "Bearer"})
        key = request.headers.get("idempotency-key", "")
        if not 0 < len(key) <= _KEY_LENGTH or not key.isascii() or not key.isprintable():
            return _answer(400, f"Idempotency-Key must be 1 to {_KEY_LENGTH} printable ASCII characters.")
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > MOST_BYTES:
                return _answer(413, f"The body is larger than {MOST_BYTES} bytes.")
        try:
            asked = RollbackAsked.model_validate_json(bytes(body))
        except ValidationError as error:
            fields = sorted(
                {str(problem["loc"][0]) if problem["loc"] else "body" for problem in error.errors()}
            )
            return _answer(422, f"Not understood: {', '.join(fields)}.")
        caller = request.client.host if request.client is not None else "unknown"
        return await run_in_threadpool(self._ask, asked, key_digest(key), caller)

    def _is_known(self, header: str) -> bool:
        """Whether it is the token, in a time that tells nothing about it."""
        scheme, _, given = header.partition(" ")
        ours = hashlib.sha256(self._token.get_secret_value().encode()).digest()
        theirs = hashlib.sha256(given.strip().encode("utf-8", "surrogateescape")).digest()
        return hmac.compare_digest(ours, theirs) and scheme.lower() == "bearer"

    # -- doing ------------------------------------------------------------------------------------------------------

    def _ask(self, asked: RollbackAsked, digest: str, caller: str) -> JSONResponse:
        try:
            ledger = open_ledger(self._settings)
        except LedgerError as error:
            return _answer(503, str(error))
        try:
            return self._ask_once(ledger, asked, digest, caller)
        except (ConfigurationError, Refused) as error:
            return _answer(409 if isinstance(error, Refused) else 404, str(error))
        except LedgerError as error:
            return _answer(503, str(error))
        finally:
            ledger.close()

    def _ask_once(self, ledger: Ledger, asked: RollbackAsked, digest: str, caller: str) -> JSONResponse:
        sync_run = find_sync_run(ledger, asked.run)
        with self._lock:
            work = self._under_way.get((sync_run.id, digest))
            if work is None or work.done():
                known = find_request(ledger, sync_run.id, digest)
                if known is not None and known.reason != asked.reason:
                    return _answer(409, "This Idempotency-Key was used for another request.")
                if known is not None and known.result is not None:
                    return JSONResponse({**known.result, "repeated": True}, headers=_NO_STORE)
                if known is not None and known.is_stale:
                    return _answer(409, "This request is old and never came to its end: use another key.")
                record_asked(ledger, sync_run.id, digest, asked.reason, caller)
                work = self._pool.submit(self._do, sync_run.id, digest, asked)
                self._under_way[sync_run.id, digest] = work
        try:
            result = work.result(self._settings.flows.webhook.wait_seconds)
        except NotYet:
            facts = {"answer": "under-way", "sync_run": sync_run.id, "text": "Ask again with the same key."}
            return JSONResponse(facts, status_code=202, headers=_NO_STORE)
        return JSONResponse(result, status_code=200 if "error" not in result else 409, headers=_NO_STORE)

    def _do(self, sync_run_id: str, digest: str, asked: RollbackAsked) -> dict[str, object]:
        try:
            result = bring_back(
                self._settings,
                sync_run_id,
                self._progress,
                origin=Origin.WEBHOOK,
                reason=asked.reason,
                abandon=asked.abandon,
            ).to_dict()
        except GreenflyError as error:
            # Not recorded as ended: the same request may be made again when the cause is mended.
            self._progress.say(f"{error}")
            return {
                "answer": "failed",
                "sync_run": sync_run_id,
                "error": str(error),
                "kind": type(error).__name__,
            }
        ledger = open_ledger(self._settings)
        try:
            record_ended(ledger, sync_run_id, digest, result)
        finally:
            ledger.close()
        return result


def _answer(status: int, text: str, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"error": text}, status_code=status, headers=_NO_STORE | (headers or {}))


@contextmanager
def serve_webhook(settings: Settings, progress: Progress) -> Iterator[str]:
    """Serve the webhook in a thread for as long as the block runs; hands over its URL.

    :raises ConfigurationError: no token is set, or the address cannot be listened on.
    """
    rules = settings.flows.webhook
    webhook = Webhook(settings, progress)
    config = uvicorn.Config(
        webhook.app(),
        host=rules.host,
        port=rules.port,
        ssl_certfile=str(rules.tls_cert_file) if rules.tls_cert_file else None,
        ssl_keyfile=str(rules.tls_key_file) if rules.tls_key_file else None,
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="off",
        limit_concurrency=32,
        timeout_keep_alive=5,
    )
    server = _Server(config)
    try:
        config.load()
        socket = config.bind_socket()
    except (OSError, SystemExit) as error:
        raise ConfigurationError(
            f"The webhook cannot be served on {rules.host}:{rules.port}.",
            "Choose another flows.webhook.host or port, and look at its certificate and key.",
        ) from error
    thread = threading.Thread(
        target=server.run, kwargs={"sockets": [socket]}, name="greenfly-webhook", daemon=True
    )
    thread.start()
    try:
        until = monotonic() + _START_SECONDS
        while not server.started and thread.is_alive() and monotonic() < until:
            sleep(0.02)
        scheme = "https" if rules.tls_cert_file else "http"
        yield f"{scheme}://{rules.host}:{socket.getsockname()[1]}/rollback"
    finally:
        server.should_exit = True
        thread.join(_START_SECONDS)
        webhook.close()
        socket.close()


class _Server(uvicorn.Server):
    """A server in a thread leaves the process's signals alone."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Nothing is captured."""
        yield
