"""All tables of the ledger: a table is known once the module that declares it is imported."""

from __future__ import annotations

from typing import Final

from sqlalchemy import MetaData

from integrity.ledger import assess_models, live_models, range_models, review_models
from integrity.ledger.models import Base

__all__ = ["METADATA", "assess_models", "live_models", "range_models", "review_models"]

METADATA: Final[MetaData] = Base.metadata
