"""The engine: what happens to data.  Plain Python; imports neither flows, reports, greenfly nor an orchestrator."""
