"""What monitoring reads: the ledger as Prometheus metrics, served, written to a file, or beside a run."""
