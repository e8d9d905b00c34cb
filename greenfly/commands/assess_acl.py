"""``greenfly assess acl``: the source's users, as an ACL file for Dragonfly."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from greenfly.commands import options as o


def assess_acl(
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Write the file, with the hashes of the passwords; it must not exist yet."
        ),
    ] = None,
    grant_partly: Annotated[
        bool,
        typer.Option(
            "--grant-partly",
            help="Permit a command of which the user might run some subcommands: more rights than before.",
        ),
    ] = False,
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
    """Show the ACL users of the source as lines of an ACL file for Dragonfly; the hashes of passwords are masked.

    Nothing is written to either server.
    """
    from greenfly.console import print_json
    from integrity.assess.acl_file import make_acl_file
    from integrity.endpoint import Endpoint

    settings = o.load(
        config,
        state_dir,
        {
            "source": o.endpoint_overrides(source, source_password_file, source_ca, source_cert, source_key),
            "target": o.endpoint_overrides(target, target_password_file, target_ca, target_cert, target_key),
        },
    ).settings
    made = make_acl_file(
        Endpoint.from_settings("source", settings.source),
        Endpoint.from_settings("target", settings.target),
        grant_partly=grant_partly,
    )
    if output is not None:
        made.write(output)
    if as_json:
        print_json({"lines": list(made.masked), "notes": list(made.notes)})
        return
    sys.stdout.write("".join(f"{line}\n" for line in made.masked))
    for note in made.notes:
        sys.stderr.write(f"{note}\n")
    if output is not None:
        sys.stderr.write(f"Written to {output}, with the hashes: keep it like a password.\n")
