"""Ed25519 keys: making, reading, signing, and whose signatures count.

A private key file is PEM (PKCS #8), as OpenSSL reads it, below comment lines.  A public key is written as
``ed25519:`` and 44 characters of base64; its id is the first half of its SHA-256.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Final, Self

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from integrity.audit.settings import AuditSettings
from integrity.errors import ConfigurationError

_PREFIX: Final = "ed25519:"
_KEY_BYTES: Final = 32
_SIGNATURE_BYTES: Final = 64
_MOST_FILE_BYTES: Final = 64 * 1024
_PEM: Final = re.compile(r"-----BEGIN [A-Z0-9 ]+-----.+?-----END [A-Z0-9 ]+-----", re.DOTALL)
_BARE: Final = re.compile(r"[A-Za-z0-9+/]{60,}={0,2}")
_BEGIN, _END = "-----BEGIN PRIVATE KEY-----", "-----END PRIVATE KEY-----"


def exact_base64(text: str, size: int) -> bytes:
    """The *size* bytes that *text* stands for; each has one spelling only.

    :raises ValueError: another size, or another spelling.
    """
    try:
        data = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError("it is not base64") from error
    if len(data) != size or base64.b64encode(data).decode("ascii") != text:
        raise ValueError(f"it is not the base64 of {size} bytes")
    return data


@dataclass(frozen=True, slots=True)
class PublicKey:
    """What signatures are checked with."""

    raw: bytes

    @classmethod
    def parse(cls, text: str) -> Self:
        """From its text.

        :raises ValueError: it is none.
        """
        if not text.startswith(_PREFIX):
            raise ValueError(f"a public key begins with {_PREFIX}")
        return cls(exact_base64(text.removeprefix(_PREFIX), _KEY_BYTES))

    @property
    def id(self) -> str:
        """A short name for it: the first 32 hexadecimal digits of its SHA-256."""
        return hashlib.sha256(self.raw).hexdigest()[:32]

    def __str__(self) -> str:
        return _PREFIX + base64.b64encode(self.raw).decode("ascii")

    def made(self, signature: bytes, message: bytes) -> bool:
        """Whether *signature* is this key's, of exactly *message*."""
        if len(signature) != _SIGNATURE_BYTES:
            return False
        try:
            Ed25519PublicKey.from_public_bytes(self.raw).verify(signature, message)
        except (InvalidSignature, ValueError):
            return False
        return True


class SigningKey:
    """A private key; its text never leaves it."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public = PublicKey(
            key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
        )

    def __repr__(self) -> str:
        return f"SigningKey({self.public.id})"

    def sign(self, message: bytes) -> bytes:
        """64 bytes."""
        return self._key.sign(message)


class Standing(StrEnum):
    """What a signature is worth to whoever checks it."""

    TRUSTED = "trusted"
    UNKNOWN_KEY = "unknown-key"
    """Made with a key that the checker was not told to trust; anybody can make such a key."""
    FALSE = "false"
    """Not made with the key that it names, or not for this text."""


class Trust:
    """The public keys whose signatures count."""

    def __init__(self, keys: Iterable[PublicKey] = ()) -> None:
        self.keys = {key.id: key for key in keys}

    def __bool__(self) -> bool:
        return bool(self.keys)

    def judge(self, key_id: str, signature: bytes, message: bytes, claimed: PublicKey | None) -> Standing:
        """What *signature* is worth.

        :param claimed: the key as the checked material itself tells it.
        """
        trusted = self.keys.get(key_id)
        if trusted is not None:
            return Standing.TRUSTED if trusted.made(signature, message) else Standing.FALSE
        if claimed is not None and (claimed.id != key_id or not claimed.made(signature, message)):
            return Standing.FALSE
        return Standing.UNKNOWN_KEY


# -- from settings and files -------------------------------------------------------------------------------------------


def load_signing_key(settings: AuditSettings) -> SigningKey | None:
    """The private key that *settings* name, if any.

    :raises ConfigurationError: it cannot be read or is none; its text is not repeated.
    """
    if settings.key is not None:
        return _signing_key(settings.key.get_secret_value(), "audit.key")
    if settings.key_file is None:
        return None
    return _signing_key(
        _read_text(settings.key_file, "audit.key_file"), f"audit.key_file {settings.key_file}"
    )


def load_trust(settings: AuditSettings, more: Iterable[str] = ()) -> Trust:
    """The keys of *settings*, the own one among them, and *more*: public keys, or files that hold some.

    :raises ConfigurationError: one of them is none.
    """
    keys = [_public_key(text, "audit.trusted_keys") for text in settings.trusted_keys]
    own = load_signing_key(settings)
    if own is not None:
        keys.append(own.public)
    for text in more:
        if text.startswith(_PREFIX):
            keys.append(_public_key(text, "--trust"))
        else:
            keys += _public_keys_in(Path(text))
    return Trust(keys)


def generate_key(path: Path) -> PublicKey:
    """Write a new private key to *path*, which only its owner can read.

    :raises ConfigurationError: the file is there already or cannot be written.
    """
    private = Ed25519PrivateKey.generate()
    public = SigningKey(private).public
    pem = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode("ascii")
    text = (
        f"# created: {datetime.now(UTC).isoformat(timespec='seconds')}\n# public key: {public}\n"
        f"# key id: {public.id}\n{pem}"
    )
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError:
        raise ConfigurationError(
            f"{path} is there already; a key is never overwritten.", "Name a new file."
        ) from None
    except OSError as error:
        raise ConfigurationError(
            f"{path} cannot be written ({error.strerror}).", "Check path and rights."
        ) from error
    return public


def _signing_key(text: str, place: str) -> SigningKey:
    found = _PEM.search(text)
    bare = text.strip()
    pem = found[0] if found else ""
    if found is None and _BARE.fullmatch(bare):
        # A variable holds one line: what stands between the two dashed lines of the file.
        pem = f"{_BEGIN}\n{bare}\n{_END}\n"
    try:
        key = serialization.load_pem_private_key(pem.encode("utf-8"), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        # The error is not kept as a cause: it might repeat a part of the key.
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigurationError(
            f"{place} holds no Ed25519 private key that can be read without a passphrase.",
            "`greenfly audit keygen FILE` makes one.",
        ) from None
    return SigningKey(key)


def _public_key(text: str, place: str) -> PublicKey:
    try:
        return PublicKey.parse(text)
    except ValueError as error:
        raise ConfigurationError(
            f"{place} holds {text!r}, which is no public key: {error}.",
            "`greenfly audit keygen` prints the public key when it makes one.",
        ) from None


def _public_keys_in(path: Path) -> list[PublicKey]:
    """One a line; comments begin with ``#``."""
    lines = [line.strip() for line in _read_text(path, "--trust").splitlines()]
    keys = [_public_key(line, str(path)) for line in lines if line and not line.startswith("#")]
    if not keys:
        raise ConfigurationError(f"{path} holds no public key.", f"One a line, each begins with {_PREFIX}.")
    return keys


def _read_text(path: Path, name: str) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_FILE_BYTES + 1)
        if len(data) > _MOST_FILE_BYTES:
            raise ConfigurationError(f"{name} {path} is too large to hold keys.", "Name another file.")
        return data.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        detail = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise ConfigurationError(
            f"{name} {path} cannot be read ({detail}).", "Check path and rights."
        ) from error
