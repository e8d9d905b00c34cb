"""The values of one moment, before they become Prometheus families."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric as Family

from reports.metrics.catalogue import Metric, all_metrics


class Sheet:
    """Collects values; what is put twice under the same labels is merged as the metric says.

    :param now: the moment that the values are of.
    """

    def __init__(self, now: datetime | None = None) -> None:
        self.now = now or datetime.now(UTC)
        self._values: dict[Metric, dict[tuple[str, ...], float]] = {}

    def put(self, metric: Metric, value: float, *labels: str) -> None:
        """Add a value.

        :raises ValueError: not as many labels as the metric has.
        """
        if len(labels) != len(metric.labels):
            raise ValueError(f"{metric.name} has labels {metric.labels}, not {labels}")
        values = self._values.setdefault(metric, {})
        before = values.get(labels)
        if before is None:
            values[labels] = float(value)
        elif metric.merge == "sum":
            values[labels] = before + value
        else:
            values[labels] = max(before, value) if metric.merge == "max" else min(before, value)

    def put_time(self, metric: Metric, value: datetime | None, *labels: str) -> None:
        """Add a moment as Unix time; nothing where there is none."""
        if value is not None:
            self.put(metric, value.timestamp(), *labels)

    def put_number(self, metric: Metric, value: object, *labels: str, per: float = 1.0) -> None:
        """Add what came out of JSON, divided by *per*, if it is a number."""
        if isinstance(value, int | float) and not isinstance(value, bool):
            self.put(metric, value / per, *labels)

    def value(self, metric: Metric, *labels: str) -> float | None:
        """What is told, or None."""
        return self._values.get(metric, {}).get(labels)

    def families(self) -> Iterator[Family]:
        """What Prometheus reads, in the catalogue's order."""
        for metric in all_metrics():
            values = self._values.get(metric)
            if values is None:
                continue
            kind = CounterMetricFamily if metric.is_counter else GaugeMetricFamily
            family = kind(metric.name, metric.help, labels=metric.labels)
            for labels, value in sorted(values.items()):
                family.add_metric(labels, value)
            yield family
