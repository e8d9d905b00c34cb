"""``greenfly db upgrade|check|downgrade``"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from greenfly.commands import options as o

if TYPE_CHECKING:
    from integrity.ledger.schema_check import LedgerCheck

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="The ledger's database: bring its schema up to date, check what it holds, take it back.",
)


@app.command("upgrade", short_help="Bring the schema up to date.")
def upgrade(
    wait: Annotated[
        float,
        typer.Option(metavar="SECONDS", help="How long to wait for runs that are under way (default: 0)."),
    ] = 0.0,
    config: o.ConfigFile = None,
    state_dir: o.StateDir = None,
    as_json: o.Json = False,
) -> None:
    """Bring the ledger's schema to the one that this version needs, in one transaction, while no run is under way.

    A ledger on SQLite is also upgraded whenever it is opened; one on PostgreSQL only by this command, because every
    older Greenfly is shut out from then on.
    """
    from greenfly.console import print_json
    from integrity.ledger.database import SCHEMA_HEAD, connect
    from integrity.ledger.schema import bring_up_when_quiet

    engine = connect(o.load(config, state_dir, {}).settings)
    try:
        before = bring_up_when_quiet(engine, wait)
    finally:
        engine.dispose()
    if as_json:
        print_json({"before": before, "schema": SCHEMA_HEAD, "changed": before != SCHEMA_HEAD})
    elif before == SCHEMA_HEAD:
        typer.echo(f"The schema is {SCHEMA_HEAD} already.")
    else:
        typer.echo(
            f"The schema is {SCHEMA_HEAD} now{f'; it was {before}' if before else ', made from nothing'}."
        )


@app.command("check", short_help="Schema, rows without an owner, the audit chain.")
def check(config: o.ConfigFile = None, state_dir: o.StateDir = None, as_json: o.Json = False) -> None:
    """Check the ledger and write nothing: schema and pending migrations, tables, rows without an owner, the chain.

    Ends with 0 where it is sound, also when migrations are pending, and with 5 where it is not.
    """
    from greenfly.console import print_json
    from greenfly.exit_codes import ExitCode
    from integrity.ledger.database import connect
    from integrity.ledger.schema_check import check_ledger

    engine = connect(o.load(config, state_dir, {}).settings)
    try:
        found = check_ledger(engine)
    finally:
        engine.dispose()
    if as_json:
        print_json(found.to_dict())
    else:
        for line in _lines(found):
            typer.echo(line)
    if not found.sound:
        raise typer.Exit(ExitCode.LEDGER)


@app.command("downgrade", short_help="Take the schema back to an older one.")
def downgrade(
    revision: Annotated[str, typer.Argument(help="The schema that the older Greenfly knows, e.g. 0003.")],
    lose_rows: Annotated[
        bool,
        typer.Option("--lose-rows", help="Also where the older schema has no place for what is there."),
    ] = False,
    config: o.ConfigFile = None,
    state_dir: o.StateDir = None,
    as_json: o.Json = False,
) -> None:
    """Take the ledger's schema back, so that an older Greenfly can use it; refused while a run is under way.

    Refused, too, where rows would be lost, unless that is said.
    """
    from greenfly.console import print_json
    from integrity.ledger.database import connect
    from integrity.ledger.taking_back import take_back

    engine = connect(o.load(config, state_dir, {}).settings)
    try:
        before = take_back(engine, revision, lose_rows=lose_rows)
    finally:
        engine.dispose()
    if as_json:
        print_json({"before": before, "schema": revision, "changed": before != revision})
    else:
        typer.echo(f"The schema is {revision} now; it was {before}.")


def _lines(found: LedgerCheck) -> list[str]:
    """What was found, for people."""
    lines = [f"ledger      {found.address}", f"schema      {found.version or 'none'}"]
    if found.unknown:
        return [*lines, f"            made by a newer Greenfly; this one knows {found.head}"]
    if found.pending:
        lines.append(f"pending     {', '.join(found.pending)}; run `greenfly db upgrade`")
    if found.live_runs:
        lines.append(f"under way   {', '.join(found.live_runs)}")
    lines += [f"deviates    {deviation}" for deviation in found.deviations]
    lines += [f"orphans     {orphans}" for orphans in found.orphans]
    if found.chain is not None:
        state = f"intact, {found.chain.events:,} events, head {found.chain.head}"
        if not found.chain.intact:
            state = f"broken at event {found.chain.broken_at}: {found.chain.problem}"
        lines.append(f"chain       {state}")
    return [*lines, f"            {'sound' if found.sound else 'NOT SOUND'}"]
