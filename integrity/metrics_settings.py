"""The ``[metrics]`` and ``[tracing]`` tables; see ``docs/metrics.md``."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated, Final, Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from integrity.section import Section

DEFAULT_LISTEN: Final = "127.0.0.1:9469"


def split_address(text: str) -> tuple[str, int]:
    """Host and port of ``host:port`` or ``[::1]:port``.

    :raises ValueError: it is neither, or the port is none.
    """
    host, separator, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    host = host[1:-1] if bracketed else host
    if (
        not separator
        or not host
        or (":" in host and not bracketed)
        or not port.isascii()
        or not port.isdigit()
    ):
        raise ValueError("it must be host:port, as 127.0.0.1:9469 or [::1]:9469")
    if int(port) > 65_535:
        raise ValueError("its port must be at most 65535")
    return host, int(port)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach *host*."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class MetricsSettings(Section):
    """Where processes that do something for long tell how they are doing; nowhere by default."""

    listen: str | None = Field(
        None,
        description="host:port where a run serves metrics to Prometheus while it goes on; beside it, or instead, "
        "`greenfly metrics serve` does so all the time",
    )
    allow_remote: bool = Field(
        False,
        description="let listen be an address that other machines can reach; whoever can, reads the metrics",
    )
    textfile: Path | None = Field(
        None, description="file (….prom) for the node exporter, which a run writes anew every every_seconds"
    )
    every_seconds: Annotated[float, Field(ge=1, le=3600)] = Field(
        15.0, description="how often the text file is written"
    )

    @field_validator("textfile")
    @classmethod
    def _for_the_node_exporter(cls, value: Path | None) -> Path | None:
        if value is not None and value.suffix != ".prom":
            raise ValueError("its name must end in .prom, or the node exporter passes it over")
        return value

    @model_validator(mode="after")
    def _guarded(self) -> Self:
        if self.listen is not None:
            host, _ = split_address(self.listen)
            if not is_loopback(host) and not self.allow_remote:
                raise ValueError("listen is not a loopback address, which needs allow_remote = true")
        return self

    @property
    def active(self) -> bool:
        """Whether a run tells anybody."""
        return self.listen is not None or self.textfile is not None


class TracingSettings(Section):
    """Where runs send OpenTelemetry spans; nowhere by default."""

    endpoint: str | None = Field(
        None,
        description="URL of an OTLP/HTTP collector's traces, as http://127.0.0.1:4318/v1/traces; needs "
        "greenfly[tracing]; OTEL_EXPORTER_OTLP_HEADERS holds what it wants to see",
    )
    batch_spans: Annotated[int, Field(ge=0, le=100_000)] = Field(
        1000, description="spans of single batches that one phase sends at most; the rest is only counted"
    )
    timeout_seconds: Annotated[float, Field(gt=0, le=60)] = Field(
        5.0, description="how long the end of a run waits for the collector"
    )

    @field_validator("endpoint")
    @classmethod
    def _usable(cls, value: str | None) -> str | None:
        if value is None:
            return None
        parts = urlsplit(value)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError("it must be an http:// or https:// URL")
        if parts.username is not None or parts.password is not None or parts.query:
            raise ValueError(
                "it must not hold a user, a password or a query; put secrets into OTEL_EXPORTER_OTLP_HEADERS"
            )
        return value
