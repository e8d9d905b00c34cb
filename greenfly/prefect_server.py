"""Prefect's own server, with the one thing put right that keeps its scheduler from working beside SQLAlchemy 2.1.

``python -m greenfly.prefect_server start …`` is ``prefect server start …``.  Prefect 3.8 inserts scheduled flow runs in
bulk together with their ``state``, a hybrid property that is no column.  SQLAlchemy 2.0 passed that name over; 2.1
refuses it, and nothing is ever scheduled.  Here the name is passed over again; the states are inserted right after, as
Prefect always did.  A server that runs elsewhere (its own image, say) brings its own libraries and does not need this.
"""

from __future__ import annotations

import sys
from collections.abc import MutableMapping

from sqlalchemy import inspect
from sqlalchemy.ext.hybrid import hybrid_property


def pass_states_over() -> None:
    """Let bulk inserts of flow and task runs pass over their ``state``."""
    from prefect.server.database.orm_models import FlowRun, TaskRun

    for mapper in (inspect(FlowRun, raiseerr=True), inspect(TaskRun, raiseerr=True)):
        state = mapper.all_orm_descriptors["state"]
        if isinstance(state, hybrid_property) and state.bulk_dml_setter is None:
            state.inplace.bulk_dml(_nothing)


def _nothing(cls: object, mapping: MutableMapping[str, object], value: object) -> None:
    """The states are inserted by themselves."""


def main() -> None:
    """Run ``prefect server`` with this process's arguments."""
    pass_states_over()
    from prefect.cli import app

    sys.argv = ["prefect", "server", *sys.argv[1:]]
    app()


if __name__ == "__main__":
    main()
