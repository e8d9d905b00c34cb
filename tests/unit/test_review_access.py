"""Sessions, attempts, and the addresses that the page may be served on."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from integrity.errors import ConfigurationError
from integrity.ledger.review_models import Role
from integrity.ledger.tokens import TokenRecord
from integrity.settings import load_settings
from reports.review.keys import key_view
from reports.review.protection import host_name
from reports.review.sessions import Attempts, Sessions

NOW = datetime(2026, 11, 26, tzinfo=UTC)
TOKEN = TokenRecord("0" * 12, "grace", Role.VIEWER, NOW, "ada", NOW)


class Clock:
    """A clock that goes when it is told to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_session_ends_when_it_was_not_used_for_so_long() -> None:
    clock = Clock()
    sessions = Sessions(60, clock)
    number = sessions.open(TOKEN)
    for _ in range(3):
        clock.now += 50
        assert sessions.find(number) is not None
    clock.now += 50
    assert sessions.find(number, use=False) is not None
    clock.now += 20
    assert sessions.find(number) is None


def test_every_session_has_an_id_and_a_form_token_of_its_own() -> None:
    sessions = Sessions(60)
    numbers = [sessions.open(TOKEN) for _ in range(20)]
    found = [sessions.find(number) for number in numbers]
    assert len(set(numbers)) == len({each.csrf for each in found if each}) == 20
    sessions.end(numbers[0])
    assert sessions.find(numbers[0]) is None


def test_the_oldest_sessions_make_room() -> None:
    sessions = Sessions(60)
    numbers = [sessions.open(TOKEN) for _ in range(1_005)]
    assert [sessions.find(number) is None for number in numbers[:6]] == [True] * 5 + [False]


def test_an_address_waits_after_too_many_wrong_tokens_and_no_other_does() -> None:
    clock = Clock()
    attempts = Attempts(3, clock)
    for _ in range(3):
        assert attempts.wait_seconds("a") == 0
        attempts.failed("a")
    assert attempts.wait_seconds("a") == 60
    assert attempts.wait_seconds("b") == 0
    clock.now += 61
    assert attempts.wait_seconds("a") == 0


@pytest.mark.parametrize(
    "table",
    [
        {"host": "0.0.0.0"},  # noqa: S104  (refused)
        {"host": "::"},
        {"host": "192.0.2.1"},
        {"host": "localhost"},
        {"tls_cert_file": "cert.pem"},
        {"host": "0.0.0.0", "tls_key_file": "key.pem"},  # noqa: S104
        {"names": ["a b"]},
        {"token_days": 0},
    ],
)
def test_settings_that_would_show_the_page_to_anybody_are_refused(table: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError):
        load_settings({"review": table}, environ={})


def test_other_addresses_are_allowed_with_a_certificate() -> None:
    files = {"tls_cert_file": Path("cert.pem"), "tls_key_file": Path("key.pem")}
    review = load_settings({"review": {"host": "192.0.2.1", **files}}, environ={}).settings.review
    assert review.tls


@pytest.mark.parametrize(
    ("host", "name"),
    [("LocalHost:80", "localhost"), ("[::1]:8480", "::1"), ("a@b", "b"), ("", ""), ("[", ""), ("x:y:z", "x")],
)
def test_the_name_in_a_host_header(host: str, name: str) -> None:
    assert host_name(host) == name


def test_a_key_is_cut_between_characters_and_told_in_digits_where_text_does_not_do() -> None:
    assert (key_view(b"plain").hex, key_view(b"plain").text) == (None, "plain")
    assert key_view(b"\xff\n") == key_view(b"\xff\n", 2)
    assert key_view(b"\xff\n").hex == "ff0a"
    cut = key_view("é".encode() * 200, limit=241)
    assert (cut.text, cut.left_out) == ("é" * 120, 160)
