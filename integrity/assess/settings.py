"""The ``[assess]`` table: what is looked at before a run; see ``docs/assess.md``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from integrity.section import Section


class AssessSettings(Section):
    """Which checks run before a migration, and how thoroughly."""

    enabled: bool = Field(
        True,
        description="assess before migrate and sync, and in the gate of a cutover; blocking findings stop them",
    )
    mode: Literal["sampled", "full"] = Field(
        "sampled", description="look at a sample of the keys (within seconds) or at every key"
    )
    sample_keys: Annotated[int, Field(ge=100)] = Field(
        50_000, description="sampled: at most this many keys over all databases"
    )
    sample_seconds: Annotated[float, Field(gt=0)] = Field(
        5.0, description="sampled: at most this long; the report states how much was seen"
    )
    only: tuple[str, ...] = Field((), description="only these checks (ids, or the part before the dot)")
    skip: tuple[str, ...] = Field((), description="not these checks")
    listed_keys: Annotated[int, Field(ge=1, le=1000)] = Field(
        20, description="how many keys the lists of big and hot keys hold"
    )
    watch_seconds: Annotated[float, Field(ge=0, le=60)] = Field(
        1.0, description="how long latency, and where it is asked for commands, are watched"
    )
    scripts: tuple[str, ...] = Field(
        (), description="files or folders of the applications' Lua scripts, to be looked through (*.lua)"
    )

    @field_validator("only", "skip", "scripts", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        """A variable holds a list as text."""
        return tuple(value.replace(",", " ").split()) if isinstance(value, str) else value
