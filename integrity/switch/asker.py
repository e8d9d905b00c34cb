"""Asking the sync process to do something, and waiting for its answer."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from time import monotonic, sleep
from typing import Final, Protocol

from integrity.errors import Refused
from integrity.ledger.handle import RunHandle
from integrity.ledger.sync_board import RunOwner, SyncBoard, SyncStatus
from integrity.ledger.vocabulary import Ask, SyncState

SILENT_SECONDS: Final = 15.0
"""A sync process without a sign of life for so long is not waited for; comparing a page of large values takes time."""
_LOOK_SECONDS: Final = 0.003
_LISTEN_SECONDS: Final = 1.0
"""Between two looks at the signs of life."""
"""Between two looks at the board; the write pause lasts as long as the answers take."""


class NotDone(Refused):
    """The sync process did not do what it was asked, or did not answer in time."""


class Asker(Protocol):
    """Whoever can ask the sync process: another process over the ledger, or the sync process itself."""

    def ask(self, ask: Ask, seconds: float) -> Mapping[str, object]:
        """The answer.

        :raises NotDone: it says why not, or says nothing within *seconds*.
        :raises RunTakenOver: the run that is spoken for belongs to another process by now.
        """

    def speak_for(self, handle: RunHandle) -> None:
        """From now on ask only as long as this process owns that run."""

    def wait(self, seconds: float) -> None:
        """Let time pass."""

    def status(self) -> SyncStatus | None:
        """How the sync process said it is, last."""


class BoardAsker:
    """Asks over the ledger."""

    def __init__(self, board: SyncBoard) -> None:
        self._board = board
        self._owner: RunOwner | None = None

    def speak_for(self, handle: RunHandle) -> None:
        """Remember it."""
        self._owner = RunOwner(handle.id, handle.owner)

    def ask(self, ask: Ask, seconds: float) -> Mapping[str, object]:
        """Put the question up and wait."""
        began = monotonic()
        until, listen = began + seconds, began + _LISTEN_SECONDS
        number = self._board.ask(ask, datetime.now(UTC) + timedelta(seconds=seconds), owner=self._owner)
        while monotonic() < until:
            answer = self._board.answer_to(number)
            if answer is not None:
                return checked(ask, answer)
            if monotonic() > listen:
                listen = monotonic() + _LISTEN_SECONDS
                if not is_heard(self._board.status(), SILENT_SECONDS):
                    break
            sleep(_LOOK_SECONDS)
        self._board.void()
        raise NotDone(
            f"The sync process of run {self._board.run_id} did not answer within {monotonic() - began:.1f} s (asked to "
            f"{ask.value}).",
            "Check that `greenfly sync` runs, and that it reaches both servers.",
        )

    def wait(self, seconds: float) -> None:
        """Sleep."""
        sleep(seconds)

    def status(self) -> SyncStatus | None:
        """From the board."""
        return self._board.status()


def is_heard(status: SyncStatus | None, seconds: float) -> bool:
    """Whether the sync process gave a sign of life within so many seconds."""
    if status is None or status.updated_at is None or status.state is SyncState.STOPPED:
        return False
    return (datetime.now(UTC) - status.updated_at).total_seconds() <= seconds


def checked(ask: Ask, answer: Mapping[str, object]) -> Mapping[str, object]:
    """The answer, where it says that it was done.

    :raises NotDone: it was not.
    """
    if answer.get("ok") is not True:
        raise NotDone(
            f"The sync process could not {_WORDS[ask]}: {answer.get('reason') or 'it does not say why'}.",
            "Look at its log and its findings.",
        )
    return answer


_WORDS: Final = {
    Ask.SETTLE: "carry over what was announced",
    Ask.DRAIN: "carry everything over",
    Ask.PROVE: "prove that both sides are equal",
    Ask.BACKWARD: "turn round to follow green",
    Ask.FORWARD: "turn round to follow blue",
    Ask.BACKWARD_ANEW: "follow green anew",
    Ask.FORWARD_ANEW: "follow blue anew",
    Ask.AT_RISK: "record what is at risk",
    Ask.STOP: "stop",
}
