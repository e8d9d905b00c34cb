"""Which feed a server allows, and opening it."""

from __future__ import annotations

from collections.abc import Callable

from integrity.endpoint import Endpoint, Identity
from integrity.errors import PermissionRefused, ProtocolError, ServerError
from integrity.sync.cluster_feed import ClusterFeed
from integrity.sync.feed import Feed
from integrity.sync.monitor import MonitorFeed
from integrity.sync.settings import SyncSettings
from integrity.sync.tracking import TrackingFeed, TrackingUnsupported


def open_feed(
    endpoint: Endpoint, identity: Identity, settings: SyncSettings, say: Callable[[str], None]
) -> Feed | None:
    """The feed that the settings ask for; None where changes are only found by comparing in rounds.

    :param say: told, in a sentence, why a better feed is not used.
    :raises ServerError: the server cannot be reached, or does not allow the feed that was asked for by name.
    """
    if endpoint.is_cluster:
        return _open_for_cluster(endpoint, identity, settings, say)
    if settings.feed == "tracking":
        return TrackingFeed.open(endpoint, silence_seconds=settings.silence_seconds)
    if settings.feed == "monitor":
        return MonitorFeed.open(endpoint, settle_seconds=settings.settle_seconds)
    if settings.feed == "rounds":
        return None
    try:
        return TrackingFeed.open(endpoint, silence_seconds=settings.silence_seconds)
    except (TrackingUnsupported, PermissionRefused) as error:
        refusal: ServerError = error
    try:
        feed = MonitorFeed.open(endpoint, settle_seconds=settings.settle_seconds)
    except (PermissionRefused, ProtocolError) as error:
        say(
            f"{identity.title} neither announces changed keys nor allows MONITOR ({error.problem}): everything is "
            "compared in rounds until both sides agree."
        )
        return None
    if identity.engine != "dragonfly":
        say(f"{refusal.problem} MONITOR is used instead.")
    return feed


def _open_for_cluster(
    endpoint: Endpoint, identity: Identity, settings: SyncSettings, say: Callable[[str], None]
) -> ClusterFeed | None:
    if settings.feed == "rounds":
        return None
    if identity.engine == "dragonfly" and settings.feed != "tracking":
        try:
            return ClusterFeed.open_monitors(endpoint, settle_seconds=settings.settle_seconds)
        except (PermissionRefused, ProtocolError) as error:
            if settings.feed == "monitor":
                raise
            say(f"{error.problem} Everything is compared in rounds until both sides agree.")
            return None
    try:
        return ClusterFeed.open(endpoint, silence_seconds=settings.silence_seconds)
    except (TrackingUnsupported, PermissionRefused) as error:
        if settings.feed == "tracking":
            raise
        say(f"{error.problem} Everything is compared in rounds until both sides agree.")
        return None
