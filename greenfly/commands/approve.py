"""``greenfly approve``"""

from __future__ import annotations

from typing import Annotated

import typer

from greenfly.commands import options as o
from greenfly.commands.cutover import SyncRun


def approve(
    run: SyncRun = "latest",
    gate: Annotated[str, typer.Option(help="What is decided about: cutover.")] = "cutover",
    request: Annotated[bool, typer.Option("--request", help="Ask others to approve.")] = False,
    reject: Annotated[bool, typer.Option("--reject", help="Say no; voids what was approved before.")] = False,
    break_glass: Annotated[
        bool,
        typer.Option("--break-glass", help="Pass the gate alone, in an emergency; needs --comment."),
    ] = False,
    comment: Annotated[str, typer.Option(help="Why; kept with the decision.")] = "",
    as_user: Annotated[
        str | None,
        typer.Option("--as", help="Who decides (default: GREENFLY_OPERATOR, or the user of this process)."),
    ] = None,
    config: o.ConfigFile = None,
    state_dir: o.StateDir = None,
    as_json: o.Json = False,
) -> None:
    """Approve a gate of a sync run, or request, reject or break it; recorded in the ledger and its audit chain."""
    from flows import operations
    from greenfly.console import print_json
    from integrity.ledger.vocabulary import Decision

    decision = operations.one_decision(request=request, reject=reject, break_glass=break_glass)
    settings = o.load(config, state_dir, {}).settings
    standing = operations.decide(settings, run, gate, decision, as_user, comment)
    if as_json:
        print_json(standing)
        return
    words = {
        Decision.REQUESTED: "requested",
        Decision.APPROVED: "approved",
        Decision.REJECTED: "rejected",
        Decision.BREAK_GLASS: "broken in an emergency",
    }
    typer.echo(
        f"Gate {gate} of run {standing['run']} was {words[decision]} by {standing['by']}; "
        f"{standing['approvals']} of {standing['needed']} approvals are there."
    )
