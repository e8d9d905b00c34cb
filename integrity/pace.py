"""How fast a keyspace may be read.  The reader asks before every page; what decides is in :mod:`integrity.transfer`."""

from __future__ import annotations

from typing import Protocol


class Pace(Protocol):
    """Told before each page is read; slows the reader down by not returning at once."""

    @property
    def batch_keys(self) -> int:
        """Keys that the next SCAN asks for."""

    def admit(self, keys: int, size: int) -> None:
        """Return when a page of *keys* keys and *size* bytes may be read."""


class FullSpeed:
    """Never waits."""

    def __init__(self, batch_keys: int) -> None:
        self.batch_keys = batch_keys

    def admit(self, keys: int, size: int) -> None:
        """Return at once."""
