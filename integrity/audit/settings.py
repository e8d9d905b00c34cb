"""The ``[audit]`` table: who signs the ledger's record, and whose signatures count; see ``docs/audit.md``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, SecretStr, field_validator, model_validator

from integrity.section import Section


class AuditSettings(Section):
    """Signing of checkpoints and bundles, and trust in the signatures of others."""

    key_file: Path | None = Field(
        None,
        description="file that holds the private key which signs checkpoints and bundles; `greenfly audit keygen` "
        "makes one",
    )
    key: SecretStr | None = Field(None, description="the private key itself, instead of key_file")
    trusted_keys: tuple[Annotated[str, Field(pattern=r"^ed25519:[A-Za-z0-9+/]{43}=$")], ...] = Field(
        (),
        description="public keys (ed25519:…) whose signatures count beside those of the own key: earlier keys of this "
        "ledger, keys of others",
    )
    checkpoint_file: Path | None = Field(
        None,
        description="file, best on another machine's disk, to which every checkpoint is appended; one ledger each",
    )

    @field_validator("trusted_keys", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        """A variable holds a list as text."""
        return tuple(value.replace(",", " ").split()) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one_key(self) -> Self:
        if self.key is not None and self.key_file is not None:
            raise ValueError("key and key_file are both set; leave one out")
        return self

    @property
    def signs(self) -> bool:
        """Whether a private key is configured."""
        return self.key is not None or self.key_file is not None
