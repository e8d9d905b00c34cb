"""Tamper evidence: signed checkpoints of the ledger's audit chain, and bundles that are checked without the ledger."""
