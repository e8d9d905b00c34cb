"""Reading a report back: its three files, and what a browser makes of the page."""

from __future__ import annotations

import csv
import json
from html.parser import HTMLParser
from pathlib import Path

from integrity.ledger import Ledger
from reports import write_report


def written(
    ledger: Ledger, run_id: str, directory: Path
) -> tuple[str, dict[str, object], list[dict[str, str]]]:
    """The three files, read back."""
    files = write_report(ledger, run_id, directory)
    with files.csv.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return files.html.read_text("utf-8"), json.loads(files.json.read_text("utf-8")), rows


class Page(HTMLParser):
    """What a browser makes of a page: its elements, and the text a reader sees."""

    VOID = frozenset({"meta", "link", "br", "col"})

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.unbalanced: list[str] = []
        self.text = ""
        self.keys: list[str] = []
        self._in_key = False
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "span" and ("class", "key") in attrs:
            self._in_key = True
            self.keys.append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.unbalanced.append(tag)
        if tag == "span":
            self._in_key = False

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "title"):
            self.text += data
        if self._in_key:
            self.keys[-1] += data
