"""``greenfly assess``, and ``acl``, ``rights``, ``waive``, ``unwaive``, ``waivers`` below it."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from contextlib import closing
from typing import TYPE_CHECKING, Annotated

import typer

from greenfly.commands import options as o
from greenfly.commands.assess_acl import assess_acl
from greenfly.commands.assess_rights import assess_rights

if TYPE_CHECKING:
    from integrity.ledger.waivers import WaiverRecord

app = typer.Typer(
    invoke_without_command=True,
    rich_markup_mode=None,
    short_help="Look at both servers before anything is moved.",
)
StrategyFlag = Annotated[
    str | None,
    typer.Option(
        "--strategy", help="The road to be assessed: copy, native or auto.", rich_help_panel=o.RUNNING
    ),
]
CheckName = Annotated[str, typer.Argument(metavar="CHECK", help="Id of a check, as commands.unknown.")]
By = Annotated[
    str | None,
    typer.Option("--by", help="Who says so (default: GREENFLY_OPERATOR, or the user of this process)."),
]


@app.callback()
def assess(
    context: typer.Context,
    source: o.Source = None,
    target: o.Target = None,
    strategy: StrategyFlag = None,
    mode: Annotated[
        str | None,
        typer.Option(help="Look at a sample of the keys (sampled) or at every key (full)."),
    ] = None,
    only: Annotated[
        str | None,
        typer.Option(metavar="NAMES", help="Only these checks: ids, or the part before the dot, as a,b."),
    ] = None,
    skip: Annotated[str | None, typer.Option(metavar="NAMES", help="Not these checks.")] = None,
    listing: Annotated[bool, typer.Option("--list", help="List all checks; no server is asked.")] = False,
    databases: o.Databases = None,
    include: o.Include = None,
    exclude: o.Exclude = None,
    include_type: o.IncludeType = None,
    exclude_type: o.ExcludeType = None,
    min_bytes: o.MinBytes = None,
    max_bytes: o.MaxBytes = None,
    map_db: o.MapDb = None,
    rename: o.Rename = None,
    replica: o.Replica = None,
    keys_per_second: o.KeysPerSecond = None,
    label: o.Label = None,
    source_password_file: o.SourcePasswordFile = None,
    source_ca: o.SourceCa = None,
    source_cert: o.SourceCert = None,
    source_key: o.SourceKey = None,
    target_password_file: o.TargetPasswordFile = None,
    target_ca: o.TargetCa = None,
    target_cert: o.TargetCert = None,
    target_key: o.TargetKey = None,
    config: o.ConfigFile = None,
    state_dir: o.StateDir = None,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Look at both servers before anything is moved: what would fail, be lost, or could not be undone.

    Nothing is written to either. Verdict: PASS, PASS WITH EXCEPTIONS (what blocks was waived), FAIL (something blocks,
    exit code 1), INCONCLUSIVE (something that could block is not known, exit code 3).
    """
    if context.invoked_subcommand is not None:
        _refuse_flags_before(context)
        return
    if listing:
        _list(as_json=as_json)
        return
    from flows import sequence
    from greenfly.commands.finish import verdict_code
    from greenfly.console import make_progress, print_json, print_outcome
    from integrity.assess.registry import select_checks
    from integrity.ledger import open_ledger
    from reports.assess_text import assessment_lines
    from reports.assessing import build_assessment
    from reports.json_report import assessment_to_dict

    loaded = o.load(
        config,
        state_dir,
        {
            "source": o.endpoint_overrides(source, source_password_file, source_ca, source_cert, source_key),
            "target": o.endpoint_overrides(target, target_password_file, target_ca, target_cert, target_key),
            "databases": databases,
            "strategy": strategy,
            "assess": o.without_empty({"mode": mode, "only": only, "skip": skip}),
            "rules": o.rule_overrides(
                include, exclude, include_type, exclude_type, min_bytes, max_bytes, map_db, rename
            ),
            "label": label,
            **o.pace_overrides(replica=replica, keys_per_second=keys_per_second),
        },
    )
    select_checks(loaded.settings.assess.only, loaded.settings.assess.skip)
    outcome = sequence.assess(loaded.settings, make_progress(quiet=quiet))
    code = verdict_code(outcome)
    with closing(open_ledger(loaded.settings)) as ledger:
        made = build_assessment(ledger, outcome.run_id)
    if as_json:
        told = assessment_to_dict(made) if made is not None else None
        print_json(outcome.to_dict() | {"assessment": told, "exit_code": int(code)})
    else:
        if made is not None:
            _print_lines(assessment_lines(made))
        print_outcome(outcome, code, as_json=False)
    raise typer.Exit(int(code))


app.command("acl")(assess_acl)
app.command("rights")(assess_rights)


@app.command("waive")
def waive(
    check: CheckName,
    why: Annotated[str, typer.Option(help="The reason; kept with the waiver and shown in every report.")],
    until: Annotated[
        str,
        typer.Option(help="When it ends: 2026-12-31 (its end, UTC), a moment with its zone, 12h, 30d, 2w."),
    ],
    by: By = None,
    item: Annotated[
        list[str] | None,
        typer.Option(metavar="ITEM", help="Only this one of the things found; repeatable."),
    ] = None,
    source: o.Source = None,
    target: o.Target = None,
    config: o.ConfigFile = None,
    state_dir: o.StateDir = None,
    as_json: o.Json = False,
) -> None:
    """Let pass, for a while, what an assessment of the two servers found blocking. Recorded, with who and why.

    What is found later blocks again.
    """
    from integrity.assess import waivers
    from integrity.ledger import open_ledger

    settings = o.load(config, state_dir, _servers(source, target)).settings
    with closing(open_ledger(settings)) as ledger:
        made = waivers.waive(settings, ledger, check, why=why, until=until, by=by, items=item or ())
    _print_waivers([made], as_json=as_json, said="Waived.")


@app.command("unwaive")
def unwaive(
    check: CheckName,
    by: By = None,
    source: o.Source = None,
    target: o.Target = None,
    config: o.ConfigFile = None,
    state_dir: o.StateDir = None,
    as_json: o.Json = False,
) -> None:
    """Withdraw every waiver of a check that is in force for the two servers. Recorded."""
    from integrity.assess import waivers
    from integrity.ledger import open_ledger

    settings = o.load(config, state_dir, _servers(source, target)).settings
    with closing(open_ledger(settings)) as ledger:
        withdrawn = waivers.unwaive(settings, ledger, check, by)
    _print_waivers(withdrawn, as_json=as_json, said="Withdrawn.")


@app.command("waivers")
def list_waivers(
    everything: Annotated[
        bool, typer.Option("--all", help="Also those that have ended or were withdrawn.")
    ] = False,
    source: o.Source = None,
    target: o.Target = None,
    config: o.ConfigFile = None,
    state_dir: o.StateDir = None,
    as_json: o.Json = False,
) -> None:
    """The waivers of these two servers; of all servers where none are named."""
    from datetime import UTC, datetime

    from integrity.assess.waivers import place
    from integrity.endpoint import Endpoint
    from integrity.ledger import open_ledger
    from integrity.ledger.waivers import read_waivers

    settings = o.load(config, state_dir, _servers(source, target)).settings
    blue = place(Endpoint.from_settings("source", settings.source)) if settings.source.url else None
    green = place(Endpoint.from_settings("target", settings.target)) if settings.target.url else None
    with closing(open_ledger(settings)) as ledger:
        held = read_waivers(ledger.engine, blue, green)
    now = datetime.now(UTC)
    _print_waivers(
        [waiver for waiver in held if everything or waiver.in_force(now)],
        as_json=as_json,
        said="" if held else "No waiver.",
    )


def _servers(source: str | None, target: str | None) -> dict[str, object | None]:
    return {"source": o.endpoint_overrides(source), "target": o.endpoint_overrides(target)}


def _refuse_flags_before(context: typer.Context) -> None:
    from integrity.errors import ConfigurationError

    given = [
        name
        for name in context.params
        if getattr(context.get_parameter_source(name), "name", "") == "COMMANDLINE"
    ]
    if given:
        raise ConfigurationError(
            f"Flags of `greenfly assess` stand before {context.invoked_subcommand}, which would not see them.",
            f"Write them behind it: greenfly assess {context.invoked_subcommand} … --source …",
        )


def _list(*, as_json: bool) -> None:
    from greenfly.console import print_json
    from integrity.assess.registry import all_checks

    checks = all_checks()
    if as_json:
        print_json(
            {
                "checks": [
                    {
                        "id": check.id,
                        "title": check.title,
                        "worst": check.worst.value,
                        "needs_census": check.needs_census,
                        "strategies": sorted(road.value for road in check.strategies),
                        "at_cutover": check.at_cutover,
                    }
                    for check in checks
                ]
            }
        )
        return
    width = max(len(check.id) for check in checks)
    _print_lines(f"{check.id:<{width}}  {check.worst.value:<8}  {check.title}" for check in checks)


def _print_waivers(made: list[WaiverRecord], *, as_json: bool, said: str) -> None:
    from datetime import UTC, datetime

    from greenfly.console import print_json
    from reports.assess_text import waiver_text
    from reports.assessing import waiver_view
    from reports.facts import masked_text

    now = datetime.now(UTC)
    if as_json:
        print_json({"waivers": [waiver.to_dict(now) for waiver in made]})
        return
    lines = [said] if said else []
    for waiver in made:
        lines += [
            f"{waiver.check_id}  {waiver.state(now)}  {masked_text(waiver.source)} → {masked_text(waiver.target)}",
            f"  {waiver_text(waiver_view(waiver))}",
        ]
    _print_lines(lines or ["No waiver is in force; --all lists those that have ended."])


def _print_lines(lines: Iterable[str]) -> None:
    sys.stdout.write("\n".join(lines) + "\n")
