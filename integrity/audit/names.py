"""The files of a bundle by name."""

from __future__ import annotations

from typing import Final

FACTS: Final = "bundle.json"
CHAIN: Final = "chain.jsonl"
CHECKPOINTS: Final = "checkpoints.jsonl"
KEYS: Final = "keys.json"
ARTIFACTS: Final = "artifacts.json"
REPORT_HTML: Final = "report.html"
REPORT_JSON: Final = "report.json"
FINDINGS_CSV: Final = "findings.csv"
FINDINGS_PARQUET: Final = "findings.parquet"

REPORTS: Final = frozenset({REPORT_HTML, REPORT_JSON, FINDINGS_CSV, FINDINGS_PARQUET})
"""Those that whoever exports a bundle writes from the ledger before it is put together."""
ALWAYS: Final = REPORTS | {FACTS, CHAIN, CHECKPOINTS, KEYS, ARTIFACTS}
"""Those that every bundle has, beside the manifest."""
