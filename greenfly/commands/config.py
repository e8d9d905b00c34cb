"""``greenfly config show``"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import typer

from greenfly.commands import options as o

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="The settings in force.")


def _flat(values: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


@app.command("show")
def show(config: o.ConfigFile = None, state_dir: o.StateDir = None, as_json: o.Json = False) -> None:
    """Every setting, its value (secrets masked) and where it came from."""
    from greenfly.console import print_json
    from integrity.settings import public_view

    loaded = o.load(config, state_dir, {})
    rows = [
        (name, value, loaded.origins.get(name) or loaded.origins.get(name.rpartition(".")[0], "default"))
        for name, value in _flat(public_view(loaded.settings))
    ]
    if as_json:
        print_json({"settings": [{"name": n, "value": v, "origin": origin} for n, v, origin in rows]})
        return
    for name, value, origin in rows:
        shown = "-" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
        typer.echo(f"{name:<30} {shown:<40} {origin}")
