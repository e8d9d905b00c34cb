"""Blue and green as a cutover and a rollback see them, and how applications reach them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from pydantic import SecretStr

from integrity.cluster.limits import require_fenceable
from integrity.endpoint import Endpoint
from integrity.errors import ConfigurationError
from integrity.settings import EndpointSettings, Settings
from integrity.switch.environment import EnvironmentState


@dataclass(frozen=True, slots=True)
class Sides:
    """Both servers, as configured for Greenfly."""

    blue: Endpoint
    green: Endpoint

    @classmethod
    def of(cls, settings: Settings) -> Sides:
        """From the source and the target.

        :raises ConfigurationError: a URL is missing or wrong.
        :raises Refused: green is a cluster.
        """
        sides = cls(
            Endpoint.from_settings("source", settings.source),
            Endpoint.from_settings("target", settings.target),
        )
        require_fenceable(sides.blue.address, sides.green.address)
        return sides


def impatient(endpoint: Endpoint, seconds: float) -> Endpoint:
    """The same server, given up after so long; for servers that may be dead."""
    return Endpoint(replace(endpoint.target, connect_timeout=seconds, io_timeout=seconds))


def green_url(settings: Settings) -> str:
    """What applications are given for green.

    :raises ConfigurationError: it is not known, because user or password are not in the target's URL.
    """
    if settings.switch.green_url is not None:
        return settings.switch.green_url.get_secret_value()
    target = settings.target
    if target.url is None:
        raise ConfigurationError("No target is set.", "Give --target or GREENFLY_TARGET__URL.")
    if target.username is not None or target.password is not None or target.password_file is not None:
        raise ConfigurationError(
            "What applications are to be given for green is not known: user or password are not in the target's URL.",
            "Set switch.green_url (GREENFLY_SWITCH__GREEN_URL).",
        )
    return target.url.get_secret_value()


def as_application(url: str, like: EndpointSettings, name: Literal["blue", "green"]) -> Endpoint:
    """A server reached as an application would, by this URL; TLS files are those of *like*.

    :raises ConfigurationError: it is no URL of a Redis server.
    """
    settings = EndpointSettings(
        url=SecretStr(url),
        tls_ca_file=like.tls_ca_file,
        tls_cert_file=like.tls_cert_file,
        tls_key_file=like.tls_key_file,
        tls_verify=like.tls_verify,
        connect_timeout=like.connect_timeout,
        io_timeout=like.io_timeout,
    )
    return Endpoint.from_settings("source" if name == "blue" else "target", settings)


def blue_as_application(settings: Settings, environment: EnvironmentState | None) -> Endpoint:
    """Blue as the applications reach it; as Greenfly does where the environment does not tell.

    :raises ConfigurationError: the environment's URL cannot be used.
    """
    url = environment.values.get(settings.switch.fallback_variable) if environment is not None else None
    configured = Endpoint.from_settings("source", settings.source)
    if not url:
        return configured
    blue = as_application(url, settings.source, "blue")
    if configured.is_cluster and blue.address.mode == "single":
        # Clients of a cluster are given one of its nodes, and learn of the others.
        address = replace(blue.address, mode="cluster", database=None)
        return Endpoint(replace(blue.target, address=address))
    return blue
