"""Following green from the moment when it is told to replicate until it holds everything that blue holds.

Each look asks both servers.  What is seen is believed late and doubted early: online counts once both tell the same
history, caught up once both tell the same offset and each sentinel has arrived, and a link that was lost once voids
everything, because Dragonfly begins from nothing then.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic
from typing import Final

from integrity.errors import ReplicationFailed, ServerNotReady, ServerUnreachable
from integrity.native.flaps import FullSyncs
from integrity.native.link import Look, NativeLink
from integrity.native.sentinel import Sentinels
from integrity.native.state import BlueState, Stage
from integrity.progress import Progress

_POLL_SECONDS: Final = 0.05
_SHORT_POLL_SECONDS: Final = 0.01
"""While green catches up, perhaps behind a fence."""
_RATE_SECONDS: Final = 0.5
_SHRUNK_FROM: Final = 1000
_HOLDS: Final = frozenset({Stage.FULL_SYNC, Stage.ONLINE})
"""What green holds then came from blue."""


@dataclass(frozen=True, slots=True)
class CaughtUp:
    """Green held everything that blue held when it was asked."""

    look: Look
    offset: int
    """Of blue's history, that both had reached."""
    sentinels: tuple[int, ...]
    """Databases in which a sentinel arrived."""
    keys: frozenset[bytes]
    """Names of the sentinels that arrived; of a cluster, one for each master."""
    only_offsets: str
    """Why there were no sentinels, or not in every database; empty where there were."""


class Course:
    """Watches one attached link.

    :param keep: called with every look, to keep what must not lapse.
    :param advance: told how many keys more green holds than it ever did.
    :param reconnect_seconds: how long a server that does not answer is asked again; 0: not at all.
    """

    def __init__(
        self,
        link: NativeLink,
        full_syncs: FullSyncs,
        progress: Progress,
        *,
        keep: Callable[[float], None],
        advance: Callable[[int], None],
        reconnect_seconds: float,
    ) -> None:
        self._link = link
        self._settings = link.settings
        self.full_syncs = full_syncs
        self._progress = progress
        self.keep = keep
        self._advance = advance
        self.reconnect_seconds = reconnect_seconds
        self._most = 0
        self._process = ""
        self._blue_run = ""
        self._held = 0
        """Keys of blue, as it was last seen."""
        self.restarts = 0

    # -- waiting ----------------------------------------------------------------------------------------------------

    def until_online(self) -> Look:
        """Return when green has loaded what blue sent, and applies what is written since.

        :raises ReplicationFailed: it began too often, made no progress, or ended.
        :raises ServerError: a server stayed away longer than the budget, or refuses.
        """
        moved = began = monotonic()
        last: tuple[Stage, int, int] | None = None
        rated, rated_keys, rate = began, 0, 0.0
        while True:
            look = self.look()
            green, now = look.green, monotonic()
            if green.stage in _HOLDS and green.keys > self._most:
                self._advance(green.keys - self._most)
                self._most = green.keys
            if green.stage is Stage.ONLINE and green.offset is not None:
                self._require_same_history(look)
                return look
            mark = (green.stage, green.keys, green.used_memory)
            if green.stage is Stage.FULL_SYNC:
                if mark != last:
                    moved = now
                if now - moved > self._settings.stall_seconds:
                    raise self._failed(f"made no progress for {self._settings.stall_seconds:g} s")
                began = now
                if now - rated >= _RATE_SECONDS:
                    rate = max(0.0, (green.keys - rated_keys) / (now - rated))
                    rated, rated_keys = now, green.keys
            elif look.blue.saving:
                began = now  # Blue writes the file that it will send.
            elif now - began > self._settings.start_seconds:
                raise self._failed(f"received nothing for {self._settings.start_seconds:g} s ({green.stage})")
            last = mark
            self._show(look, rate)
            self.keep(_POLL_SECONDS)

    def catch_up(self, sentinels: Sentinels, seconds: float | None = None) -> CaughtUp | None:
        """Return when green has everything that blue holds now; None where the link or a server was lost meanwhile.

        The sentinels are gone from both afterwards.

        :param seconds: how long it may take; ``native.catch_up_seconds`` where nothing else is said.
        :raises ReplicationFailed: it took too long, or green began too often.
        :raises ServerError: a server stayed away longer than the budget, or refuses.
        """
        seconds = self._settings.catch_up_seconds if seconds is None else seconds
        until = monotonic() + seconds
        syncs = self.full_syncs.count
        try:
            sentinels.plant(self.look().blue.databases or (0,))
            caught = self._reach(syncs, until, has_reached, sentinels.arrived)
            if caught is not None and sentinels.databases:
                sentinels.remove()
                # Green's own word is enough here: what had to be known is known.
                caught = self._reach(syncs, until, has_applied, sentinels.gone)
        except (ServerUnreachable, ServerNotReady) as error:
            self._progress.say(error.problem)
            return None
        finally:
            sentinels.give_up()
        if caught is None:
            return None
        return CaughtUp(caught, caught.blue.offset, sentinels.databases, sentinels.keys, sentinels.refusal)

    def until_applied(self, seconds: float) -> Look | None:
        """Return when green tells that it has applied all that blue has written by now; None as :meth:`catch_up`.

        :raises ReplicationFailed: it took too long, or green began too often.
        :raises ServerError: a server stayed away longer than the budget, or refuses.
        """
        return self._reach(self.full_syncs.count, monotonic() + seconds, has_applied, lambda: True)

    def _reach(
        self,
        syncs: int,
        until: float,
        reached: Callable[[Look, Sequence[int]], bool],
        there: Callable[[], bool],
    ) -> Look | None:
        wanted = self.look().offsets
        while True:
            look = self.look()
            green = look.green
            if green.stage is not Stage.ONLINE or self.full_syncs.count != syncs:
                return None
            with suppress(ServerNotReady, ServerUnreachable):
                # It may have begun to load again since it was looked at, or be gone; the next look tells.
                if reached(look, wanted) and there():
                    return look
            if monotonic() > until:
                raise self._failed(
                    f"did not catch up in time (blue wrote up to {sum(wanted):,}, "
                    f"green applied {green.offset or 0:,})"
                )
            self.keep(_SHORT_POLL_SECONDS)

    # -- one look ---------------------------------------------------------------------------------------------------

    def look(self) -> Look:
        """Look at both, and notice what voids what was known.

        :raises ReplicationFailed: green replicates no more, or another server, or began too often.
        :raises ServerError: a server stayed away longer than the budget, or refuses.
        """
        look = self._look_patiently()
        self.full_syncs.take(look)
        self._notice_blue(look.blue)
        green = look.green
        if green.stage is Stage.MASTER:
            if green.process == self._process or not self._process:
                raise self._failed("is no replica any more: somebody told it to end")
            self._progress.say("Green restarted and has forgotten whom it replicates: it is told again.")
            self.restarts += 1
            self._require_not_too_often()
            self._link.attach()
        elif not self._link.follows(look):
            raise self._failed("replicates another server by now")
        self._process = green.process
        self._require_not_too_often()
        return look

    def _look_patiently(self) -> Look:
        since: float | None = None
        while True:
            try:
                look = self._link.look()
            except (ServerUnreachable, ServerNotReady) as error:
                if not self.reconnect_seconds:
                    raise
                if since is None:
                    since = monotonic()
                    self._progress.say(f"{error.problem} Trying again for {self.reconnect_seconds:.0f} s.")
                if monotonic() - since > self.reconnect_seconds:
                    raise
                self.keep(0.2)
            else:
                if since is not None:
                    self._progress.say("Both servers answer again; going on.")
                return look

    def _notice_blue(self, blue: BlueState) -> None:
        """A blue that came back with far fewer keys has lost its data, and green follows it."""
        if self._blue_run and blue.run_id != self._blue_run:
            self.restarts += 1
            self._progress.say("Blue restarted: green begins from nothing again.")
            if blue.keys < self._held / 2 and (self._held >= _SHRUNK_FROM or not blue.keys):
                raise self._failed(
                    f"follows a blue that came back with {blue.keys:,} keys, and there were {self._held:,}"
                )
        self._blue_run, self._held = blue.run_id, blue.keys

    def _require_not_too_often(self) -> None:
        most, why = self._link.most_full_syncs
        if self.full_syncs.most > most:
            raise self._failed(f"began to receive everything {self.full_syncs.most} times, and {why}")

    def _require_same_history(self, look: Look) -> None:
        if any(part.green.replication_id not in part.blue.replication_ids for part in look.each):
            raise self._failed(
                "replicates another server than Greenfly reaches as the source; see native.master_host"
            )

    def _show(self, look: Look, rate: float) -> None:
        green, blue = look.green, look.blue
        match green.stage:
            case Stage.FULL_SYNC:
                left = f", about {(blue.keys - green.keys) / rate:.0f} s left" if rate > 0 else ""
                text = f"{green.keys:,} of {blue.keys:,} keys, {rate:,.0f}/s{left}"
            case Stage.PREPARATION:
                text = "waiting until blue sends (it waits repl-diskless-sync-delay, or writes a file first)"
            case _:
                text = "connecting"
        again = f"; attempt {self.full_syncs.most}" if self.full_syncs.most > 1 else ""
        self._progress.show(f"replicating {text}{again}")

    def _failed(self, what: str) -> ReplicationFailed:
        return ReplicationFailed("target", str(self._link.target), f"{what}.")


def has_reached(look: Look, offsets: Sequence[int]) -> bool:
    """Whether all servers tell that green has applied the masters' histories up to *offsets*."""
    told = [part.blue.acknowledged(part.green.port) for part in look.each]
    return has_applied(look, offsets) and all(
        acknowledged is not None and acknowledged >= offset
        for acknowledged, offset in zip(told, offsets, strict=True)
    )


def has_applied(look: Look, offsets: Sequence[int]) -> bool:
    """Whether green tells that it has applied the masters' histories up to *offsets*."""
    return all(
        part.green.offset is not None and part.green.offset >= offset
        for part, offset in zip(look.each, offsets, strict=True)
    )
