"""The replicate phase: green is made a replica of blue until it holds everything, and is a master again afterwards.

Whatever ends the phase, green is told to end replicating.  Only a process that is killed leaves it attached; the next
run between the two servers finds that, and goes on from there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Final

from integrity.errors import GreenflyError, ReplicationFailed, ServerError
from integrity.kinds.base import plural
from integrity.ledger import Ledger, RunHandle
from integrity.ledger.models import PhaseName
from integrity.meter import Meter
from integrity.native.attachment import Attachment
from integrity.native.course import CaughtUp, Course
from integrity.native.credentials import Credentials, forget_lent
from integrity.native.flaps import FullSyncs
from integrity.native.link import Look, NativeLink
from integrity.native.obstacles import hashes_that_expire, obstacles
from integrity.native.refusals import require_loadable, require_native
from integrity.native.sentinel import Sentinels
from integrity.native.shards import ShardLinks, open_links
from integrity.native.state import Stage
from integrity.phases.servers import Servers
from integrity.progress import Progress
from integrity.settings import Settings

ATTACHING: Final = "replicate.attaching"
"""The audit event before green is made a replica; what a killed process had changed stands in it."""
DETACHED: Final = "replicate.detached"
_ATTEMPTS: Final = 10
"""How often catching up is begun, where the link or a server is lost again and again without a full synchronisation."""


@dataclass(frozen=True, slots=True)
class Attached:
    """What has to be known to end it, also by another process."""

    lent: Mapping[str, bool]
    """Options of green that were changed → whether they had held something before."""
    dropped_before: Mapping[str, int]
    """Commands that green did not know, as counted before."""


class ReplicatePhase:
    """Drives Dragonfly's own replication; one instance per attempt of a run.

    :param now_and_then: called while it is waited for.
    """

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger,
        handle: RunHandle,
        progress: Progress,
        *,
        now_and_then: Callable[[], None] = lambda: None,
    ) -> None:
        self._settings = settings
        self._ledger = ledger
        self._handle = handle
        self._progress = progress
        self._now_and_then = now_and_then
        self._credentials: Credentials | None = None
        self._tags: tuple[bytes, ...] = ()
        """Of a cluster, for a sentinel at each master."""

    def run(self, servers: Servers, detail: dict[str, object], *, stay: bool = False) -> Attachment | None:
        """Replicate until green holds everything, and put what there is to tell into *detail*.

        :param stay: leave green attached; what is returned ends it.
        :raises ConfigurationError: the settings ask for what replication cannot do.
        :raises Refused: the servers do not allow it; nothing was written.
        :raises ReplicationFailed: it did not come to its end; green is a master and holds a part.
        :raises ServerError: a server is lost, or refuses.
        """
        require_native(self._settings, servers)
        meter = Meter(self._handle, PhaseName.REPLICATE, self._progress)
        with ExitStack() as stack:
            link = stack.enter_context(open_links(servers.source, servers.target, self._settings.native))
            if isinstance(link, ShardLinks):
                self._tags = tuple(master.tag for master in link.masters)
            attached, course = self._begin(link, servers, meter)
            stays = False
            try:
                caught = self._follow(course, servers)
                if not stay:
                    caught = self._end(link, course, servers, caught)
                stays = stay
            except ReplicationFailed as error:
                raise self._explained(error, servers) from error
            finally:
                detail |= self._figures(course, meter, link, attached) | {"attached": stays}
                if not stays:
                    self._release(link, attached)
            detail |= {
                "keys": caught.look.green.keys,
                "offset": caught.offset,
                "sentinels": list(caught.sentinels),
                "only_offsets": caught.only_offsets,
            }
            if isinstance(link, ShardLinks):
                detail["shards"] = link.told(caught)
            return self._attachment(link, course, attached, stack.pop_all()) if stays else None

    def adopt(self, servers: Servers) -> Attachment:
        """The attachment that an earlier process of this run left.

        :raises ServerError: a server is lost, or refuses.
        """
        with ExitStack() as stack:
            link = stack.enter_context(open_links(servers.source, servers.target, self._settings.native))
            attached, course = self._adopted(link, link.look(), str(servers.target))
            return self._attachment(link, course, attached, stack.pop_all())

    def _attachment(
        self, link: NativeLink, course: Course, attached: Attached, stack: ExitStack
    ) -> Attachment:
        # From here on, whoever follows waits for a server that is away.
        course.reconnect_seconds = 0.0
        return Attachment(link, course, lambda: self._released(link, attached), stack)

    # -- beginning --------------------------------------------------------------------------------------------------

    def _begin(self, link: NativeLink, servers: Servers, meter: Meter) -> tuple[Attached, Course]:
        first = link.look()
        # While it connects it has nothing, and where it is told to connect to may be wrong.
        if isinstance(link, ShardLinks):
            # What its links missed while nobody looked, slots that moved above all, nobody can tell.
            if first.green.stage is not Stage.MASTER:
                link.detach()
        elif link.follows(first) and first.green.stage is not Stage.CONNECTING:
            self._progress.say("Green is a replica of this source already: going on from there.")
            return self._adopted(link, first, str(servers.target), meter)
        require_loadable(servers)
        left = left_attached(self._ledger, self._handle.id, str(servers.target))
        if left is not None:
            self._take_back(link, left)
        if first.green.keys:
            self._progress.say(
                f"Replication empties green as soon as blue sends: it loses {plural(first.green.keys, 'key')}."
            )
        attached = self._attach(link, servers, first.green.keys)
        return attached, self._course(link, FullSyncs(first, attached=False), meter)

    def _adopted(
        self, link: NativeLink, first: Look, target: str, meter: Meter | None = None
    ) -> tuple[Attached, Course]:
        attached = left_attached(self._ledger, self._handle.id, target) or Attached({}, link.dropped())
        self._handle.event("replicate.going-on", {"full_syncs": first.blue.full_syncs})
        return attached, self._course(link, FullSyncs(first, attached=True), meter)

    def _course(self, link: NativeLink, full_syncs: FullSyncs, meter: Meter | None) -> Course:
        return Course(
            link,
            full_syncs,
            self._progress,
            keep=self._keep,
            advance=lambda keys: meter.advance(keys, 0) if meter is not None else None,
            reconnect_seconds=self._settings.reconnect_seconds,
        )

    def _attach(self, link: NativeLink, servers: Servers, held: int) -> Attached:
        credentials = Credentials.of(servers.source, servers.target)
        attached = Attached(credentials.told(), link.dropped())
        # Recorded before it is done: a process that is killed in between leaves nothing that nobody knows of.
        self._handle.event(
            ATTACHING,
            {
                "lent": dict(attached.lent),
                "dropped_before": dict(attached.dropped_before),
                "keys_emptied": held,
            },
        )
        try:
            credentials.lend(servers.target)
            link.attach()
        except BaseException:
            self._credentials = credentials
            self._release(link, attached)
            raise
        self._credentials = credentials
        return attached

    # -- following --------------------------------------------------------------------------------------------------

    def _follow(self, course: Course, servers: Servers) -> CaughtUp:
        for _ in range(_ATTEMPTS):
            course.until_online()
            sentinels = Sentinels(
                servers.source, servers.target, self._settings.native.sentinel_key, self._tags
            )
            caught = course.catch_up(sentinels)
            if caught is not None:
                if caught.only_offsets:
                    self._progress.say(
                        f"Green has caught up by the offsets of both servers; {caught.only_offsets}."
                    )
                return caught
        raise ReplicationFailed(
            "target", str(servers.target), f"lost its link {_ATTEMPTS} times while it caught up."
        )

    def _end(self, link: NativeLink, course: Course, servers: Servers, caught: CaughtUp) -> CaughtUp:
        """End replicating; where green began from nothing at that very moment, go on and try again."""
        while True:
            stage, now = link.detach(), link.look()
            if stage is Stage.ONLINE and not course.full_syncs.began_since(caught.look, now):
                return caught
            course.full_syncs.take(now)
            self._progress.say("Green began from nothing just before it was told to end: once more.")
            link.attach()
            caught = self._follow(course, servers)

    def _keep(self, seconds: float) -> None:
        self._now_and_then()
        self._handle.wait(seconds)

    # -- ending -----------------------------------------------------------------------------------------------------

    def _release(self, link: NativeLink, attached: Attached) -> None:
        """Whatever happened: green replicates no more, and knows no password that it did not know before."""
        try:
            self._released(link, attached)
        except ServerError as error:
            self._progress.say(f"Green could not be released: {error}")
            self._handle.event("replicate.not-released", {"problem": error.problem})

    def _released(self, link: NativeLink, attached: Attached) -> Stage:
        """The state in which it was ended."""
        stage = link.detach() if link.is_attached() else Stage.MASTER
        self._take_back(link, attached)
        self._handle.event(DETACHED, {"stage": stage.value})
        return stage

    def _take_back(self, link: NativeLink, attached: Attached) -> None:
        if self._credentials is not None:
            self._credentials.take_back(link.target)
            return
        lost = forget_lent(link.target, attached.lent)
        if lost:
            self._progress.say(
                f"Green's {' and '.join(lost)} had been set before an earlier run changed that, which ended without "
                "putting it back: empty now. Set it again where it is needed."
            )

    def _explained(self, error: ReplicationFailed, servers: Servers) -> ReplicationFailed:
        """The same with the likely cause, asked of blue."""
        causes: list[str] = []
        with suppress(GreenflyError):
            causes = obstacles(servers.source, servers.source_identity, servers.target_identity)
            causes = causes or hashes_that_expire(servers.source, servers.databases)
        text = " ".join(causes) or "See Dragonfly's log."
        error.remedy = (
            f"{text} Green may hold a part of the keys: --strategy copy --conflict replace overwrites them."
        )
        error.args = (error.problem, error.remedy)
        return error

    def _figures(
        self, course: Course, meter: Meter, link: NativeLink, attached: Attached
    ) -> dict[str, object]:
        dropped: dict[str, int] = {}
        with suppress(ServerError):
            dropped = dropped_since(attached.dropped_before, link.dropped())
        took = meter.finish()
        return took | {
            "keys": meter.keys,
            "full_syncs": course.full_syncs.count,
            "restarts": course.restarts,
            "dropped": dropped,
        }


def has_attached(ledger: Ledger, run_id: str) -> bool:
    """Whether a run has made its target a replica, and so emptied it, before."""
    return any(event.kind == ATTACHING for event in ledger.events(run_id))


def dropped_since(before: Mapping[str, int], now: Mapping[str, int]) -> dict[str, int]:
    """Commands that green did not know → how often since; after a restart it counts from nothing."""
    return {
        name: count - before.get(name, 0) if count >= before.get(name, 0) else count
        for name, count in sorted(now.items())
        if count != before.get(name, 0)
    }


def left_attached(ledger: Ledger, run_id: str, target: str) -> Attached | None:
    """What the newest process that attached green and did not end it had changed there; None where none is known."""
    newest: tuple[int, Attached | None] = (-1, None)
    for owner in {run_id, *ledger.broken_runs(target)}:
        events = [event for event in ledger.events(owner) if event.kind in {ATTACHING, DETACHED}]
        if events and events[-1].kind == ATTACHING and events[-1].sequence > newest[0]:
            payload = json.loads(events[-1].payload)
            attached = Attached(dict(payload["lent"]), dict(payload["dropped_before"]))
            newest = (events[-1].sequence, attached)
    return newest[1]
