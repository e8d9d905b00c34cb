"""Trying whether commands are allowed, without running one.

Each is queued in a transaction that is never executed: servers refuse what is unknown or not allowed when it is queued,
and closing the connection throws the rest away.  Where a refusal ends the queueing (Dragonfly), each has a transaction
of its own, which is discarded; where that cannot be, each that is refused is the last of its connection.  What cannot
be queued is tried by a use that fails before it does anything.  What a server refuses leaves an entry in its ACL LOG,
as any refusal does.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from integrity.assess.needed_rights import PROBE_KEY, Right
from integrity.assess.versions import version_of
from integrity.endpoint import Endpoint, Identity
from integrity.replies import ErrorReply, Reply
from integrity.wire import pack


class Answer(StrEnum):
    """What a server says to one command."""

    ALLOWED = "allowed"
    REFUSED = "refused"
    UNKNOWN_COMMAND = "unknown-command"
    UNTOLD = "untold"
    """It cannot be known without running it."""


@dataclass(frozen=True, slots=True)
class Tried:
    """What became of each right, and of any key's name."""

    answers: dict[str, Answer]
    """By command."""
    every_key: Answer
    """Whether keys of any name may be touched."""
    reason: str = ""
    """Why something is untold."""

    def of(self, right: Right) -> Answer:
        """The answer to one."""
        return self.answers.get(right.command, Answer.UNTOLD)

    @property
    def known(self) -> Collection[str]:
        """Commands that the server has."""
        return frozenset(
            name for name, answer in self.answers.items() if answer is not Answer.UNKNOWN_COMMAND
        )

    def lacking(self, rights: Iterable[Right]) -> list[Right]:
        """Those that the user does not have, or the server does not."""
        return [
            right
            for right in rights
            if not self._replaced(right)
            and (
                self.of(right) is Answer.REFUSED
                or (self.of(right) is Answer.UNKNOWN_COMMAND and not right.where_known)
            )
        ]

    def untold(self, rights: Iterable[Right]) -> list[Right]:
        """Those of which nothing is known."""
        return [right for right in rights if self.of(right) is Answer.UNTOLD]

    def _replaced(self, right: Right) -> bool:
        """Whether the server has a better command, which is used instead."""
        return self.answers.get(right.better, Answer.UNKNOWN_COMMAND) is not Answer.UNKNOWN_COMMAND


def try_rights(endpoint: Endpoint, identity: Identity, rights: Sequence[Right]) -> Tried:
    """Try each of *rights*; nothing is changed on the server.

    :raises ServerError: it cannot be reached.
    """
    by_command = {right.command: right for right in rights}
    alone = {command: ask for command, ask in _ALONE.items() if command in by_command}
    answers = {command: ask(endpoint, identity) for command, ask in alone.items()}
    commands = {
        command: _command(right)
        for command, right in by_command.items()
        if command not in alone and command != "multi"
    }
    packed = [*commands.values(), _OTHER_KEY]
    answers["multi"], harmless, reason = _harmless(endpoint)
    if harmless is None:
        replies: list[Reply] = []
    elif _survives_an_error(endpoint, harmless):
        replies = _together(endpoint, packed)
    else:
        replies = _each_discarded(endpoint, harmless, packed) or _one_by_one(endpoint, packed)
    told = [_answer(reply) for reply in replies] + [Answer.UNTOLD] * (len(packed) - len(replies))
    return Tried(answers | dict(zip(commands, told[:-1], strict=True)), told[-1], reason)


def _harmless(endpoint: Endpoint) -> tuple[Answer, bytes | None, str]:
    """Whether MULTI is allowed, a command that was queued after it, and why there is none.

    A proxy may take MULTI and yet run what follows, so nothing that has an effect goes first.
    """
    for command in (pack(b"TYPE", PROBE_KEY), pack(b"PING"), pack(b"INFO", b"server")):
        with endpoint.connect("rights") as connection:
            opened = connection.exchange([pack(b"MULTI")])[0]
            if isinstance(opened, ErrorReply):
                return _answer(opened), None, f"MULTI is refused ({opened})"
            reply = connection.exchange([command])[0]
        if reply == _QUEUED:
            return Answer.ALLOWED, command, ""
        if not isinstance(reply, ErrorReply):
            return Answer.UNTOLD, None, "commands after MULTI are run, not queued"
    return Answer.ALLOWED, None, "nothing can be queued after MULTI"


def _survives_an_error(endpoint: Endpoint, harmless: bytes) -> bool:
    """Whether commands are still queued after one that was refused.

    Dragonfly 1.40 runs them at once then, and says EXECABORT only at EXEC.
    """
    with endpoint.connect("rights") as connection:
        return connection.exchange([pack(b"MULTI"), pack(b"GET"), harmless])[-1] == _QUEUED


def _together(endpoint: Endpoint, commands: Sequence[bytes]) -> list[Reply]:
    with endpoint.connect("rights") as connection:
        return connection.exchange([_MULTI, *commands])[1:]


def _each_discarded(endpoint: Endpoint, harmless: bytes, commands: Sequence[bytes]) -> list[Reply]:
    """Each in a transaction of its own, all in one write; nothing where the server does not bear that out.

    Tried first with commands that do no harm, one of which is refused: what comes after it has to be queued again.
    """
    with endpoint.connect("rights") as connection:
        tried = connection.exchange(
            [part for command in (harmless, pack(b"GET"), harmless) for part in (_MULTI, command, _DISCARD)]
        )
        if [tried[n] for n in (0, 1, 2, 3, 6, 7)] != [b"OK", _QUEUED, b"OK", b"OK", b"OK", _QUEUED]:
            return []
        replies: list[Reply] = []
        for start in range(0, len(commands), _AT_ONCE):
            part = commands[start : start + _AT_ONCE]
            answers = connection.exchange([each for command in part for each in (_MULTI, command, _DISCARD)])
            replies += answers[1::3]
    return replies


def _one_by_one(endpoint: Endpoint, commands: Sequence[bytes]) -> list[Reply]:
    """Each in a transaction in which nothing was refused yet; ends early where one was run all the same."""
    replies: list[Reply] = []
    while len(replies) < len(commands):
        with endpoint.connect("rights") as connection:
            connection.command(b"MULTI")
            reply: Reply = _QUEUED
            while reply == _QUEUED and len(replies) < len(commands):
                reply = connection.exchange([commands[len(replies)]])[0]
                replies.append(reply)
            if reply != _QUEUED and not isinstance(reply, ErrorReply):
                return replies
    return replies


def _command(right: Right) -> bytes:
    return pack(*right.command.upper().encode().split(b"|"), *right.arguments)


def _answer(reply: Reply) -> Answer:
    if not isinstance(reply, ErrorReply):
        return Answer.ALLOWED
    text = str(reply)
    lower = text.lower()
    if "NOPERM" in text or "has no permissions" in lower:
        return Answer.REFUSED
    if "unknown command" in lower or "unknown subcommand" in lower:
        return Answer.UNKNOWN_COMMAND
    if "not allowed" in lower:
        # In a transaction, or (DEBUG) by the server's configuration.
        return Answer.REFUSED if "command not allowed. if" in lower else Answer.UNTOLD
    # It was looked at, so it is allowed: no memory, no replica, a script that runs.
    return Answer.ALLOWED


def _exec(endpoint: Endpoint, identity: Identity) -> Answer:
    """A transaction of nothing, because EXEC runs what is queued."""
    with endpoint.connect("rights") as connection:
        opened, executed = connection.exchange([_MULTI, pack(b"EXEC")])
        return Answer.UNTOLD if isinstance(opened, ErrorReply) else _answer(executed)


def _discard(endpoint: Endpoint, identity: Identity) -> Answer:
    """Of nothing."""
    with endpoint.connect("rights") as connection:
        opened, discarded = connection.exchange([_MULTI, _DISCARD])
        return Answer.UNTOLD if isinstance(opened, ErrorReply) else _answer(discarded)


def _watch(endpoint: Endpoint, identity: Identity) -> Answer:
    """Forgotten with the connection."""
    with endpoint.connect("rights") as connection:
        return _answer(connection.exchange([pack(b"WATCH", PROBE_KEY)])[0])


def _psync(endpoint: Endpoint, identity: Identity) -> Answer:
    """From Redis 7.0 on with an offset that is no number; 6.2 would send everything for that, but can queue it."""
    with endpoint.connect("rights") as connection:
        if identity.engine == "valkey" or version_of(identity.version) >= (7, 0):
            return _answer(connection.exchange([pack(b"PSYNC", b"?", b"no-number")])[0])
        opened = connection.exchange([pack(b"MULTI")])[0]
        if isinstance(opened, ErrorReply):
            return Answer.UNTOLD
        return _answer(connection.exchange([pack(b"PSYNC", b"?", b"-1")])[0])


_QUEUED: Final = b"QUEUED"
_MULTI: Final = pack(b"MULTI")
_DISCARD: Final = pack(b"DISCARD")
_AT_ONCE: Final = 50
_OTHER_KEY: Final = pack(b"TYPE", b"\xff" + PROBE_KEY)
_ALONE: Final = {"exec": _exec, "discard": _discard, "watch": _watch, "psync": _psync}
