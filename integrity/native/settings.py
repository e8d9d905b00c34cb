"""The ``[native]`` table: how Dragonfly's own replication is used; see ``docs/native.md``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from integrity.section import Section


class NativeSettings(Section):
    """How green is made a replica of blue, and when it stops being one."""

    follow: Literal["tracking", "replication"] = Field(
        "tracking",
        description="`greenfly sync`: detach green as soon as it has everything and follow by client tracking, or "
        "leave it attached until the cutover (needed where blue is written faster than keys can be carried over)",
    )
    sentinel_key: str = Field(
        "greenfly:sentinel",
        description="a key that is written to each database of blue for a moment and waited for on green, to know that "
        "green has caught up; empty: only the replication offsets are compared, and blue is not written to",
    )
    start_seconds: Annotated[float, Field(gt=0)] = Field(
        120.0, description="how long green may take until it receives the first data"
    )
    stall_seconds: Annotated[float, Field(gt=0)] = Field(
        60.0, description="how long a full synchronisation may make no progress before it is given up"
    )
    catch_up_seconds: Annotated[float, Field(gt=0)] = Field(
        60.0, description="how long green may take to catch up with blue"
    )
    max_full_syncs: Annotated[int, Field(ge=1, le=100)] = Field(
        3,
        description="full synchronisations that may begin before the strategy is given up: each empties green",
    )
    master_host: str | None = Field(
        None, description="how green reaches blue, where that differs from how this machine does: host"
    )
    master_port: Annotated[int | None, Field(ge=1, le=65535)] = Field(None, description="and port")
