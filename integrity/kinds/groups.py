"""Reading many keys of several kinds with few operations of ours: the keys are grouped by kind.

Order inside a pipeline does not matter to a server, so all keys of one kind are asked for together: one join makes
the commands, and the replies of a kind stand side by side and can be compared and hashed as a whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from integrity.kinds import KINDS
from integrity.kinds.base import Kind
from integrity.wire import every


@dataclass(frozen=True, slots=True)
class KindGroups:
    """Positions in a page by kind, in the order in which they are asked for."""

    groups: list[tuple[Kind, list[int]]]
    unknown: list[int]
    """Positions whose type has no kind."""

    @property
    def count(self) -> int:
        """How many keys are asked for."""
        return sum(len(positions) for _, positions in self.groups)

    def commands(self, arguments: Sequence[bytes]) -> bytes:
        """The packed commands that read every key of a known kind whole."""
        return b"".join(
            every(kind.prefix, [arguments[i] for i in positions], kind.suffix)
            for kind, positions in self.groups
        )


def group_kinds(types: Sequence[bytes]) -> KindGroups:
    """Group the positions of *types*, which are as TYPE answers."""
    positions: dict[bytes, list[int]] = {}
    for position, name in enumerate(types):
        if name in positions:
            positions[name].append(position)
        else:
            positions[name] = [position]
    known = [(KINDS[name], where) for name, where in positions.items() if name in KINDS]
    unknown = [i for name, where in positions.items() if name not in KINDS for i in where]
    return KindGroups(known, sorted(unknown))
