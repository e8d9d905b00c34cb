"""``greenfly review``: the page, and the same decisions from the command line"""

from __future__ import annotations

import json
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from greenfly.commands import options as o
from greenfly.commands import review_waivers
from greenfly.commands.review_options import As, Comment, Gate, Run, open_as_it_is, shown

if TYPE_CHECKING:
    from integrity.ledger.reviews import GateView, Separate
    from integrity.ledger.vocabulary import Decision
    from integrity.settings import Settings

app = typer.Typer(
    invoke_without_command=True,
    subcommand_metavar="[COMMAND]",
    help="Serve the review page: runs, findings, values side by side, decisions. Subcommands decide without it.",
)
token_app = typer.Typer(no_args_is_help=True, help="Tokens with which people sign in on the review page.")
app.add_typer(token_app, name="token")
app.command("waive")(review_waivers.waive)
app.command("unwaive")(review_waivers.unwaive)
app.command("waivers")(review_waivers.list_waivers)


@app.callback()
def review(
    context: typer.Context,
    host: Annotated[
        str | None, typer.Option(help="Address to listen on; other than loopback only with TLS.")
    ] = None,
    port: Annotated[int | None, typer.Option(help="0 takes a free one (default: 8480).")] = None,
    config: o.ConfigFile = None,
    state_dir: o.StateDir = None,
    as_json: o.Json = False,
) -> None:
    """Serve the review page until Ctrl-C."""
    from integrity.errors import ConfigurationError

    if context.invoked_subcommand is not None:
        if any(value is not None for value in (host, port, config, state_dir)) or as_json:
            raise ConfigurationError(
                f"Flags of `greenfly review` stand before {context.invoked_subcommand}, which would not see them.",
                f"Write them behind it: greenfly review {context.invoked_subcommand} …",
            )
        return
    from greenfly.review_actions import actions_of
    from integrity.ledger.tokens import read_tokens
    from reports.review.serve import serve

    settings = o.load(config, state_dir, {"review": o.without_empty({"host": host, "port": port})}).settings

    def ready(address: str) -> None:
        # Whoever started this, perhaps through a pipe, waits for this line.
        print(json.dumps({"url": address}) if as_json else f"The review page is at {address}", flush=True)
        if not any_token:
            sys.stderr.write("Nobody can sign in yet: `greenfly review token add` makes a token.\n")

    with closing(open_as_it_is(settings)) as ledger:
        any_token = bool(read_tokens(ledger.engine))
        serve(ledger, settings, actions_of(settings, config, state_dir), ready)


# -- tokens ------------------------------------------------------------------------------------------------------------


@token_app.command("add")
def token_add(
    name: Annotated[str, typer.Option(help="Whose token it is; decisions are recorded under this name.")],
    role: Annotated[
        str,
        typer.Option(
            help="viewer (looks), reviewer (decides, sees values) or operator (may also roll back)."
        ),
    ] = "viewer",
    days: Annotated[float | None, typer.Option(help="Until it expires (default: review.token_days).")] = None,
    config: o.ConfigFile = None,
    state_dir: o.StateDir = None,
    as_json: o.Json = False,
) -> None:
    """Make a token and print it; the ledger keeps only its hash."""
    from datetime import UTC, datetime

    from greenfly.console import print_json
    from integrity.errors import ConfigurationError
    from integrity.ledger import open_ledger
    from integrity.ledger.naming import operator_name
    from integrity.ledger.review_models import Role
    from integrity.ledger.tokens import add_token

    settings = o.load(config, state_dir, {}).settings
    try:
        wanted = Role(role)
    except ValueError:
        raise ConfigurationError(f"There is no role {role!r}.", f"Choose one of {', '.join(Role)}.") from None
    if days is not None and not 0 < days <= 366:
        raise ConfigurationError("A token holds for more than 0 and at most 366 days.", "Correct --days.")
    with closing(open_ledger(settings)) as ledger:
        record, text = add_token(
            ledger.engine, name, wanted, operator_name(), settings.review.token_days if days is None else days
        )
    if as_json:
        print_json({"token": text, **record.to_dict(datetime.now(UTC))})
        return
    sys.stderr.write(
        f"Token {record.id} for {record.name}, {record.role.value}, holds until "
        f"{record.expires_at:%Y-%m-%d %H:%M} UTC. It is shown once:\n"
    )
    typer.echo(text)


@token_app.command("list")
def token_list(config: o.ConfigFile = None, state_dir: o.StateDir = None, as_json: o.Json = False) -> None:
    """List the tokens, without their secrets."""
    from datetime import UTC, datetime

    from greenfly.console import print_json
    from integrity.ledger.tokens import read_tokens

    with closing(open_as_it_is(o.load(config, state_dir, {}).settings)) as ledger:
        tokens = read_tokens(ledger.engine)
    now = datetime.now(UTC)
    if as_json:
        print_json({"tokens": [token.to_dict(now) for token in tokens]})
        return
    for token in tokens:
        typer.echo(
            f"{token.id}  {token.state(now):<8} {token.role.value:<9} until {token.expires_at:%Y-%m-%d}  "
            f"{shown(token.name)}"
        )
    if not tokens:
        typer.echo("No token.")


@token_app.command("revoke")
def token_revoke(
    token: Annotated[str, typer.Argument(help="Its id, from `greenfly review token list`.")],
    config: o.ConfigFile = None,
    state_dir: o.StateDir = None,
    as_json: o.Json = False,
) -> None:
    """End a token, and every session that was begun with it."""
    from datetime import UTC, datetime

    from greenfly.console import print_json
    from integrity.ledger.naming import operator_name
    from integrity.ledger.tokens import revoke_token

    with closing(open_as_it_is(o.load(config, state_dir, {}).settings)) as ledger:
        record = revoke_token(ledger.engine, token, operator_name())
    if as_json:
        print_json(record.to_dict(datetime.now(UTC)))
        return
    typer.echo(f"Token {record.id} of {shown(record.name)} is revoked.")


# -- decisions ---------------------------------------------------------------------------------------------------------


@app.command("list")
def list_gates(
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many runs.")] = 20,
    waiting: Annotated[
        bool, typer.Option("--open", help="Only gates about which nobody has said yes or no.")
    ] = False,
    config: o.ConfigFile = None,
    state_dir: o.StateDir = None,
    as_json: o.Json = False,
) -> None:
    """List the newest runs with their verdicts, and where their gates stand."""
    from greenfly.console import print_json
    from integrity.ledger.reviews import read_gates

    settings = o.load(config, state_dir, {}).settings
    with closing(open_as_it_is(settings)) as ledger:
        rows = [
            (run, gate)
            for run in ledger.runs(limit)
            for gate in read_gates(ledger.engine, run.id, _separate(settings))
            if not waiting or gate.word in {"open", "requested"}
        ]
    if as_json:
        print_json(
            {
                "gates": [
                    {
                        "run": run.id,
                        "kind": run.kind.value,
                        "state": run.state.value,
                        "verdict": run.verdict.value if run.verdict else None,
                        "operator": run.operator,
                        **_told(gate),
                    }
                    for run, gate in rows
                ]
            }
        )
        return
    for run, gate in rows:
        verdict = run.verdict.value if run.verdict else run.state.value
        by = f" by {', '.join(map(shown, gate.standing.approvers))}" if gate.standing.approvers else ""
        typer.echo(f"{run.id}  {run.kind.value:<8} {verdict:<20} {gate.gate:<8} {gate.word}{by}")
    if not rows:
        typer.echo("Nothing to decide.")


@app.command("approve")
def approve(
    run: Run = "latest",
    gate: Gate = "review",
    comment: Comment = "",
    as_user: As = None,
    config: o.ConfigFile = None,
    state_dir: o.StateDir = None,
    as_json: o.Json = False,
) -> None:
    """Say yes. Who started the run, or asked for the approval, cannot."""
    from integrity.ledger.vocabulary import Decision

    _decide(run, gate, Decision.APPROVED, comment, as_user, config, state_dir, as_json=as_json)


@app.command("reject")
def reject(
    run: Run = "latest",
    gate: Gate = "review",
    comment: Comment = "",
    repeat: Annotated[bool, typer.Option("--repeat", help="Ask for it to be done again.")] = False,
    as_user: As = None,
    config: o.ConfigFile = None,
    state_dir: o.StateDir = None,
    as_json: o.Json = False,
) -> None:
    """Say no, or not like this; voids what was approved before. Needs --comment."""
    from integrity.ledger.vocabulary import Decision

    decision = Decision.REPEAT if repeat else Decision.REJECTED
    _decide(run, gate, decision, comment, as_user, config, state_dir, as_json=as_json)


def _decide(
    run: str,
    gate: str,
    decision: Decision,
    comment: str,
    as_user: str | None,
    config: Path | None,
    state_dir: Path | None,
    *,
    as_json: bool,
) -> None:
    from greenfly.console import print_json
    from integrity.ledger.naming import operator_name
    from integrity.ledger.reviews import decide

    settings = o.load(config, state_dir, {}).settings
    with closing(open_as_it_is(settings)) as ledger:
        found = ledger.find_run(run)
        stands = decide(
            ledger.engine, found.id, gate, decision, as_user or operator_name(), comment, _separate(settings)
        )
    if as_json:
        print_json({"run": found.id, **_told(stands)})
        return
    typer.echo(f"Recorded. Gate {gate} of run {found.id} is {stands.word}.")


def _told(gate: GateView) -> dict[str, object]:
    return {
        "gate": gate.gate,
        "stands": gate.word,
        "approvers": list(gate.standing.approvers),
        "rejected_by": gate.standing.rejected_by,
        "barred": list(gate.barred),
    }


def _separate(settings: Settings) -> Separate:
    from integrity.ledger.reviews import Separate

    return Separate(settings.review.separate_reviewer, settings.cutover.separate_approver)
