"""When and in which order it runs.  Thin: no data logic; only :mod:`flows.prefect_flows` imports the orchestrator."""
