"""The environment that applications follow: read it, change it, and wait until the change is rolled out.

Applications read ``DRAGONFLY_URL`` and fall back to ``REDIS_URL``: setting the first moves them to green, removing it
moves them back.  Whatever keeps the environment stands behind :class:`EnvironmentSwitch`; its values may hold
passwords, and none of them reaches a text: :func:`masked` and :func:`fingerprint` are what may be shown and recorded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Protocol

from integrity.address import mask_whole_url
from integrity.errors import ConfigurationError, EnvironmentFailed, Refused
from integrity.switch.settings import SwitchSettings

__all__ = [
    "Changes",
    "EnvironmentChanged",
    "EnvironmentFailed",
    "EnvironmentState",
    "EnvironmentSwitch",
    "environment_switch",
    "fingerprint",
    "holds",
    "masked",
]


class EnvironmentChanged(Refused):
    """The environment is no longer what it was when it was read; it was not written."""


@dataclass(frozen=True, slots=True)
class EnvironmentState:
    """What is in force now.

    :param values: every variable that is set there; not shown, since they may hold passwords.
    :param version: opaque; another one whenever the environment was changed.
    """

    values: Mapping[str, str] = field(repr=False)
    version: str


Changes = Mapping[str, str | None]
"""New values by variable; None removes the variable."""


class EnvironmentSwitch(Protocol):
    """One place that keeps an environment."""

    @property
    def name(self) -> str:
        """What it is, for people; holds no secret: ``dotenv /srv/app/.env``."""

    def read(self) -> EnvironmentState:
        """What is in force now.

        :raises EnvironmentFailed: it cannot be read.
        """

    def check(self, changes: Changes) -> None:
        """Try everything that :meth:`write` needs for *changes*, short of changing anything; for the gates.

        :raises EnvironmentFailed: what would keep it from being written.
        """

    def write(self, expected: EnvironmentState, changes: Changes) -> EnvironmentState:
        """Make *changes*, and return what is in force then; durable when it returns.

        Where every change is there already, nothing is written and *expected* does not matter: a write whose outcome
        is not known, after a crash say, is simply repeated.

        :raises EnvironmentChanged: the environment is no longer at ``expected.version``; nothing was written.
        :raises EnvironmentFailed: it cannot be written, or it is not known whether it was.
        """

    def confirm(self, timeout: float) -> str:
        """Wait until what this object wrote is rolled out; empty, or a sentence that says what is not.

        A process that takes over calls :meth:`write` again before it.

        :param timeout: seconds to wait at most.
        :raises EnvironmentFailed: it cannot be found out.
        """


def environment_switch(settings: SwitchSettings) -> EnvironmentSwitch:
    """The switch that *settings* name.

    :raises ConfigurationError: none is named, or what it needs is not there.
    """
    # Here, since those modules need this one.
    from integrity.switch.command import CommandSwitch
    from integrity.switch.dotenv import DotenvSwitch
    from integrity.switch.kubernetes import KubernetesSwitch

    match settings.kind:
        case "dotenv":
            return DotenvSwitch(settings.dotenv)
        case "kubernetes":
            return KubernetesSwitch(settings.kubernetes)
        case "command":
            return CommandSwitch(settings)
        case "none":
            raise ConfigurationError(
                "No environment switch is set, so the applications' environment cannot be changed.",
                "Set switch.kind to dotenv, kubernetes or command; docs/environment-switch.md shows each.",
            )


def fingerprint(value: str | None) -> str | None:
    """What the ledger keeps instead of a value: the first 16 hexadecimal digits of its SHA-256; None stays None.

    The same as ``printf %s "$VALUE" | sha256sum | cut -c1-16``.
    """
    return None if value is None else sha256(value.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def masked(value: str | None) -> str:
    """A value as people may see it: a URL without its password, and stars for anything that is no URL."""
    if value is None:
        return "(not set)"
    return mask_whole_url(value) if "://" in value else "********"


def holds(values: Mapping[str, str], changes: Changes) -> bool:
    """Whether every one of *changes* is there already."""
    return all(values.get(name) == value for name, value in changes.items())
