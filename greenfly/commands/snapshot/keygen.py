"""``greenfly snapshot keygen``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from greenfly.commands import options as o


def keygen(
    file: Annotated[Path, typer.Argument(help="Where the identity goes; a new file.")],
    as_json: o.Json = False,
) -> None:
    """Write a new age identity to a file that only you can read, and print its recipient.

    Snapshots are encrypted to the recipient (snapshot.encrypt_to); the identity opens them. Keep it apart from them.
    """
    from greenfly.console import print_json
    from integrity.snapshot.sealing import generate_key

    recipient = generate_key(file)
    if as_json:
        print_json({"recipient": recipient, "identity_file": str(file)})
    else:
        typer.echo(recipient)
