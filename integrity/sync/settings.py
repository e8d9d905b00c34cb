"""The ``[sync]`` table: how changes are followed; see ``docs/sync.md``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from integrity.rule_text import read_size
from integrity.section import Section

_Size = Annotated[int, Field(ge=1, le=2**63 - 1)]


class SyncSettings(Section):
    """How changes are followed."""

    feed: Literal["auto", "tracking", "monitor", "rounds"] = Field(
        "auto",
        description="what tells which keys change: client tracking, MONITOR, or nothing but comparing in rounds; auto "
        "takes the first that the followed server allows",
    )
    batch_keys: Annotated[int, Field(ge=1, le=1000)] = Field(
        500, description="changed keys that are carried over together"
    )
    prove_keys: Annotated[int, Field(ge=1, le=1000)] = Field(
        250, description="carried keys that are compared together"
    )
    attempts: Annotated[int, Field(ge=1, le=100)] = Field(
        4, description="how often a key is carried over before it counts as stuck, while nobody changes it"
    )
    max_dirty_keys: Annotated[int, Field(ge=1000)] = Field(
        5_000_000,
        description="more changed keys than this are not kept by name: everything is compared instead",
    )
    max_backlog_bytes: Annotated[_Size, BeforeValidator(read_size)] = Field(
        64 * 1024 * 1024,
        description="the feed is closed, and everything compared, before more than this waits on the followed server",
    )
    silence_seconds: Annotated[float, Field(gt=0)] = Field(
        10.0, description="a feed that answers nothing for so long is taken for lost"
    )
    settle_seconds: Annotated[float, Field(ge=0)] = Field(
        0.5, description="with MONITOR: a key is compared no sooner than this after it was named"
    )
    widen_monitor_queue: bool = Field(
        True,
        description="with MONITOR on Dragonfly: raise its pipeline_queue_limit, which closes a MONITOR under load; "
        "put back when following ends",
    )
    group_seconds: Annotated[float, Field(gt=0)] = Field(
        2.0, description="how often the consumer groups of all streams are compared, which no feed announces"
    )
    round_seconds: Annotated[float, Field(ge=0)] = Field(
        5.0, description="pause between two comparisons of everything where there is no feed"
    )
    compare_seconds: Annotated[float, Field(ge=0)] = Field(
        6 * 3600.0,
        description="how often everything is compared while a feed is followed; 0: only when needed",
    )
    reconnect_seconds: Annotated[float, Field(ge=0)] = Field(
        600.0, description="how long a lost, loading or full server is tried again before the run breaks off"
    )
    heartbeat_key: str | None = Field(
        None,
        description="a key that is written to the followed server once a second and watched on the other one; "
        "none: the lag is the age of the oldest change that is not carried over",
    )
    accept_shrunk_source: bool = Field(
        False,
        description="go on after a restart that brought the followed server back with less than half of its keys",
    )
