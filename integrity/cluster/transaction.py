"""A transaction about keys of many slots, as one transaction for each slot.

No cluster runs a transaction over several slots.  Who reads keys in one (a snapshot) wants each key's value, expiry and
payload of one moment, not all keys of the same one; that much each slot's own transaction gives.  Who writes in one
(a new value takes an old one's place) does so about one slot, and while that moves, waits for the node that has both
names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from time import monotonic, sleep
from typing import Final

from integrity.cluster.commands import ANYWHERE, READS, Command, keys_of
from integrity.cluster.nodes import Nodes, Place
from integrity.cluster.routes import ASKING, Routes, redirect_place, redirects
from integrity.cluster.slots import key_slot
from integrity.errors import ServerUnreachable
from integrity.replies import ErrorReply, Reply
from integrity.wire import pack

_MULTI: Final[Command] = [b"MULTI"]
_EXEC: Final[Command] = [b"EXEC"]
_PATIENCE_SECONDS: Final = 10.0
_PAUSE_SECONDS: Final = 0.1
_LOOKS: Final = 10


@dataclass(frozen=True, slots=True)
class _Group:
    """What the transaction asks about keys of one slot."""

    slot: int | None
    """None for a command about no key, which stands alone."""
    place: Place
    positions: list[int]
    commands: list[Command]

    @property
    def sent(self) -> list[Command]:
        return self.commands if self.slot is None else [_MULTI, *self.commands, _EXEC]


class SlotTransactions:
    """The commands between MULTI and EXEC, cut by slot."""

    def __init__(self, commands: Sequence[Command], routes: Routes, nodes: Nodes) -> None:
        self._count = len(commands)
        self._routes = routes
        self._nodes = nodes
        self._groups: list[_Group] = []
        by_slot: dict[int, _Group] = {}
        for position, command in enumerate(commands):
            if command[0] in ANYWHERE:
                self._groups.append(_Group(None, routes.masters[0], [position], [command]))
                continue
            slot = key_slot(keys_of([command])[0])
            group = by_slot.get(slot)
            if group is None:
                group = by_slot[slot] = _Group(slot, routes.owner(slot), [], [])
                self._groups.append(group)
            group.positions.append(position)
            group.commands.append(command)

    @property
    def parts(self) -> list[tuple[Place, Command]]:
        """Everything that is to be sent, in order."""
        return [(group.place, command) for group in self._groups for command in group.sent]

    def join(self, take: Callable[[Place], Reply]) -> Reply:
        """The answer to EXEC.

        :param take: the next reply of a node.
        :raises ServerUnreachable: a node that a slot moved to cannot be reached.
        """
        results: list[Reply] = [None] * self._count
        for group in self._groups:
            replies = [take(group.place) for _ in group.sent]
            if group.slot is None:
                answers: Reply = replies
            else:
                answers = replies[-1]
                if not isinstance(answers, list) or any(_redirected(answers)):
                    answers = self._again(group.slot, group.commands)
            if not isinstance(answers, list):
                return answers
            for position, answer in zip(group.positions, answers, strict=True):
                results[position] = answer
        return results

    def _again(self, slot: int, commands: list[Command]) -> Reply:
        """The same transaction on the node that serves the slot now.

        :raises ServerUnreachable: a node cannot be reached, or was lost before a transaction that writes was answered.
        """
        until = monotonic() + _PATIENCE_SECONDS
        data = [pack(*command) for command in (_MULTI, *commands, _EXEC)]
        reads = all(command[0] in READS for command in commands)
        taker: Place | None = None
        while True:
            place = taker or self._routes.owner(slot)
            replies: list[Reply] = []
            try:
                replies = self._nodes(place).exchange([ASKING, *data] if taker else data)
            except ServerUnreachable:
                self._nodes.drop(place)
                if not reads or monotonic() > until:
                    raise
            answers = replies[-1] if replies else None
            if isinstance(answers, list) and not any(_redirected(answers)):
                return answers
            nested = answers if isinstance(answers, list) else []
            errors = [reply for reply in (*replies, *nested) if isinstance(reply, ErrorReply)]
            first = next((error for error in errors if redirects(error)), errors[0] if errors else None)
            if first is not None and (not redirects(first) or monotonic() > until):
                return first
            moves = first is not None and str(first).startswith(("ASK ", "TRYAGAIN"))
            if moves and reads:
                return self._while_it_moves(slot, commands)
            if str(first).startswith("ASK ") and taker is None:
                taker = redirect_place(str(first), place)
                continue
            taker = None
            if first is None or not self._routes.learn(slot, first, place):
                sleep(_PAUSE_SECONDS)
                self._routes.refresh()

    def _while_it_moves(self, slot: int, commands: list[Command]) -> Reply:
        """No node runs transactions about a slot that moves: each key is asked about twice, with equal answers."""
        by_key: dict[bytes, list[int]] = {}
        for position, key in enumerate(keys_of(commands)):
            by_key.setdefault(key, []).append(position)
        answers: list[Reply] = [None] * len(commands)
        for positions in by_key.values():
            before: list[Reply] | None = None
            for _ in range(_LOOKS):
                now = [self._routes.ask(commands[position], slot) for position in positions]
                if now == before:
                    break
                before = now
            else:
                return ErrorReply(f"TRYAGAIN slot {slot} moves, and a key of it changes all the time")
            for position, answer in zip(positions, now, strict=True):
                answers[position] = answer
        return answers


def _redirected(answers: Iterable[Reply]) -> Iterable[bool]:
    return (isinstance(answer, ErrorReply) and redirects(answer) for answer in answers)
