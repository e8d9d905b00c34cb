"""Writes that were done later than they were sent, because their key was elsewhere.

A command that is answered with a redirection was not executed, and is sent again by itself.  What was sent behind it,
about the same key, may have been executed by then: an expiry before its value, a RENAME before its RESTORE.  So those
are sent again too, in their order.
"""

from __future__ import annotations

from integrity.cluster.commands import READS, Command, all_keys


class LateWrites:
    """Knows which of the commands that were sent came before a write that they were to follow."""

    def __init__(self) -> None:
        self._before: dict[bytes, int] = {}
        """Key → number of the last commands that were sent before its late write was done."""

    def __bool__(self) -> bool:
        return bool(self._before)

    def note(self, command: Command, sent: int) -> None:
        """*command* was done only now, and everything up to the number *sent* had been sent by then."""
        if command[0] not in READS:
            self._before.update(dict.fromkeys(all_keys(command), sent))

    def concern(self, command: Command, number: int) -> bool:
        """Whether this command, sent under that number and answered after the late one, was to follow it."""
        return any(number <= self._before.get(key, -1) for key in all_keys(command))

    def clear(self) -> None:
        """Nothing is on its way any more."""
        self._before.clear()
