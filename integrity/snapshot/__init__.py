"""The snapshot artifact: an RDB file, a Parquet manifest of per-key checksums, a JSON header."""
