"""What every table of the settings has in common: frozen, and no name that is not known."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """One table of ``greenfly.toml``."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)
