"""The masters of a cluster as servers of their own, for what has to be asked of each of them."""

from __future__ import annotations

from dataclasses import replace

from integrity.assess.server import Server
from integrity.cluster.connection import ClusterConnection
from integrity.cluster.nodes import node_target
from integrity.cluster.slots import SLOTS, probe_key
from integrity.cluster.topology import Cluster, Master
from integrity.endpoint import Endpoint, Identity
from integrity.info import engine_of, field_expiries_of, keyspace_of, number


def servers_of(endpoint: Endpoint, identity: Identity) -> tuple[Server, ...]:
    """A single server, or every master of a cluster, by node id.

    :raises ServerError: no node answers, or slots are served by nobody.
    """
    if not endpoint.is_cluster:
        return (Server(endpoint, identity),)
    return tuple(_server(endpoint, identity, master) for master in cluster_of(endpoint).masters)


def cluster_of(endpoint: Endpoint) -> Cluster:
    """Who serves what now.

    :raises ServerError: no node answers, or slots are served by nobody.
    """
    with ClusterConnection(endpoint.target, name="greenfly:assess") as connection:
        return connection.cluster()


def _server(endpoint: Endpoint, whole: Identity, master: Master) -> Server:
    node = Endpoint(node_target(endpoint.target, master.place))
    engine, version = engine_of(master.info)
    fields = "none" if whole.field_expiries == "none" else field_expiries_of(master.info)
    identity = replace(
        whole,
        address=str(node),
        engine=engine,
        version=version,
        run_id=master.run_id,
        used_memory=number(master.info.get("used_memory")),
        max_memory=number(master.info.get("maxmemory")),
        databases=keyspace_of(master.info),
        field_expiries=fields,
        shards=(),
    )
    tag = probe_key(min(master.slots)).decode().partition("{")[2].rstrip("}") if master.slots else ""
    return Server(node, identity, len(master.slots) / SLOTS, tag)
