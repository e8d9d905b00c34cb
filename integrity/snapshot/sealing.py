"""Keys of encrypted snapshots: the age format (age-encryption.org/v1), X25519 recipients and identities.

Who takes a snapshot needs only recipients, which are public; who reads one needs an identity.  A finished file is
opened by ``age -d -i FILE`` as well.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Final, TypeAlias

import pyrage

from integrity.errors import ArtifactError, ConfigurationError
from integrity.settings import SnapshotSettings

Recipient: TypeAlias = pyrage.x25519.Recipient
Identity: TypeAlias = pyrage.x25519.Identity

SUFFIX: Final = ".age"
_SECRET_PREFIX: Final = "AGE-SECRET-KEY-"  # noqa: S105  (how every such key begins)
_NO_KEY_REMEDY: Final = "Set snapshot.identity_file (--identity-file) or GREENFLY_SNAPSHOT__IDENTITY."


@dataclass(frozen=True, slots=True)
class Keys:
    """The identities that encrypted snapshots are read with; none is enough for plain ones."""

    identities: tuple[Identity, ...] = field(default=(), repr=False)

    def require(self, path: Path) -> tuple[Identity, ...]:
        """The identities, to open *path*.

        :raises ArtifactError: there is none.
        """
        if not self.identities:
            raise ArtifactError(f"{path} is encrypted, and no key to read it is set.", _NO_KEY_REMEDY)
        return self.identities


NO_KEYS: Final = Keys()


def read_recipients(texts: Iterable[str]) -> tuple[Recipient, ...]:
    """Recipients from their ``age1…`` texts.

    :raises ConfigurationError: one of them is none.
    """
    recipients = []
    for text in texts:
        try:
            recipients.append(pyrage.x25519.Recipient.from_str(text.strip()))
        except pyrage.RecipientError as error:
            raise ConfigurationError(
                f"snapshot.encrypt_to holds {text!r}, which is no age recipient.",
                "A recipient begins with age1; `greenfly snapshot keygen FILE` makes a key and prints its own.",
            ) from error
    return tuple(recipients)


def load_keys(settings: SnapshotSettings) -> Keys:
    """The identities that *settings* name, those of the environment first.

    :raises ConfigurationError: a key cannot be read or is none; its text is not repeated.
    """
    identities: list[Identity] = []
    if settings.identity is not None:
        identities += _identities(settings.identity.get_secret_value(), "snapshot.identity")
    if settings.identity_file is not None:
        try:
            text = settings.identity_file.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            detail = error.strerror if isinstance(error, OSError) else "not UTF-8"
            raise ConfigurationError(
                f"snapshot.identity_file {settings.identity_file} cannot be read ({detail}).",
                "Check path and rights.",
            ) from error
        identities += _identities(text, f"snapshot.identity_file {settings.identity_file}")
    return Keys(tuple(identities))


def _identities(text: str, place: str) -> list[Identity]:
    """The identities in *text*, one a line; comments begin with ``#``, as age-keygen writes them."""
    lines = [line.strip() for line in text.splitlines()]
    found = [line for line in lines if line and not line.startswith("#")]
    try:
        identities = [pyrage.x25519.Identity.from_str(line) for line in found]
    except pyrage.IdentityError:
        # The error is not kept as a cause: it might repeat a part of the key.
        identities = []
    if not identities:
        raise ConfigurationError(
            f"{place} holds no age identity.", f"An identity is one line that begins with {_SECRET_PREFIX}1."
        ) from None
    return identities


def generate_key(path: Path) -> str:
    """Write a new identity to *path*, which only its owner can read; returns its recipient.

    :raises ConfigurationError: the file is there already or cannot be written.
    """
    identity = pyrage.x25519.Identity.generate()
    recipient = str(identity.to_public())
    text = f"# created: {datetime.now(UTC).isoformat(timespec='seconds')}\n# public key: {recipient}\n{identity}\n"
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
    return recipient


def temporary_identity() -> Identity:
    """A key that lives as long as this process."""
    return pyrage.x25519.Identity.generate()


def seal(data: bytes, recipients: Sequence[Recipient]) -> bytes:
    """*data* encrypted, where it is small."""
    sealed: bytes = pyrage.encrypt(data, list(recipients))
    return sealed


def unseal(path: Path, keys: Keys) -> bytes:
    """The content of a small encrypted file.

    :raises ArtifactError: the file is missing or damaged, or the keys do not open it.
    """
    identities = keys.require(path)
    content = BytesIO()
    try:
        with path.open("rb") as file:
            pyrage.decrypt_io(file, content, list(identities))
    except (OSError, pyrage.DecryptError) as error:
        raise unreadable(path, error) from error
    return content.getvalue()


def unreadable(path: Path, error: Exception) -> ArtifactError:
    """What to tell when *path* could not be read or decrypted."""
    if isinstance(error, FileNotFoundError):
        return ArtifactError(f"{path} is missing.", "Restore it from where snapshots are kept.")
    if isinstance(error, OSError) and error.errno is not None:
        return ArtifactError(f"{path} cannot be read ({error.strerror}).", "Check its rights and the disk.")
    # The age library tells a failed authentication by an OSError without a number.
    if "No matching keys" in str(error):
        return ArtifactError(
            f"{path} is encrypted to another key than the one that is set, or its first bytes were changed.",
            "Set the identity whose recipient was in snapshot.encrypt_to when the snapshot was taken.",
        )
    return ArtifactError(
        f"{path} cannot be decrypted: it was changed or cut short ({error}).",
        "Use another snapshot, or another copy of this one.",
    )
