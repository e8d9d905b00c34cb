"""The webhook that asks for a rollback: who may, what is understood, and that a request does nothing twice."""

from __future__ import annotations

import json
import re
import ssl
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import pytest

from flows.webhook import MOST_BYTES, serve_webhook
from greenfly.demo.servers import TlsPair
from integrity.errors import ConfigurationError
from integrity.progress import Silent
from integrity.settings import Settings, load_settings
from tests.conftest import StartServer
from tests.live import Live
from tests.servers import connect

TOKEN: Final = "webhook-token-0123456789abcdef"
ASKED: Final = {"run": "20260101-000000-abcdef", "reason": "cart is slow"}
LIVE: Final = """
[cutover]
confirm = "environment"
canary_key = ""
[flows.webhook]
port = 0
token = "{token}"
wait_seconds = 60
"""


@dataclass(frozen=True, slots=True)
class Answered:
    """What the webhook said."""

    status: int
    body: dict[str, object]


def post(
    url: str,
    body: object,
    *,
    key: str | None = "key-1",
    authorization: str | None = f"Bearer {TOKEN}",
    context: ssl.SSLContext | None = None,
) -> Answered:
    headers = {"Content-Type": "application/json"}
    if key is not None:
        headers["Idempotency-Key"] = key
    if authorization is not None:
        headers["Authorization"] = authorization
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = Request(url, data, headers, method="POST")  # noqa: S310  (our own on loopback)
    try:
        with urlopen(request, timeout=90, context=context) as answer:  # noqa: S310
            return Answered(answer.status, json.loads(answer.read()))
    except HTTPError as error:
        with error:
            return Answered(error.code, json.loads(error.read() or b"{}"))


def settings_of(state_dir: Path, **webhook: object) -> Settings:
    return load_settings(
        {"state_dir": state_dir, "flows": {"webhook": {"port": 0, "token": TOKEN} | webhook}}, environ={}
    ).settings


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A webhook over an empty ledger."""
    with serve_webhook(settings_of(tmp_path_factory.mktemp("webhook")), Silent()) as served:
        yield served


# -- who may ask -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "authorization",
    [None, "", "Bearer", "Bearer ", f"Basic {TOKEN}", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", TOKEN],
)
def test_without_the_token_nothing_is_understood(url: str, authorization: str | None) -> None:
    assert post(url, b"not even JSON", authorization=authorization).status == 401


@pytest.mark.parametrize(
    "token", ["short", "x" * 23, "with spaces in it 0123456789", "ümlaut-0123456789-0123456789"]
)
def test_a_weak_token_is_refused_and_not_repeated(state_dir: Path, token: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        settings_of(state_dir, token=token)
    assert token not in str(refused.value)


def test_without_a_token_it_is_not_served(state_dir: Path) -> None:
    with (
        pytest.raises(ConfigurationError),
        serve_webhook(load_settings({"state_dir": state_dir}, environ={}).settings, Silent()),
    ):
        pass


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "blue.example"])  # noqa: S104
def test_beyond_loopback_it_needs_tls(state_dir: Path, host: str) -> None:
    with pytest.raises(ConfigurationError):
        settings_of(state_dir, host=host)


def test_with_tls_it_speaks_nothing_else(state_dir: Path, tls_pair: TlsPair) -> None:
    settings = settings_of(state_dir, tls_cert_file=tls_pair.cert_file, tls_key_file=tls_pair.key_file)
    with serve_webhook(settings, Silent()) as served:
        assert served.startswith("https://")
        context = ssl.create_default_context(cafile=str(tls_pair.ca_file))
        assert post(served, ASKED, context=context).status == 404
        with pytest.raises((URLError, OSError)):
            post(served.replace("https", "http"), ASKED)


# -- what is understood ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 422),
        (b"{", 422),
        ([], 422),
        ({"run": "latest", "reason": "never without an id"}, 422),
        ({"run": ASKED["run"]}, 422),
        (ASKED | {"reason": ""}, 422),
        (ASKED | {"abandon": "yes"}, 422),
        (ASKED | {"target": "redis://elsewhere"}, 422),
        (b" " * (MOST_BYTES + 1), 413),
        (ASKED, 404),
    ],
)
def test_what_it_does_not_know_it_refuses(url: str, body: object, status: int) -> None:
    assert post(url, body).status == status


@pytest.mark.parametrize("key", [None, "", "k" * 101])
def test_a_request_needs_a_key(url: str, key: str | None) -> None:
    assert post(url, ASKED, key=key).status == 400


def test_it_answers_nothing_but_requests_to_roll_back(url: str) -> None:
    for method, path, status in (("GET", "", 405), ("DELETE", "", 405), ("GET", "/../runs", 404)):
        with pytest.raises(HTTPError) as refused:
            urlopen(Request(url + path, method=method), timeout=30)  # noqa: S310
        refused.value.close()
        assert refused.value.code == status


# -- what is done ------------------------------------------------------------------------------------------------------


def test_requests_at_once_roll_back_once_and_a_repeated_one_never_again(
    start_redis: StartServer, tmp_path: Path
) -> None:
    blue, green = start_redis(), start_redis()
    with Live(tmp_path, blue.url, green.url, LIVE.format(token=TOKEN)) as live:
        live.sync()
        live.start("serve", "--webhook", "--no-flows", name="serve")
        live.wait_until_clean()
        cutover = live.run("cutover", "--yes", "--json")
        assert cutover.code == 0, cutover.err
        green.client.set("on:green", "kept")
        sync_run = str(cutover.json()["sync_run"])
        live.wait_until(lambda: "http://" in live.log("serve"), "the webhook is served")
        found = re.search(r"http://\S+/rollback", live.log("serve"))
        assert found is not None
        url, asked = found[0], {"run": sync_run, "reason": "cart is slow"}

        with ThreadPoolExecutor(3) as pool:
            answers = list(pool.map(lambda key: post(url, asked, key=key), ["a", "b", "a"]))
        assert [answer.status for answer in answers] == [200, 200, 200], answers
        assert {answer.body["answer"] for answer in answers} <= {"done", "joined", "on-blue"}
        finished = live.rows("SELECT id FROM run WHERE kind = 'rollback' AND state = 'finished'")
        assert len(finished) == 1
        assert "DRAGONFLY_URL" not in live.environment()
        assert connect(blue.url).get("on:green") == b"kept"
        origins = [event["origin"] for event in live.events("rollback.triggered")]
        assert origins == ["webhook", "webhook"]

        # Somebody replays what was sent, after the applications were moved again.
        live.wait_until_clean()
        again = live.run("cutover", "--yes", "--json")
        assert again.code == 0, again.err
        for key in ("a", "b"):
            replayed = post(url, asked, key=key)
            assert (replayed.status, replayed.body["repeated"]) == (200, True)
        assert post(url, asked | {"reason": "another"}, key="a").status == 409
        assert "DRAGONFLY_URL" in live.environment()
        assert len(live.rows("SELECT id FROM run WHERE kind = 'rollback' AND state = 'finished'")) == 1
        written = [path for path in live.state.rglob("*") if path.is_file()]
        assert not [path for path in written if TOKEN.encode() in path.read_bytes()]
