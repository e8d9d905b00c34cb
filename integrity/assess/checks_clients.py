"""Checks about what applications use besides keys: announcements, channels, waiting, transactions, databases."""

from __future__ import annotations

from typing import Final

from integrity.assess.model import Check, Severity
from integrity.assess.usage_announced import (
    look_blocking,
    look_notifications,
    look_pubsub,
    look_tracking,
    look_transactions,
)
from integrity.assess.usage_connections import (
    look_cluster,
    look_counted,
    look_monitor,
    look_protocol,
    look_replicas,
    look_select,
)

CHECKS: Final = (
    Check(
        "clients.notifications",
        "Changes of keys that applications listen to",
        Severity.BLOCKING,
        look_notifications,
    ),
    Check("clients.tracking", "Client-side caching", Severity.BLOCKING, look_tracking),
    Check("clients.pubsub", "Channels", Severity.INFO, look_pubsub),
    Check("clients.blocking", "Commands that wait", Severity.INFO, look_blocking),
    Check("clients.transactions", "Transactions", Severity.INFO, look_transactions),
    Check("clients.protocol", "Protocol and client libraries", Severity.BLOCKING, look_protocol),
    Check("clients.cluster", "Cluster commands", Severity.BLOCKING, look_cluster),
    Check("clients.select", "Databases that applications use", Severity.BLOCKING, look_select),
    Check("clients.monitor", "MONITOR", Severity.WARNING, look_monitor),
    Check(
        "clients.counted-here",
        "Whether the source is where commands are counted",
        Severity.WARNING,
        look_counted,
    ),
    Check("replicas.attached", "Replicas and Sentinel", Severity.WARNING, look_replicas),
)
