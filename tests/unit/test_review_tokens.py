"""Tokens of the review page: who can sign in, and what the ledger holds of a token."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import text

from integrity.errors import ConfigurationError, Refused
from integrity.ledger import Ledger, open_ledger
from integrity.ledger.review_models import Role
from integrity.ledger.tokens import add_token, find_token, read_token, read_tokens, revoke_token
from integrity.settings import load_settings
from tests.ledger import place


@pytest.fixture
def ledger(tmp_path: Path, ledger_url: str | None) -> Iterator[Ledger]:
    with closing(open_ledger(load_settings(place(tmp_path, ledger_url), environ={}).settings)) as opened:
        yield opened


def test_a_token_is_found_by_its_text_alone(ledger: Ledger) -> None:
    record, secret = add_token(ledger.engine, "grace", Role.REVIEWER, "ada", 1)
    add_token(ledger.engine, "other", Role.VIEWER, "ada", 1)

    assert find_token(ledger.engine, secret) == record
    assert (record.name, record.role, record.created_by) == ("grace", Role.REVIEWER, "ada")
    for wrong in (
        "",
        "x",
        secret[:-1],
        secret + "x",
        secret.swapcase(),
        f" {secret}",
        secret.replace("_", "-", 1),
    ):
        assert find_token(ledger.engine, wrong) is None, wrong


def test_one_token_does_not_open_with_the_secret_of_another(ledger: Ledger) -> None:
    first, second = (add_token(ledger.engine, name, Role.VIEWER, "ada", 1) for name in ("a", "b"))
    mixed = second[1].replace(second[0].id, first[0].id)
    assert find_token(ledger.engine, mixed) is None


def test_neither_the_ledger_nor_its_record_holds_a_secret(ledger: Ledger) -> None:
    _, secret = add_token(ledger.engine, "grace", Role.REVIEWER, "ada", 1)
    with ledger.engine.connect() as connection:
        held = [
            str(connection.execute(text(f"SELECT * FROM {name}")).all())  # noqa: S608
            for name in ("review_token", "event")
        ]
    assert all("grace" in each for each in held)
    assert all(secret.rsplit("_", 1)[1] not in each for each in held)


def test_an_expired_or_revoked_token_opens_nothing(ledger: Ledger) -> None:
    old, old_secret = add_token(ledger.engine, "old", Role.VIEWER, "ada", -1)
    gone, gone_secret = add_token(ledger.engine, "gone", Role.VIEWER, "ada", 1)
    revoked = revoke_token(ledger.engine, gone.id, "bob")

    assert find_token(ledger.engine, old_secret) is None
    assert find_token(ledger.engine, gone_secret) is None
    assert (revoked.revoked_by, read_token(ledger.engine, gone.id)) == ("bob", revoked)
    assert {token.id for token in read_tokens(ledger.engine)} == {old.id, gone.id}


def test_a_token_is_revoked_once_and_only_where_there_is_one(ledger: Ledger) -> None:
    record, _ = add_token(ledger.engine, "grace", Role.VIEWER, "ada", 1)
    revoke_token(ledger.engine, record.id, "ada")
    with pytest.raises(Refused):
        revoke_token(ledger.engine, record.id, "ada")
    with pytest.raises(ConfigurationError):
        revoke_token(ledger.engine, "nothing", "ada")


@pytest.mark.parametrize("name", ["", " grace", "x" * 101, "a\nb", "a\x00b", "\u202egrace"])
def test_a_name_that_would_not_be_read_right_is_refused(ledger: Ledger, name: str) -> None:
    with pytest.raises(ConfigurationError):
        add_token(ledger.engine, name, Role.VIEWER, "ada", 1)


def test_each_role_includes_those_before_it() -> None:
    may = {(role, other) for role in Role for other in Role if role.includes(other)}
    assert may == {
        (Role.VIEWER, Role.VIEWER),
        (Role.REVIEWER, Role.VIEWER),
        (Role.REVIEWER, Role.REVIEWER),
        (Role.OPERATOR, Role.VIEWER),
        (Role.OPERATOR, Role.REVIEWER),
        (Role.OPERATOR, Role.OPERATOR),
    }
