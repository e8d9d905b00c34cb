"""Ranges of one run that workers on several machines share through the ledger; see ``docs/scale.md``."""
