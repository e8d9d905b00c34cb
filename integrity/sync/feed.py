"""What tells which keys of a server change, whatever the means.

A feed names keys, never values: whoever takes the names reads what the keys hold *now*.  A name carries no database,
so it stands for the key of that name in every database.  A feed that may have missed something says so, once, and is
of no use afterwards: whoever follows opens a new one and compares everything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Loss:
    """A feed ended, and changes may have gone unseen."""

    reason: str
    """One sentence for people, without secrets."""
    since: datetime
    """The last moment (UTC) up to which every change is known to have been seen."""


@dataclass(frozen=True, slots=True)
class Taken:
    """What a feed saw since the last time."""

    names: Mapping[bytes, float] = field(default_factory=dict)
    """Key → :func:`time.monotonic` of the moment when it was first announced since then."""
    everything: str | None = None
    """Why every key may have changed (a FLUSHALL, say); None where that is not so."""
    loss: Loss | None = None
    """Set once the feed has ended; nothing more comes."""


class Feed(Protocol):
    """Names the keys that change on one server, from the moment when it was opened.  Closed by its owner."""

    name: str
    """``tracking`` or ``monitor``."""
    settle_seconds: float
    """How long after a name was announced the change itself is certain to be readable; 0 where it is at once."""

    def take(self) -> Taken:
        """What was seen since the last call; never waits."""

    def wait(self, seconds: float) -> None:
        """Return when something was seen, or after so long."""

    def catch_up(self, seconds: float) -> bool:
        """Wait until every change that was made before this call has been seen, and can be taken.

        False where that could not be known within *seconds*.
        """

    def backlog(self) -> int:
        """Bytes that wait on the server for this feed's reader; 0 where the server does not tell.

        :raises ServerError: the server cannot be asked.
        """

    def close(self) -> None:
        """Close the connection; the server forgets the feed."""
