"""``greenfly review waive``, ``unwaive`` and ``waivers``: letting differences pass for a while"""

from __future__ import annotations

import sys
from contextlib import closing
from typing import TYPE_CHECKING, Annotated

import typer

from greenfly.commands import options as o
from greenfly.commands.review_options import As, Run, open_as_it_is, shown

if TYPE_CHECKING:
    from integrity.ledger.key_search import KeyForm
    from integrity.ledger.models import FindingClass


def waive(
    run: Run = "latest",
    finding_class: Annotated[
        str, typer.Option("--class", help="Class of the findings: value, missing, …")
    ] = "",
    key: Annotated[
        str | None, typer.Option(help=r"The one key, as text; \xNN is that byte, \\ a backslash.")
    ] = None,
    key_hex: Annotated[str | None, typer.Option(help="The one key, as hex digits.")] = None,
    pattern: Annotated[
        str | None, typer.Option(help=r"Or a pattern of keys: cache:*; \xNN is that byte.")
    ] = None,
    database: Annotated[int | None, typer.Option(min=0, help="Only in this database.")] = None,
    days: Annotated[float, typer.Option(help="For how long.")] = 7.0,
    at_most: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Let none pass where a run has more such findings (default and most: review.max_waived_findings).",
        ),
    ] = None,
    why: Annotated[str, typer.Option(help="Why; kept with the waiver.")] = "",
    as_user: As = None,
    config: o.ConfigFile = None,
    state_dir: o.StateDir = None,
    as_json: o.Json = False,
) -> None:
    """Let findings pass for a while: exceptions in later runs between the same servers. This run stays as it is."""
    from datetime import UTC, datetime

    from greenfly.console import print_json
    from integrity.errors import ConfigurationError
    from integrity.ledger.finding_waivers import waive_findings
    from integrity.ledger.key_search import KeyForm
    from integrity.ledger.naming import operator_name
    from integrity.ledger.waived_findings import Subject
    from reports.display import counted

    settings = o.load(config, state_dir, {}).settings
    if key is not None and key_hex is not None:
        raise ConfigurationError("A waiver is about one key.", "Give either --key or --key-hex.")
    exact = _key(key, KeyForm.TEXT) if key is not None else None
    exact = _key(key_hex, KeyForm.HEX) if key_hex is not None else exact
    allowed = settings.review.max_waived_findings
    with closing(open_as_it_is(settings)) as ledger:
        granted = waive_findings(
            ledger.engine,
            ledger.find_run(run).id,
            Subject(_class(finding_class), database, exact, pattern),
            by=as_user or operator_name(),
            why=why,
            days=days,
            most_days=settings.review.max_waiver_days,
            most_findings=min(at_most, allowed) if at_most is not None else allowed,
            separate=settings.review.separate_reviewer,
        )
    waiver = granted.waiver
    if as_json:
        print_json(waiver.to_dict(datetime.now(UTC)) | {"covers": granted.covers})
        return
    typer.echo(
        f"Waiver {waiver.id} holds until {waiver.until:%Y-%m-%d %H:%M} UTC. "
        f"It covers {counted(granted.covers, 'open finding')} of run {waiver.run_id}."
    )
    if not settings.review.honour_waivers:
        sys.stderr.write("These settings honour no waivers (review.honour_waivers): no verdict follows it.\n")


def unwaive(
    waiver: Annotated[int, typer.Argument(help="Its number, from `greenfly review waivers`.")],
    as_user: As = None,
    config: o.ConfigFile = None,
    state_dir: o.StateDir = None,
    as_json: o.Json = False,
) -> None:
    """Withdraw a waiver: what it let pass fails again from the next comparison on."""
    from datetime import UTC, datetime

    from greenfly.console import print_json
    from integrity.ledger.finding_waivers import withdraw_finding_waiver
    from integrity.ledger.naming import operator_name

    with closing(open_as_it_is(o.load(config, state_dir, {}).settings)) as ledger:
        withdrawn = withdraw_finding_waiver(ledger.engine, waiver, as_user or operator_name())
    if as_json:
        print_json(withdrawn.to_dict(datetime.now(UTC)))
        return
    typer.echo(f"Waiver {withdrawn.id} lets nothing pass any more.")


def list_waivers(
    in_force: Annotated[bool, typer.Option("--in-force", help="Only those that let something pass.")] = False,
    config: o.ConfigFile = None,
    state_dir: o.StateDir = None,
    as_json: o.Json = False,
) -> None:
    """List what was let pass between which servers, by whom, why, and until when."""
    from datetime import UTC, datetime

    from greenfly.console import print_json
    from integrity.ledger.finding_waivers import read_finding_waivers

    with closing(open_as_it_is(o.load(config, state_dir, {}).settings)) as ledger:
        waivers = read_finding_waivers(ledger.engine)
    now = datetime.now(UTC)
    waivers = [waiver for waiver in waivers if not in_force or waiver.in_force(now)]
    if as_json:
        print_json({"waivers": [waiver.to_dict(now) for waiver in waivers]})
        return
    for each in waivers:
        keys = _key_shown(each.key) if each.key is not None else f"pattern {shown(each.pattern or '')}"
        where = "all databases" if each.database is None else f"database {each.database}"
        typer.echo(
            f"{each.id:>4}  {each.state(now):<9} {each.finding_class.value:<12} {keys}, {where}, at most "
            f"{each.most:,}, until {each.until:%Y-%m-%d %H:%M} UTC\n"
            f"      {shown(each.source)} to {shown(each.target)}; by {shown(each.by)}: {shown(each.why)}"
        )
    if not waivers:
        typer.echo("Nothing is let pass." if in_force else "Nothing was let pass yet.")


def _key(text: str, form: KeyForm) -> bytes:
    """
    :raises ConfigurationError: it is no key in this form.
    """
    from integrity.errors import ConfigurationError
    from integrity.ledger.key_search import read_wanted

    if not text:
        return b""  # A key may have no bytes.
    wanted = read_wanted(text, form)
    if wanted is None or wanted.exact is None:
        raise ConfigurationError("That is how keys begin, and not one key.", "Leave the star away.")
    return wanted.exact


def _key_shown(key: bytes) -> str:
    from reports.review.keys import key_view

    view = key_view(key, limit=120)
    return f"key {view.text}" + (f"… ({view.left_out:,} more bytes)" if view.left_out else "")


def _class(text: str) -> FindingClass:
    from integrity.errors import ConfigurationError
    from integrity.ledger.vocabulary import FindingClass

    try:
        return FindingClass(text)
    except ValueError:
        raise ConfigurationError(
            f"There is no class of findings {text!r}.", f"Give --class one of {', '.join(FindingClass)}."
        ) from None
