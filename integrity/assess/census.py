"""The census of keys, as checks see it; see :mod:`integrity.census`."""

from __future__ import annotations

from integrity.census.model import Census, KeyFact, Seen
from integrity.census.take import take_census

__all__ = ["Census", "KeyFact", "Seen", "take_census"]
