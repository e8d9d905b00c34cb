"""What is on its way over a connection to a cluster: commands, each with the node that was asked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import hiredis

from integrity.cluster.commands import Command, Join
from integrity.cluster.nodes import Place
from integrity.wire import pack


@dataclass(slots=True)
class Asked:
    """Commands that were sent, each to one node."""

    commands: list[Command]
    places: list[Place]
    only: Place | None
    """The node, where it is one for all of them."""
    number: int
    """Grows with everything that is sent."""
    about_keys: bool = True
    join: Join | None = None
    """Makes one reply of all."""
    taken: int = 0
    """How many replies were handed out."""


@dataclass(frozen=True, slots=True)
class Computed:
    """A command that is answered when its turn comes."""

    command: Command


@dataclass(frozen=True, slots=True)
class Said:
    """A command that nobody has to be asked about."""

    reply: bytes


def sort(asked: Asked, out: dict[Place, list[bytes]]) -> None:
    """Put each command among those for its node."""
    for place, command in zip(asked.places, asked.commands, strict=True):
        out.setdefault(place, []).append(pack(*command))


def commands_in(data: bytes) -> list[Command]:
    """The commands in packed bytes; the C parser of replies does it, because commands have the same form."""
    reader = hiredis.Reader(notEnoughData=_END)
    reader.feed(data)
    return list(iter(reader.gets, _END))


class _End:
    """The type of the marker that hiredis hands back at the end."""


_END: Final = _End()
