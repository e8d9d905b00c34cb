"""What is refused by name before green is made a replica, because replication cannot honour it."""

from __future__ import annotations

from ipaddress import ip_address

from integrity.assess.choose import against_native
from integrity.endpoint import Endpoint, Identity
from integrity.errors import ConfigurationError, Refused
from integrity.native.obstacles import nodes_of, obstacles
from integrity.native.shards import require_emulated
from integrity.phases.servers import Servers
from integrity.settings import ConflictPolicy, Settings


def require_native(settings: Settings, servers: Servers) -> None:
    """Refuse a run that cannot take the native road; nothing was written.

    :raises ConfigurationError: the settings ask for something that replication cannot do.
    :raises Refused: the servers do not allow it.
    """
    # Whether green has to be empty is decided by the check, which also knows whose keys it holds.
    lenient = settings.copying.model_copy(
        update={
            "conflict": ConflictPolicy.SKIP
            if settings.copying.conflict is ConflictPolicy.SKIP
            else ConflictPolicy.REPLACE
        }
    )
    reasons = against_native(settings.model_copy(update={"copying": lenient}), servers.target_identity)
    if reasons:
        raise ConfigurationError(
            f"Dragonfly's own replication cannot be used: {' '.join(reasons)}", "Use --strategy copy."
        )
    _require_redis(servers.source_identity, servers.source)
    for node in nodes_of(servers.source):
        _require_address(node, servers.target, settings)
    if servers.source.is_cluster:
        require_emulated(servers.target)


def require_loadable(servers: Servers) -> None:
    """Refuse where blue holds what Dragonfly cannot load: it would be emptied, and begin again and again.

    :raises Refused: it does.
    :raises ServerError: blue is lost.
    """
    found = obstacles(servers.source, servers.source_identity, servers.target_identity)
    if found:
        raise Refused("Dragonfly's own replication cannot be used.", " ".join(found))


def _require_redis(blue: Identity, source: Endpoint) -> None:
    if blue.engine not in {"redis", "valkey"}:
        raise Refused(
            f"Source {source} is {blue.title}; the native strategy is for Redis and Valkey sources.",
            "Use --strategy copy.",
        )
    if blue.role != "master":
        raise Refused(
            f"Source {source} is a replica itself.",
            "Name its master as the source, or use --strategy copy.",
        )


def _require_address(source: Endpoint, target: Endpoint, settings: Settings) -> None:
    """Refuse an address of blue that means something else, or nothing, where green runs."""
    native = settings.native
    if native.master_host is None and source.address.scheme == "unix":
        raise ConfigurationError(
            f"Source {source} is a socket file, which green cannot reach.",
            "Set native.master_host and native.master_port.",
        )
    if native.master_host is not None or target.address.scheme == "unix":
        return
    if _is_loopback(source.address.host) and not _is_loopback(target.address.host):
        raise ConfigurationError(
            f"Source {source} is on this machine, and under that name green ({target}) would reach itself.",
            "Set native.master_host (and native.master_port) to where green reaches blue.",
        )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
