"""The review page: runs, findings and decisions, for people, over the ledger alone."""

from __future__ import annotations

from reports.review.actions import Actions, RollbackRequest
from reports.review.app import build_app

__all__ = ["Actions", "RollbackRequest", "build_app"]
