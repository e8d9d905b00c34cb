"""Blue and green as a cutover and a rollback see them, and how applications reach them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from pydantic import SecretStr

from integrity.address import parse_address
from integrity.cluster.nodes import Place
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
        """
        return cls(
            Endpoint.from_settings("source", settings.source),
            Endpoint.from_settings("target", settings.target),
        )


def impatient(endpoint: Endpoint, seconds: float) -> Endpoint:
    """The same server, given up after so long; for servers that may be dead."""
    return Endpoint(replace(endpoint.target, connect_timeout=seconds, io_timeout=seconds))


def green_url(settings: Settings) -> str:
    """What applications are given for green: of a cluster one node, from which their clients learn of the others.

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
    url = target.url.get_secret_value()
    address = parse_address(url, "target.url")
    if address.mode != "cluster":
        return url
    # No client knows the scheme of Greenfly's own, and not all take several hosts.
    user, at, _ = url.strip().partition("://")[2].rpartition("@")
    return f"{address.scheme}://{user}{at}{Place(address.host, address.port)}"


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
    return _like(configured, as_application(url, settings.source, "blue"))


def green_as_application(settings: Settings) -> Endpoint:
    """Green as the applications are going to reach it.

    :raises ConfigurationError: what they are given is not known, or no URL of a Redis server.
    """
    configured = Endpoint.from_settings("target", settings.target)
    return _like(configured, as_application(green_url(settings), settings.target, "green"))


def _like(configured: Endpoint, reached: Endpoint) -> Endpoint:
    """Clients of a cluster are given one of its nodes, and learn of the others."""
    if not configured.is_cluster or reached.address.mode != "single":
        return reached
    return Endpoint(replace(reached.target, address=replace(reached.address, mode="cluster", database=None)))
