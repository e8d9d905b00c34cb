"""What this version does not do with clusters and Sentinels, refused by name before anything is written."""

from __future__ import annotations

from integrity.address import Address
from integrity.errors import ConfigurationError
from integrity.settings import Settings, SnapshotMethod
from integrity.strategy import Strategy


def settings_for(settings: Settings, source: Address, target: Address) -> Settings:
    """The settings of a run between these two: a road that is not open to them is not chosen.

    :raises ConfigurationError: something is asked for that is not done with a cluster, or with Sentinels.
    """
    if target.mode == "cluster":
        if settings.strategy is Strategy.NATIVE:
            raise ConfigurationError(
                f"Target {target} is a cluster, and Dragonfly's own replication fills one server.",
                "Use --strategy copy.",
            )
        settings = settings.model_copy(update={"strategy": Strategy.COPY})
    if source.mode == "single":
        return settings
    if source.mode == "cluster":
        _require_for_cluster(settings, source)
        return settings
    if settings.strategy is Strategy.NATIVE:
        raise ConfigurationError(
            f"Source {source} is found by Sentinels, and Dragonfly's own replication follows servers that are named.",
            "Use --strategy copy, or name the master (redis://).",
        )
    return settings.model_copy(update={"strategy": Strategy.COPY})


def _require_for_cluster(settings: Settings, source: Address) -> None:
    asked = {
        "replica.url": settings.replica.url is not None,
        "snapshot.method = replication": settings.snapshot.enabled
        and settings.snapshot.method is SnapshotMethod.REPLICATION,
        "sync.heartbeat_key": settings.sync.heartbeat_key is not None,
        "sync.feed = monitor": settings.sync.feed == "monitor",
    }
    for name, is_asked in asked.items():
        if is_asked:
            raise ConfigurationError(
                f"Source {source} is a cluster, and {name} is about one server.", "Leave it out."
            )
