"""A run as spans, and what happens where nobody takes them."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from time import time_ns

import pytest

from flows.observing import looked_on, observed
from integrity.errors import ConfigurationError, GreenflyError
from integrity.ledger.models import RunKind, Verdict
from integrity.ledger.steps import StepRecord
from integrity.ledger.vocabulary import StepState
from integrity.metrics_settings import TracingSettings
from integrity.progress import Progress, Silent
from integrity.settings import Settings, load_settings
from integrity.switch.guard import Breach

pytest.importorskip("opentelemetry.sdk.trace", reason="greenfly[tracing] is not installed")

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from flows.tracing import TracedProgress, traced

SETTINGS = TracingSettings(batch_spans=2)


class Said(Silent):
    """Progress that keeps what is said."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def say(self, text: str) -> None:
        """Keep it."""
        self.texts.append(text)


class Deaf(SpanExporter):
    """A collector that takes nothing."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return SpanExportResult.FAILURE


def by_name(exporter: InMemorySpanExporter) -> dict[str, list[ReadableSpan]]:
    found: dict[str, list[ReadableSpan]] = {}
    for span in exporter.get_finished_spans():
        found.setdefault(span.name, []).append(span)
    return found


def facts(span: ReadableSpan) -> Mapping[str, object]:
    return span.attributes or {}


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    monkeypatch.delenv("TRACEPARENT", raising=False)
    monkeypatch.delenv("OTEL_SDK_DISABLED", raising=False)
    return InMemorySpanExporter()


def test_a_run_has_phases_and_a_phase_has_batches(exporter: InMemorySpanExporter) -> None:
    with traced(SETTINGS, "migrate", Silent(), exporter) as trace:
        progress = TracedProgress(Silent(), trace)
        progress.phase("stream", 30)
        for _ in range(3):
            progress.advance(10, 100)
        progress.phase_ended()
        progress.phase("verify", 0)
        progress.phase_ended()
        trace.tell(id="run-1", verdict="PASS")
    spans = by_name(exporter)
    (run,), (stream,), (verify,) = spans["greenfly migrate"], spans["phase stream"], spans["phase verify"]
    assert facts(run)["greenfly.run.verdict"] == "PASS"
    assert run.status.status_code is StatusCode.UNSET
    assert run.context is not None
    assert stream.context is not None
    for phase in (stream, verify):
        assert phase.parent is not None
        assert phase.parent.span_id == run.context.span_id
    assert facts(stream)["greenfly.keys"] == 30
    assert facts(stream)["greenfly.bytes"] == 300
    assert facts(stream)["greenfly.batches"] == 3
    assert facts(stream)["greenfly.batches_without_span"] == 1
    assert len(spans["batch"]) == 2
    first, second = spans["batch"]
    for batch in (first, second):
        assert batch.parent is not None
        assert batch.parent.span_id == stream.context.span_id
    assert first.end_time == second.start_time, "a batch begins when the one before it was acknowledged"


def test_an_error_is_told_by_its_type_alone(exporter: InMemorySpanExporter) -> None:
    def fail() -> None:
        with traced(SETTINGS, "migrate", Silent(), exporter) as trace:
            progress = TracedProgress(Silent(), trace)
            progress.phase("stream", 0)
            try:
                raise GreenflyError("The key customer:4711 broke it.")
            finally:
                progress.phase_ended()

    with pytest.raises(GreenflyError):
        fail()
    spans = exporter.get_finished_spans()
    assert [span.status.status_code for span in spans] == [StatusCode.ERROR] * 2
    assert {facts(span)["error.type"] for span in spans} == {"GreenflyError"}
    assert not [span for span in spans if "4711" in span.to_json()]


def test_a_phase_that_nobody_ended_ends_with_the_run(exporter: InMemorySpanExporter) -> None:
    with traced(SETTINGS, "sync", Silent(), exporter) as trace:
        trace.phase("sync", 0)
    assert "phase sync" in by_name(exporter)


def test_steps_have_the_times_that_the_ledger_has(exporter: InMemorySpanExporter) -> None:
    begun = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    ended = begun + timedelta(milliseconds=1500)
    steps = [
        StepRecord("drain", StepState.FAILED, 20_000, 2, begun, ended, {"secret": "no"}),
        StepRecord("prove", StepState.PENDING, 20_000, 0, None, None, {}),
    ]
    with traced(SETTINGS, "cutover", Silent(), exporter) as trace:
        trace.steps(steps)
    spans = by_name(exporter)
    (drain,) = spans["step drain"]
    assert drain.start_time == int(begun.timestamp()) * 10**9
    assert drain.end_time is not None
    assert drain.end_time - drain.start_time == 1_500_000_000
    assert drain.status.status_code is StatusCode.ERROR
    assert "secret" not in facts(drain)
    assert "step prove" not in spans


def test_breaches_last_as_long_as_they_did(exporter: InMemorySpanExporter) -> None:
    begun = datetime(2026, 11, 26, 10, 0, tzinfo=UTC)
    over = Breach("latency", begun, begun + timedelta(seconds=5), 12.5, 10.0)
    with traced(SETTINGS, "watch", Silent(), exporter) as trace:
        trace.breaches([over, replace(over, rule="dead", recovered_at=None, worst=None)])

    spans = by_name(exporter)
    (latency,), (dead,) = spans["breach latency"], spans["breach dead"]
    assert latency.start_time is not None
    assert latency.end_time == latency.start_time + 5_000_000_000
    assert facts(latency)["greenfly.breach.worst"] == 12.5
    assert dead.end_time == pytest.approx(time_ns(), abs=60e9)
    assert facts(dead)["greenfly.breach.recovered"] is False
    assert "greenfly.breach.worst" not in facts(dead)


def test_a_run_belongs_to_the_trace_above_it(
    exporter: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRACEPARENT", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    with traced(SETTINGS, "verify", Silent(), exporter):
        pass
    (run,) = exporter.get_finished_spans()
    assert run.parent is not None
    assert run.parent.span_id == 0xB7AD6B7169203331
    assert run.context is not None
    assert run.context.trace_id == 0x0AF7651916CD43DD8448EB211C80319C


def test_spans_that_nobody_takes_are_said_once_and_end_nothing() -> None:
    said = Said()
    with traced(SETTINGS, "migrate", said, Deaf()) as trace:
        trace.phase("stream", 0)
    assert len(said.texts) == 1
    assert said.texts[0].startswith("2 spans")


# -- around a run ------------------------------------------------------------------------------------------------------


@pytest.fixture
def without_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http", None)


def settings(**more: object) -> Settings:
    return load_settings(more, environ={}).settings


@pytest.mark.usefixtures("without_library")
def test_traces_without_the_library_are_refused_before_anything_begins() -> None:
    wanted = settings(tracing={"endpoint": "http://127.0.0.1:1/v1/traces"})
    with pytest.raises(ConfigurationError, match="tracing"), looked_on(wanted, RunKind.MIGRATE, Silent()):
        pytest.fail("it began")


@pytest.mark.usefixtures("without_library")
def test_a_rollback_begins_without_traces() -> None:
    wanted, said = settings(tracing={"endpoint": "http://127.0.0.1:1/v1/traces"}), Said()
    with looked_on(wanted, RunKind.ROLLBACK, said) as (progress, _):
        assert progress is said
    assert len(said.texts) == 1


def test_nothing_is_put_around_a_run_that_nobody_looks_on() -> None:
    plain = Silent()

    class Done:
        run_id = "r"
        verdict = Verdict.PASS

    @observed
    def run(_settings: Settings, kind: RunKind, progress: Progress) -> Done:
        assert kind is RunKind.VERIFY
        assert progress is plain
        return Done()

    assert run(settings(), RunKind.VERIFY, plain).run_id == "r"
