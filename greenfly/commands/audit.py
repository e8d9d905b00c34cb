"""``greenfly audit verify``"""

from __future__ import annotations

import typer

from greenfly.commands import options as o

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="The ledger's audit events.")


@app.command("verify")
def verify(config: o.ConfigFile = None, state_dir: o.StateDir = None, as_json: o.Json = False) -> None:
    """Walk the hash chain over all audit events; exit 1 where it is broken."""
    from greenfly.console import print_json
    from greenfly.exit_codes import ExitCode
    from integrity.ledger import open_ledger

    ledger = open_ledger(o.load(config, state_dir, {}).settings)
    try:
        state = ledger.chain_state()
    finally:
        ledger.close()
    if as_json:
        print_json(
            {
                "intact": state.intact,
                "events": state.events,
                "head": state.head,
                "broken_at": state.broken_at,
                "problem": state.problem,
            }
        )
    elif state.intact:
        typer.echo(f"The chain of {state.events:,} events is intact; its head is {state.head}.")
        typer.echo("Keep the head elsewhere: a chain alone cannot see that its newest events were cut off.")
    else:
        typer.echo(f"The chain is broken at event {state.broken_at}: {state.problem}.")
    raise typer.Exit(int(ExitCode.OK if state.intact else ExitCode.DIFFERENT))
