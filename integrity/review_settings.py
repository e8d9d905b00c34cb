"""The ``[review]`` table: where the review page listens and what it demands of people; see ``docs/review.md``."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, field_validator, model_validator

from integrity.section import Section


class ReviewSettings(Section):
    """The review page, and who may decide."""

    host: str = Field("127.0.0.1", description="IP address to listen on; other than loopback only with TLS")
    port: Annotated[int, Field(ge=0, le=65_535)] = Field(8480, description="0 takes a free one")
    names: tuple[Annotated[str, Field(pattern=r"^[A-Za-z0-9.-]{1,253}$")], ...] = Field(
        (),
        description="host names under which people reach the page, beside the address itself and localhost",
    )
    tls_cert_file: Path | None = Field(None, description="certificate chain (PEM)")
    tls_key_file: Path | None = Field(None, description="its key (PEM, without passphrase)")
    session_minutes: Annotated[float, Field(gt=0, le=1_440)] = Field(
        60.0, description="a session ends when it was not used for so long"
    )
    token_days: Annotated[float, Field(gt=0, le=366)] = Field(
        90.0, description="how long a new token holds unless said otherwise"
    )
    max_waiver_days: Annotated[float, Field(gt=0, le=366)] = Field(
        90.0, description="findings are let pass for at most so long"
    )
    max_waived_findings: Annotated[int, Field(ge=1, le=10_000_000)] = Field(
        1_000, description="a waiver covers at most so many findings of a run; beyond, it lets none pass"
    )
    honour_waivers: bool = Field(
        True,
        description="findings that somebody let pass fail no later verdict, and close no gate of a cutover",
    )
    separate_reviewer: bool = Field(
        True, description="who started a run can neither sign it off nor let its findings pass"
    )
    sign_in_attempts: Annotated[int, Field(ge=1, le=1_000)] = Field(
        10, description="wrong tokens from one address in a minute before it has to wait"
    )

    @field_validator("names", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        """A variable holds a list as text."""
        return tuple(value.replace(",", " ").split()) if isinstance(value, str) else value

    @field_validator("host")
    @classmethod
    def _address(cls, value: str) -> str:
        try:
            ip_address(value)
        except ValueError:
            raise ValueError("it is no IP address; names of this machine belong into names") from None
        return value

    @model_validator(mode="after")
    def _protected(self) -> Self:
        if (self.tls_cert_file is None) != (self.tls_key_file is None):
            raise ValueError("tls_cert_file and tls_key_file belong together")
        if not ip_address(self.host).is_loopback and not self.tls:
            raise ValueError(
                f"the page is not shown on {self.host} without TLS; set tls_cert_file and tls_key_file"
            )
        return self

    @property
    def tls(self) -> bool:
        """Whether the page is served by HTTPS."""
        return self.tls_cert_file is not None
