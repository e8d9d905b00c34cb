"""The ``[cutover]`` and ``[rollback]`` tables: gates, budgets, and what happens when they are exceeded."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from integrity.section import Section

_Seconds = Annotated[float, Field(gt=0, le=24 * 3600)]


class CutoverSettings(Section):
    """What must hold before blue is fenced, and how long each step may take."""

    max_verdict_age_seconds: _Seconds = Field(
        24 * 3600.0, description="gate: how old the newest clean comparison of everything may be"
    )
    max_lag_keys: Annotated[int, Field(ge=0)] = Field(
        10_000, description="gate: how many changed keys may wait to be carried over"
    )
    max_lag_seconds: _Seconds = Field(5.0, description="gate: how old the oldest of them may be")
    max_clock_skew_ms: Annotated[float, Field(ge=0)] = Field(
        1000.0, description="gate: how far the clocks of blue, green and this machine may be apart"
    )
    min_headroom: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.1, description="gate: share of green's memory that must be free"
    )
    accept_stuck_keys: bool = Field(
        False, description="gate: go on although keys differ that cannot be made equal"
    )
    approvals: Annotated[int, Field(ge=0, le=20)] = Field(
        0, description="gate: how many people must have approved"
    )
    separate_approver: bool = Field(True, description="whoever requested the cutover cannot approve it")
    fallback: bool = Field(
        True,
        description="carry green's changes back to blue after the cutover, so that a rollback keeps them",
    )
    keep_users: tuple[str, ...] = Field((), description="users that the fence leaves alone")
    drain_seconds: _Seconds = Field(
        10.0, description="budget: from the first delayed write until everything is carried over and proven"
    )
    fence_seconds: _Seconds = Field(5.0, description="budget: putting the lasting refusal in place")
    switch_seconds: _Seconds = Field(30.0, description="budget: writing the environment")
    confirm_seconds: _Seconds = Field(
        60.0, description="budget: until applications have moved, rollout included"
    )
    unconfirmed: Literal["rollback", "keep"] = Field(
        "rollback",
        description="where no application has come within that budget: go back, or stay and say so",
    )
    confirm: Literal["clients", "environment"] = Field(
        "clients",
        description="what confirms: the servers' client lists, or the environment switch alone (where applications "
        "connect through a proxy, say)",
    )
    close_connections: bool = Field(
        True, description="close the applications' connections to the side that they left"
    )
    canary_key: str | None = Field(
        "greenfly:canary",
        description="key that is written all the time, as an application would, to measure the write pause; empty: it "
        "is not measured",
    )


class RollbackSettings(Section):
    """How long each step of a rollback may take."""

    drain_seconds: _Seconds = Field(
        120.0, description="budget: until green's changes are on blue, and proven"
    )
    prove: Literal["everything", "changed"] = Field(
        "everything",
        description="compare every key under the fence where green was followed by MONITOR, which may miss changes; or "
        "only what it named",
    )
    fence_seconds: _Seconds = Field(5.0, description="budget: fencing green and opening blue")
    switch_seconds: _Seconds = Field(30.0, description="budget: writing the environment")
    confirm_seconds: _Seconds = Field(60.0, description="budget: until applications have moved")
