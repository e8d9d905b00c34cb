"""Following while green is a replica of blue: seen to by turns, and ended behind the fence of a cutover."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import monotonic
from typing import Final

from integrity.endpoint import Endpoint
from integrity.errors import ReplicationFailed, ServerError
from integrity.ledger import RunHandle
from integrity.native.attachment import Attachment
from integrity.progress import Progress
from integrity.settings import Settings
from integrity.sync.follower import Follower

_WATCH_SECONDS: Final = 0.5
_MOST_KEPT: Final = 10_000
"""More keys than this are not left to be carried over behind a fence."""


class AttachedGreen:
    """An attached green and who follows blue meanwhile; of no use once it has :attr:`ended`.

    :param writable: blue as a user that may write there.
    :param keep: called while it is waited, to keep what must not lapse.
    """

    def __init__(
        self,
        attachment: Attachment,
        follower: Follower,
        settings: Settings,
        handle: RunHandle,
        progress: Progress,
        *,
        writable: Callable[[Endpoint], Endpoint],
        keep: Callable[[], None],
    ) -> None:
        self._attachment = attachment
        self._follower = follower
        self._seconds = settings.native.catch_up_seconds
        self._handle = handle
        self._progress = progress
        self._writable = writable
        self._keep = keep
        self._watched = 0.0
        self.ended = False
        follower.replicate(follower.link.target.identify())
        progress.say("Green stays a replica until the cutover; names are compared meanwhile.")

    @property
    def begins_anew(self) -> bool:
        """Whether green has not everything at this moment, so that there is nothing to compare."""
        return not self.ended and not self._attachment.online

    def watch(self) -> None:
        """Now and then: whether replication goes on, and is of use.

        :raises ServerError: a server is lost.
        """
        if self.ended or monotonic() - self._watched < _WATCH_SECONDS:
            return
        self._watched = monotonic()
        try:
            reason = self._attachment.watch()
        except ReplicationFailed as error:
            self._give_up(error.problem)
            return
        if reason is not None:
            self._follower.found_gap(reason, None)
        if len(self._follower.kept) > _MOST_KEPT:
            self._progress.say(f"Replication has left out {len(self._follower.kept):,} keys: it is ended.")
            self.end()

    def settle(self, seconds: float) -> Mapping[str, object]:
        """Nobody writes for the moment: wait until green has applied everything, and compare what was announced.

        :raises ServerError: a server is lost.
        """
        began = monotonic()
        try:
            self._attachment.wait_until_applied(seconds, self._wait)
        except ReplicationFailed as error:
            return {"ok": False, "reason": error.problem}
        left = max(0.1, seconds - (monotonic() - began))
        return self._follower.drain(left, self._keep, groups=False).to_dict()

    def detach(self, seconds: float) -> str:
        """Let green catch up with everything that blue holds now, and end replication; why it could not, else empty.

        :raises ServerError: a server is lost.
        """
        try:
            caught = self._attachment.catch_up(self._writer_of_blue(), seconds, self._wait)
        except ReplicationFailed as error:
            return error.problem
        whole = self._attachment.end(caught)
        self.ended = True
        self._follower.listen()
        self._follower.carry_again(self._follower.link.target.identify(), caught_up=whole)
        if not whole:
            reason = "green began from nothing just before replication was ended"
            self._follower.found_gap(reason, None)
            return reason
        self._handle.event("sync.detached", {"offset": caught.offset, "sentinels": list(caught.sentinels)})
        self._progress.say("Green has caught up with blue, and is a replica no more.")
        return ""

    def end(self) -> None:
        """End replication while blue is written to: caught up if that can be, else with a gap.

        :raises ServerError: a server is lost.
        """
        failed = self.detach(self._seconds)
        if failed and not self.ended:
            self._give_up(failed)

    def drop(self) -> None:
        """End replication at once, whatever green has.

        :raises ServerError: green is lost, or refuses: it is attached still.
        """
        self._attachment.end()
        self.ended = True
        self._follower.carry_again(self._follower.link.target.identify(), caught_up=False)

    def _give_up(self, reason: str) -> None:
        self.drop()
        self._follower.found_gap(f"replication was ended: {reason}", None)

    def _writer_of_blue(self) -> Endpoint:
        """Behind the fence a user of our own, where that can be had."""
        source = self._follower.link.source
        try:
            return self._writable(source)
        except ServerError:
            return source

    def _wait(self, seconds: float) -> None:
        self._follower.listen()
        self._keep()
        self._handle.wait(seconds)
