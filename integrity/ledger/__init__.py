"""The SQL ledger: what every run did, found and decided."""

from integrity.ledger.store import Ledger, RunHandle, open_ledger

__all__ = ["Ledger", "RunHandle", "open_ledger"]
