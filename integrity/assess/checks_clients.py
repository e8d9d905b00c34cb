"""Checks about what applications use besides keys: announcements, channels, waiting, transactions, databases."""

from __future__ import annotations

from typing import Final

from integrity.assess.model import Check, Reach, Severity
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
        source=Reach.WHOLE,
        target=Reach.WHOLE,
    ),
    Check(
        "clients.tracking",
        "Client-side caching",
        Severity.BLOCKING,
        look_tracking,
        source=Reach.WHOLE,
        target=Reach.WHOLE,
    ),
    Check("clients.pubsub", "Channels", Severity.INFO, look_pubsub, source=Reach.WHOLE, target=Reach.WHOLE),
    Check(
        "clients.blocking",
        "Commands that wait",
        Severity.INFO,
        look_blocking,
        source=Reach.WHOLE,
        target=Reach.WHOLE,
    ),
    Check(
        "clients.transactions",
        "Transactions",
        Severity.INFO,
        look_transactions,
        source=Reach.WHOLE,
        target=Reach.WHOLE,
    ),
    Check(
        "clients.protocol",
        "Protocol and client libraries",
        Severity.BLOCKING,
        look_protocol,
        source=Reach.WHOLE,
        target=Reach.WHOLE,
    ),
    Check(
        "clients.cluster",
        "Cluster commands",
        Severity.BLOCKING,
        look_cluster,
        source=Reach.WHOLE,
        target=Reach.WHOLE,
    ),
    Check(
        "clients.select",
        "Databases that applications use",
        Severity.BLOCKING,
        look_select,
        source=Reach.WHOLE,
        target=Reach.WHOLE,
    ),
    Check(
        "clients.monitor", "MONITOR", Severity.WARNING, look_monitor, source=Reach.WHOLE, target=Reach.WHOLE
    ),
    Check(
        "clients.counted-here",
        "Whether the source is where commands are counted",
        Severity.WARNING,
        look_counted,
        source=Reach.WHOLE,
        target=Reach.WHOLE,
    ),
    Check(
        "replicas.attached",
        "Replicas and Sentinel",
        Severity.WARNING,
        look_replicas,
        source=Reach.WHOLE,
        target=Reach.WHOLE,
    ),
)
