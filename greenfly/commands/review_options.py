"""What the subcommands of ``greenfly review`` have in common"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from integrity.ledger import Ledger
    from integrity.settings import Settings

Run = Annotated[str, typer.Argument(help="Run id, its beginning or ending, or latest.")]
Gate = Annotated[
    str, typer.Option(help="What is decided about: review (the run's record), or cutover, of a sync run.")
]
As = Annotated[
    str | None,
    typer.Option("--as", help="Who decides (default: GREENFLY_OPERATOR, or the user of this process)."),
]
Comment = Annotated[str, typer.Option(help="Why; kept with the decision.")]


def open_as_it_is(settings: Settings) -> Ledger:
    """The ledger, if there is one; nothing is made or migrated.

    :raises LedgerError: there is none, or it has another schema.
    """
    from integrity.ledger import opening

    return opening.open_as_it_is(settings)


def shown(text: str) -> str:
    """*text* as a terminal may show it."""
    from reports.facts import masked_text

    return masked_text(text)
