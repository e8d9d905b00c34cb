"""When and in which order it runs.  Thin: no data logic.

The modules named after a flow import the orchestrator, and with them ``running``, ``publishing``, ``approving``,
``shown_progress`` and ``deployments``; everything else works without it."""
