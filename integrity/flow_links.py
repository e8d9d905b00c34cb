"""The link from a run in the ledger to the flow run that it belongs to, for runs that were begun without one."""

from __future__ import annotations

from sqlalchemy import update

from integrity.ledger import Ledger, audit
from integrity.ledger.database import repeated, writing
from integrity.ledger.models import Run
from integrity.ledger.naming import operator_name


@repeated
def link_flow_run(ledger: Ledger, run_id: str, flow_run_id: str) -> None:
    """Record that a run belongs to a flow run, with an audit event, in one transaction.

    :raises LedgerError: the ledger cannot be written.
    """
    with writing(ledger.engine) as connection:
        connection.execute(update(Run).where(Run.id == run_id).values(flow_run_id=flow_run_id))
        audit.append(connection, run_id, operator_name(), "run.flow", {"flow_run": flow_run_id})
