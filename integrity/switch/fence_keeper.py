"""What the sync process sees to now and then: that the side which is not served from refuses, and no dead node's fence
is forgotten.

A restart forgets a fence, and a node that joins never had one.  A node that was dead when the fence was lifted, and was
cut off rather than restarted, refuses still when it is back.
"""

from __future__ import annotations

from typing import Final

from integrity.errors import GreenflyError, LedgerError
from integrity.ledger import Ledger
from integrity.ledger.operations import operations, under_way
from integrity.ledger.vocabulary import Direction
from integrity.phases.sync import SyncPhase
from integrity.progress import Progress
from integrity.settings import Settings
from integrity.switch.asker import Asker
from integrity.switch.conductor import Conductor
from integrity.switch.fence_nodes import NodesFence
from integrity.switch.fence_record import LIFTED, LeftFence, left_fence

_OPERATIONS: Final = 5
"""How many of the newest cutovers and rollbacks are looked through."""


def keep_fences(
    settings: Settings, ledger: Ledger, sync_run_id: str, phase: SyncPhase, asker: Asker, progress: Progress
) -> None:
    """Look, if it is time to, and mend what is found.

    Nothing opens blue while this looks: a rollback first has this very process turn round, or end.

    :raises LedgerError: the ledger cannot be read.
    """
    if not phase.fence_look_due() or settings.switch.kind == "none":
        return
    if under_way(ledger, sync_run_id) is not None:
        return
    left = _left_fence(ledger, sync_run_id)
    backward = phase.status().direction is Direction.BACKWARD
    if left is None and not backward:
        return
    try:
        conductor = Conductor(settings, ledger, ledger.find_run(sync_run_id), asker, progress)
        if left is not None:
            _lift_what_came_back(conductor, left)
        if backward:
            _keep_blue_fenced(conductor)
    except LedgerError:
        raise
    except GreenflyError as error:
        # Following goes on; a blue that is away is met there as well.
        progress.say(f"The fence could not be looked at: {error}")


def _keep_blue_fenced(conductor: Conductor) -> None:
    """Put blue's fence up again where a restart has forgotten it, or a node has joined, as long as green serves."""
    plan = conductor.standing_fence("blue")
    if plan is None:
        return
    through = conductor.fence("blue").breaches(plan)
    if not through:
        return
    plan = conductor.refuse_again("blue", plan)
    ledger, run_id = conductor.ledger, conductor.sync_run.id
    if under_way(ledger, run_id) is not None or conductor.standing_fence("blue") is None:
        # This process stood still meanwhile, and blue was opened without it.
        conductor.fence("blue").lift(plan)
        return
    ledger.record_event("fence.renewed", {"side": "blue", "wrote": list(through)}, run_id)
    conductor.progress.say(
        f"Blue's fence did not hold for {', '.join(through)} (a restart forgets it); it is up again."
    )


def _left_fence(ledger: Ledger, sync_run_id: str) -> LeftFence | None:
    """The newest fence that was lifted everywhere but on nodes that were dead."""
    newest = operations(ledger, sync_run_id)[-_OPERATIONS:]
    return next(filter(None, (left_fence(ledger, run.id) for run in reversed(newest))), None)


def _lift_what_came_back(conductor: Conductor, left: LeftFence) -> None:
    fence = conductor.fence(left.side)
    if not isinstance(fence, NodesFence) or conductor.standing_fence(left.side) is not None:
        return
    if fence.lift_left(left.plan, left.names):
        return
    conductor.ledger.record_event(LIFTED, {"side": left.side, "names": list(left.names)}, left.run_id)
    conductor.progress.say(f"Nodes of {left.side} that were dead refuse writes no more.")
