"""Where a page sends its readers for what it leaves out: the files beside it, or the command that writes them."""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup


@dataclass(frozen=True, slots=True)
class Beside:
    """The files that lie beside a page; None for one that was not written with it."""

    run_id: str
    json: str | None = None
    csv: str | None = None
    parquet: str | None = None

    @property
    def facts(self) -> Markup:
        """What holds every fact, as a part of a sentence."""
        return _link(self.json) if self.json is not None else self._command("json")

    @property
    def findings(self) -> Markup:
        """What holds every finding, as a part of a sentence."""
        links = [_link(name) for name in (self.json, self.csv, self.parquet) if name is not None]
        if not links:
            return self._command("csv")
        *first, last = links
        return Markup(" and ").join([Markup(", ").join(first), last]) if first else last

    def _command(self, form: str) -> Markup:
        return Markup("what <code>greenfly report {} --format {}</code> writes").format(self.run_id, form)


def _link(name: str) -> Markup:
    return Markup('<a href="{0}">{0}</a>').format(name)
