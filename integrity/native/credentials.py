"""The user and password with which green reaches blue: lent to it for as long as it replicates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Self

from integrity.endpoint import Endpoint
from integrity.errors import ProtocolError

_OPTIONS: Final = ("masteruser", "masterauth")


@dataclass(frozen=True, slots=True)
class Credentials:
    """What green is told, and what it had been told before; neither is ever shown."""

    wanted: Mapping[str, str] = field(repr=False)
    before: Mapping[str, str] = field(repr=False)
    """Only what differs from what is wanted."""

    @classmethod
    def of(cls, source: Endpoint, target: Endpoint) -> Self:
        """What green has to be told to reach blue; it is told nothing yet.

        :raises ServerError: green is lost, or its settings may not be read.
        """
        wanted = {
            "masteruser": source.target.username or "" if source.target.password else "",
            "masterauth": source.target.password or "",
        }
        with target.connect("native") as connection:
            now = {}
            for name in _OPTIONS:
                match connection.command(b"CONFIG", b"GET", name.encode()):
                    case [_, bytes(value)]:
                        now[name] = value.decode("utf-8", "surrogateescape")
                    case _:
                        raise ProtocolError(
                            connection.role,
                            connection.where,
                            f"CONFIG GET {name} answered in an unknown shape.",
                            "This is no Dragonfly that this version knows.",
                        )
        return cls(wanted, {name: now[name] for name in _OPTIONS if now[name] != wanted[name]})

    def told(self) -> dict[str, bool]:
        """Which options are changed → whether they held something before; fit for the ledger."""
        return {name: bool(value) for name, value in self.before.items()}

    def lend(self, target: Endpoint) -> None:
        """Tell green.

        :raises ServerError: it is lost, or does not take them.
        """
        _set(target, {name: self.wanted[name] for name in self.before})

    def take_back(self, target: Endpoint) -> None:
        """Tell green what it had been told before.

        :raises ServerError: it is lost, or does not take them.
        """
        _set(target, self.before)


def forget_lent(target: Endpoint, told: Mapping[str, bool]) -> list[str]:
    """Take back what a process that is gone had lent; returns the options whose earlier value only it knew.

    :param told: as :meth:`Credentials.told` recorded it.
    :raises ServerError: green is lost, or does not take them.
    """
    _set(target, dict.fromkeys(told, ""))
    return [name for name, held in told.items() if held]


def _set(target: Endpoint, values: Mapping[str, str]) -> None:
    if not values:
        return
    with target.connect("native") as connection:
        for name, value in values.items():
            connection.command(b"CONFIG", b"SET", name.encode(), value.encode("utf-8", "surrogateescape"))
