"""Dashboard, alert rules and documentation speak of metrics and labels that the exporter has."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from ruamel.yaml import YAML

from reports.metrics.catalogue import all_metrics

ROOT: Final = Path(__file__).parents[2]
PROMETHEUS: Final = ROOT / "ops" / "prometheus"
DASHBOARD: Final = ROOT / "ops" / "grafana" / "dashboards" / "greenfly.json"
KNOWN: Final = {metric.name: metric for metric in all_metrics()}
_ADDED: Final = frozenset({"alertname", "job", "severity", "instance"})
"""Labels that Prometheus or a rule adds."""


def load_yaml(path: Path) -> dict[str, object]:
    loaded = YAML(typ="safe").load(path)
    assert isinstance(loaded, dict)
    return loaded


def table(value: object) -> dict[str, object]:
    assert isinstance(value, dict), value
    return value


def items(value: object) -> list[object]:
    assert isinstance(value, list), value
    return value


def alert_rules() -> list[dict[str, object]]:
    groups = [table(group) for group in items(load_yaml(PROMETHEUS / "alerts.yml")["groups"])]
    return [table(rule) for group in groups for rule in items(group["rules"])]


def panels() -> list[dict[str, object]]:
    return [table(panel) for panel in items(json.loads(DASHBOARD.read_text("utf-8"))["panels"])]


def panel_queries() -> Iterator[tuple[str, str]]:
    """Expression and legend of every query."""
    for panel in panels():
        for target in items(panel.get("targets", [])):
            yield str(table(target)["expr"]), str(table(target)["legendFormat"])


EXPRESSIONS: Final = [str(rule["expr"]) for rule in alert_rules()] + [expr for expr, _ in panel_queries()]


def names_in(text: str) -> set[str]:
    return set(re.findall(r"\bgreenfly_[a-z_]+", text))


def labels_of(expression: str) -> set[str]:
    """All labels of the metrics in an expression."""
    return {label for name in names_in(expression) for label in KNOWN[name].labels}


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_an_expression_names_metrics_and_labels_that_there_are(expression: str) -> None:
    assert names_in(expression) <= set(KNOWN)
    for name, matchers in re.findall(r"\b(greenfly_[a-z_]+)\{([^}]*)\}", expression):
        used = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", re.sub(r'"[^"]*"', '""', matchers)))
        assert used <= set(KNOWN[name].labels), (name, used)
    for grouped in re.findall(r"\b(?:by|on)\s*\(([^)]*)\)", expression):
        assert {part.strip() for part in grouped.split(",")} <= labels_of(expression)


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_rates_are_of_counters_and_of_nothing_else(expression: str) -> None:
    for name in re.findall(r"\b(?:rate|increase)\((greenfly_[a-z_]+)", expression):
        assert KNOWN[name].is_counter


def test_a_label_value_that_is_asked_for_can_be_there() -> None:
    from integrity.ledger.vocabulary import (
        FindingState,
        PhaseName,
        PhaseState,
        RunKind,
        RunState,
        StepState,
        Verdict,
    )
    from integrity.snapshot.catalog import SnapshotState

    words = {
        str(member.value)
        for vocabulary in (
            FindingState,
            PhaseName,
            PhaseState,
            RunKind,
            RunState,
            Verdict,
            StepState,
            SnapshotState,
        )
        for member in vocabulary
    } | {"lost", "greenfly"}
    for expression in EXPRESSIONS:
        for value in re.findall(r'=~?\s*"([^"$]*)"', expression):
            assert set(value.split("|")) <= words, expression


def test_an_alert_says_what_it_is_about_and_how_urgent_it_is() -> None:
    rules = alert_rules()
    assert len({str(rule["alert"]) for rule in rules}) == len(rules) > 20
    for rule in rules:
        assert table(rule["labels"])["severity"] in {"page", "ticket"}
        summary = str(table(rule["annotations"])["summary"])
        shown = set(re.findall(r"\$labels\.(\w+)", summary))
        assert shown <= labels_of(str(rule["expr"])) | _ADDED, rule["alert"]


def test_a_panel_shows_labels_that_its_query_has() -> None:
    for expression, legend in panel_queries():
        assert set(re.findall(r"\{\{(\w+)\}\}", legend)) <= labels_of(expression), legend


def test_the_dashboard_is_whole() -> None:
    board = json.loads(DASHBOARD.read_text("utf-8"))
    assert board["uid"] == "greenfly"
    assert isinstance(board["schemaVersion"], int)
    variables = {table(v)["name"] for v in items(table(board["templating"])["list"])}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(board["panels"]))) - {"__rate_interval"}
    assert used == variables
    ids = [panel["id"] for panel in panels()]
    assert len(ids) == len(set(ids))
    taken: set[tuple[int, int]] = set()
    for panel in panels():
        place = {name: int(str(value)) for name, value in table(panel["gridPos"]).items()}
        cells = {
            (column, line)
            for column in range(place["x"], place["x"] + place["w"])
            for line in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24
        assert not cells & taken, f"{panel['title']} lies upon another panel"
        taken |= cells
        if panel["type"] != "row":
            assert items(panel["targets"])


def test_every_metric_is_shown_alerted_on_or_at_least_explained() -> None:
    page = (ROOT / "docs" / "metrics.md").read_text("utf-8")
    explained = set(re.findall(r"(?m)^\| `(greenfly_[a-z_]+)`", page))
    assert explained == set(KNOWN)
    assert names_in(page) <= set(KNOWN) | {"greenfly_"}


def test_every_alert_is_explained() -> None:
    page = (ROOT / "docs" / "metrics.md").read_text("utf-8")
    assert set(re.findall(r"(?m)^\| `(Greenfly\w+)`", page)) == {str(rule["alert"]) for rule in alert_rules()}


def test_the_rules_do_what_their_own_tests_say() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("no promtool on PATH (it comes with Prometheus)")
    for arguments in (
        ("check", "config", "prometheus.yml"),
        ("test", "rules", "alerts.test.yml"),
    ):
        done = subprocess.run(
            [promtool, *arguments], cwd=PROMETHEUS, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
