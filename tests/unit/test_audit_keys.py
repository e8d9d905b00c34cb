"""Keys, checkpoints, and the file in which checkpoints are kept away from the ledger."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from integrity.audit.checkpoint import Checkpoint
from integrity.audit.keeping import append_kept, read_kept, require_usable
from integrity.audit.keys import (
    PublicKey,
    SigningKey,
    Standing,
    Trust,
    exact_base64,
    generate_key,
    load_signing_key,
    load_trust,
)
from integrity.audit.settings import AuditSettings
from integrity.errors import ConfigurationError, LedgerError
from integrity.settings import load_settings, public_view

LEDGER = "a" * 64
HEAD = "b" * 64


def new_key() -> SigningKey:
    return SigningKey(Ed25519PrivateKey.generate())


def pem_of(private: object) -> str:
    return private.private_bytes(  # type: ignore[attr-defined, no-any-return]
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


# -- keys ------------------------------------------------------------------------------------------------------------


def test_a_new_key_is_its_owners_only_and_signs_what_its_public_key_checks(tmp_path: Path) -> None:
    public = generate_key(tmp_path / "key")

    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600
    key = load_signing_key(AuditSettings(key_file=tmp_path / "key"))
    assert key is not None
    assert key.public == public == PublicKey.parse(str(public))
    assert public.made(key.sign(b"text"), b"text")
    assert not public.made(key.sign(b"text"), b"texts")
    assert not new_key().public.made(key.sign(b"text"), b"text")


def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("precious")

    with pytest.raises(ConfigurationError):
        generate_key(tmp_path / "key")

    assert (tmp_path / "key").read_text() == "precious"


@pytest.mark.parametrize("form", ["the file", "the file with escapes left out", "its one line"])
def test_a_variable_holds_the_key_in_any_of_its_forms(tmp_path: Path, form: str) -> None:
    public = generate_key(tmp_path / "key")
    text = (tmp_path / "key").read_text()
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    given_text = {
        "the file": text,
        "the file with escapes left out": "\n".join(lines),
        "its one line": lines[1],
    }

    key = load_signing_key(AuditSettings(key=SecretStr(given_text[form])))

    assert key is not None
    assert key.public == public


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nonsense",
        "A" * 64,
        pem_of(generate_private_key(SECP256R1())),
        Ed25519PrivateKey.generate()
        .private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"passphrase"),
        )
        .decode(),
    ],
    ids=["empty", "nonsense", "base64", "another kind", "with a passphrase"],
)
def test_what_is_no_private_key_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_signing_key(AuditSettings(key=SecretStr(text)))

    assert "audit.key" in caught.value.problem
    assert not text or text not in str(caught.value)


def test_a_key_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_signing_key(AuditSettings(key_file=tmp_path / "missing"))
    assert str(tmp_path / "missing") in caught.value.problem
    (tmp_path / "large").write_bytes(b"#" * 100_000)
    with pytest.raises(ConfigurationError):
        load_signing_key(AuditSettings(key_file=tmp_path / "large"))


def test_settings_take_keys_from_variables_and_never_show_the_private_one() -> None:
    one, two = new_key().public, new_key().public
    found = load_settings(
        environ={"GREENFLY_AUDIT__TRUSTED_KEYS": f"{one}, {two}", "GREENFLY_AUDIT__KEY": "top-secret"}
    ).settings

    assert found.audit.trusted_keys == (str(one), str(two))
    assert "top-secret" not in json.dumps(public_view(found)) + repr(found)


def test_two_private_keys_at_once_are_refused() -> None:
    with pytest.raises(ConfigurationError):
        load_settings({"audit": {"key": "one", "key_file": "two"}}, environ={})


def test_trust_comes_from_settings_the_own_key_flags_and_files(tmp_path: Path) -> None:
    own, old, flag, listed = (
        generate_key(tmp_path / "key"),
        new_key().public,
        new_key().public,
        new_key().public,
    )
    (tmp_path / "keys").write_text(f"# of the other team\n\n{listed}\n")
    settings = AuditSettings(key_file=tmp_path / "key", trusted_keys=(str(old),))

    trust = load_trust(settings, [str(flag), str(tmp_path / "keys")])

    assert set(trust.keys) == {own.id, old.id, flag.id, listed.id}


@pytest.mark.parametrize("text", ["ed25519:short", "ed25519:" + "A" * 42 + "B="])
def test_a_trusted_key_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError):
        load_trust(AuditSettings(), [text])


@given(st.binary(min_size=64, max_size=64), st.data())
def test_base64_has_one_spelling_only(data: bytes, more: st.DataObject) -> None:
    import base64

    text = base64.b64encode(data).decode()
    assert exact_base64(text, 64) == data
    place = more.draw(st.integers(0, len(text) - 1))
    other = text[:place] + more.draw(st.sampled_from("AQgw+/=_- \n")) + text[place + 1 :]
    if other != text:
        try:
            assert exact_base64(other, 64) != data
        except ValueError:
            return


# -- checkpoints -----------------------------------------------------------------------------------------------------


CHANGES: dict[str, Callable[[Checkpoint], Checkpoint]] = {
    "ledger": lambda one: replace(one, ledger="c" * 64),
    "sequence": lambda one: replace(one, sequence=6),
    "head": lambda one: replace(one, head="c" * 64),
    "at": lambda one: replace(one, at="2020-01-01T00:00:00+00:00"),
    "signature": lambda one: replace(one, signature=bytes(64)),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_checkpoint_signs_each_of_its_fields(name: str) -> None:
    key = new_key()
    checkpoint = Checkpoint.make(key, LEDGER, 5, HEAD)

    assert Checkpoint.read(json.loads(checkpoint.line())) == checkpoint
    assert checkpoint.standing(Trust([key.public])) is Standing.TRUSTED
    assert CHANGES[name](checkpoint).standing(Trust([key.public])) is Standing.FALSE


def test_a_checkpoint_by_another_key_is_told_as_such() -> None:
    key, other = new_key(), new_key()
    checkpoint = Checkpoint.make(other, LEDGER, 5, HEAD)

    assert checkpoint.standing(Trust([key.public])) is Standing.UNKNOWN_KEY
    assert checkpoint.standing(Trust(), other.public) is Standing.UNKNOWN_KEY
    assert checkpoint.standing(Trust(), key.public) is Standing.FALSE
    assert replace(checkpoint, key_id=key.public.id).standing(Trust([key.public])) is Standing.FALSE


@pytest.mark.parametrize(
    "change",
    [
        {"format": "greenfly-checkpoint 2"},
        {"sequence": -1},
        {"sequence": True},
        {"head": "b"},
        {"at": "yesterday\x1b[2J"},
        {"signature": "x"},
        {"more": 1},
    ],
    ids=str,
)
def test_what_is_no_checkpoint_of_this_format_is_refused(change: dict[str, object]) -> None:
    table = Checkpoint.make(new_key(), LEDGER, 5, HEAD).to_dict() | change

    with pytest.raises(ValueError, match=r"."):
        Checkpoint.read(table)


# -- kept elsewhere --------------------------------------------------------------------------------------------------


def test_checkpoints_are_appended_one_a_line(tmp_path: Path) -> None:
    key, path = new_key(), tmp_path / "kept"
    made = [Checkpoint.make(key, LEDGER, number, HEAD) for number in (1, 2, 3)]
    for checkpoint in made:
        append_kept(path, checkpoint)

    assert [kept.checkpoint for kept in read_kept(path)] == made
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_line_that_a_crash_cut_short_is_told_and_the_next_one_is_whole(tmp_path: Path) -> None:
    key, path = new_key(), tmp_path / "kept"
    append_kept(path, Checkpoint.make(key, LEDGER, 1, HEAD))
    with path.open("ab") as file:
        file.write(b'{"format":"greenf')
    second = Checkpoint.make(key, LEDGER, 2, HEAD)
    append_kept(path, second)

    kept = read_kept(path)

    assert [one.checkpoint is None for one in kept] == [False, True, False]
    assert kept[1].place == "kept, line 2"
    assert kept[2].checkpoint == second


def test_a_file_of_another_ledger_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "kept"
    append_kept(path, Checkpoint.make(new_key(), LEDGER, 1, HEAD))

    require_usable(path, LEDGER)
    for other in ("c" * 64, None):
        with pytest.raises(ConfigurationError):
            require_usable(path, other)


def test_a_file_that_is_no_list_of_checkpoints_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("buy milk\n")

    with pytest.raises(ConfigurationError):
        require_usable(tmp_path / "notes", LEDGER)

    assert (tmp_path / "notes").read_text() == "buy milk\n"


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "kept"

    with pytest.raises(ConfigurationError) as caught:
        require_usable(path, LEDGER)
    assert str(path) in caught.value.problem
    with pytest.raises(LedgerError) as failed:
        append_kept(path, Checkpoint.make(new_key(), LEDGER, 1, HEAD))
    assert os.fspath(path) in failed.value.problem
    with pytest.raises(ConfigurationError):
        read_kept(path)
