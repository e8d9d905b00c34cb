"""How the engine tells how far it is."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Told by the engine, shown by whoever drives it (terminal, flow log, nothing)."""

    def phase(self, name: str, keys_expected: int) -> None:
        """A phase begins; *keys_expected* is 0 where it does not count keys."""

    def advance(self, keys: int, size: int) -> None:
        """Keys and bytes done since the last call."""

    def say(self, text: str) -> None:
        """One line worth keeping."""

    def show(self, text: str) -> None:
        """How it is at this moment; the next one takes its place."""

    def phase_ended(self) -> None:
        """The phase is over."""


class Silent:
    """Shows nothing."""

    def phase(self, name: str, keys_expected: int) -> None:
        """Nothing."""

    def advance(self, keys: int, size: int) -> None:
        """Nothing."""

    def say(self, text: str) -> None:
        """Nothing."""

    def show(self, text: str) -> None:
        """Nothing."""

    def phase_ended(self) -> None:
        """Nothing."""
