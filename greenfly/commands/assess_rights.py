"""``greenfly assess rights``: the users that a move needs, as lines to paste."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from greenfly.commands import options as o


def assess_rights(
    copy_only: Annotated[
        bool, typer.Option("--copy-only", help="Only what migrate needs: no sync, cutover, rollback.")
    ] = False,
    native: Annotated[bool, typer.Option("--native", help="Also what --strategy native needs.")] = False,
    source: o.Source = None,
    target: o.Target = None,
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
) -> None:
    """Show the least that Greenfly's user needs on each server, as an ACL SETUSER to paste.

    Both servers are asked who they are and which commands they have; nothing is written to either.
    """
    from greenfly.console import print_json
    from integrity.assess.acl_line import COPY_PARTS, LIVE_PARTS, least_privilege
    from integrity.assess.needed_rights import RunPart, Side, rights
    from integrity.assess.rights_probe import try_rights
    from integrity.endpoint import Endpoint

    settings = o.load(
        config,
        state_dir,
        {
            "source": o.endpoint_overrides(source, source_password_file, source_ca, source_cert, source_key),
            "target": o.endpoint_overrides(target, target_password_file, target_ca, target_cert, target_key),
        },
    ).settings
    parts = (*(COPY_PARTS if copy_only else LIVE_PARTS), *((RunPart.NATIVE,) if native else ()))
    sides: tuple[tuple[Side, Endpoint], ...] = (
        ("source", Endpoint.from_settings("source", settings.source)),
        ("target", Endpoint.from_settings("target", settings.target)),
    )
    lines = {}
    for side, endpoint in sides:
        identity = endpoint.identify()
        known = try_rights(endpoint, identity, rights(side, parts, identity.engine)).known
        lines[side] = (f"{endpoint} ({identity.title})", least_privilege(side, parts, identity.engine, known))
    if as_json:
        print_json({side: {"server": server, "acl": line} for side, (server, line) in lines.items()})
        return
    for side, (server, line) in lines.items():
        sys.stdout.write(f"{side} {server}\n{line}\n")
