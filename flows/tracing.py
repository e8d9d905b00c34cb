"""A run as OpenTelemetry spans: the run, its phases, their batches; the steps of a cutover or rollback; breaches.

Spans tell kinds, phases, counts and times, the run's id and its verdict; never a key, a value or an address.  Importing
this needs greenfly[tracing]; :mod:`flows.observing` does so where traces are wanted.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from time import time_ns
from typing import TYPE_CHECKING, Final

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import Span, Status, StatusCode, Tracer, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from integrity.ledger.steps import StepRecord
from integrity.ledger.vocabulary import StepState
from integrity.metrics_settings import TracingSettings
from integrity.progress import Progress
from integrity.version import __version__

if TYPE_CHECKING:
    from integrity.switch.guard import Breach

Attributes = Mapping[str, str | int | float | bool]

_PARENT_VARIABLE: Final = "TRACEPARENT"
_BATCH_EVERY_MS: Final = 1000


class RunTrace:
    """The spans of one run.

    :param batch_spans: spans of single batches that one phase sends at most.
    """

    def __init__(self, tracer: Tracer, kind: str, batch_spans: int, parent: Context | None = None) -> None:
        self._tracer = tracer
        self._batch_spans = batch_spans
        self._span = tracer.start_span(f"greenfly {kind}", parent, attributes={"greenfly.run.kind": kind})
        self._context = set_span_in_context(self._span)
        self._phase: Span | None = None
        self._phase_context = self._context
        self._keys = self._bytes = self._batches = self._acknowledged_ns = 0

    def phase(self, name: str, keys_expected: int) -> None:
        """A phase begins."""
        self.phase_ended()
        self._keys = self._bytes = self._batches = 0
        self._acknowledged_ns = time_ns()
        facts: Attributes = {"greenfly.phase": name, "greenfly.keys_expected": keys_expected}
        self._phase = self._tracer.start_span(
            f"phase {name}", self._context, start_time=self._acknowledged_ns, attributes=facts
        )
        self._phase_context = set_span_in_context(self._phase)

    def batch(self, keys: int, size: int) -> None:
        """A batch was acknowledged; it is taken to have begun when the one before it was."""
        if self._phase is None:
            return
        begun, self._acknowledged_ns = self._acknowledged_ns, time_ns()
        self._keys += keys
        self._bytes += size
        self._batches += 1
        if self._batches <= self._batch_spans:
            facts: Attributes = {"greenfly.keys": keys, "greenfly.bytes": size}
            span = self._tracer.start_span("batch", self._phase_context, start_time=begun, attributes=facts)
            span.end(self._acknowledged_ns)

    def phase_ended(self) -> None:
        """The phase is over, well or, while an exception is on its way, not."""
        if self._phase is None:
            return
        facts: Attributes = {
            "greenfly.keys": self._keys,
            "greenfly.bytes": self._bytes,
            "greenfly.batches": self._batches,
            "greenfly.batches_without_span": max(0, self._batches - self._batch_spans),
        }
        self._phase.set_attributes(facts)
        _tell_error(self._phase, sys.exception())
        self._phase.end()
        self._phase = None

    def tell(self, **facts: str | int | float | bool | None) -> None:
        """Say something about the run; what is None is left out."""
        known = {f"greenfly.run.{name}": value for name, value in facts.items() if value is not None}
        self._span.set_attributes(known)

    def steps(self, steps: Sequence[StepRecord]) -> None:
        """The steps of the operation, as the ledger holds them."""
        for step in steps:
            if step.started_at is None or step.ended_at is None:
                continue
            span = self._tracer.start_span(
                f"step {step.name}",
                self._context,
                start_time=_nanoseconds(step.started_at),
                attributes={
                    "greenfly.step": step.name,
                    "greenfly.step.state": step.state.value,
                    "greenfly.step.attempts": step.attempts,
                    "greenfly.step.budget_ms": step.budget_ms,
                },
            )
            if step.state is StepState.FAILED:
                _set_failed(span)
            span.end(_nanoseconds(step.ended_at))

    def breaches(self, breaches: Sequence[Breach]) -> None:
        """The breaches that a watch saw; one that has not recovered goes on until now."""
        for breach in breaches:
            span = self._tracer.start_span(
                f"breach {breach.rule}",
                self._context,
                start_time=_nanoseconds(breach.since),
                attributes={
                    "greenfly.breach.rule": breach.rule,
                    "greenfly.breach.limit": breach.limit,
                    "greenfly.breach.recovered": breach.recovered_at is not None,
                },
            )
            if breach.worst is not None:
                span.set_attribute("greenfly.breach.worst", breach.worst)
            _set_failed(span)
            span.end(time_ns() if breach.recovered_at is None else _nanoseconds(breach.recovered_at))

    def ended(self, error: BaseException | None) -> None:
        """The run is over."""
        self.phase_ended()
        _tell_error(self._span, error)
        self._span.end()


class TracedProgress:
    """Progress that becomes spans, too."""

    def __init__(self, inner: Progress, trace: RunTrace) -> None:
        self._inner = inner
        self._trace = trace

    def phase(self, name: str, keys_expected: int) -> None:
        """Begin a span."""
        self._trace.phase(name, keys_expected)
        self._inner.phase(name, keys_expected)

    def advance(self, keys: int, size: int) -> None:
        """One batch."""
        self._trace.batch(keys, size)
        self._inner.advance(keys, size)

    def say(self, text: str) -> None:
        """Pass on; texts may name what spans must not."""
        self._inner.say(text)

    def show(self, text: str) -> None:
        """Pass on."""
        self._inner.show(text)

    def phase_ended(self) -> None:
        """End the span."""
        self._trace.phase_ended()
        self._inner.phase_ended()


@contextmanager
def traced(
    settings: TracingSettings, kind: str, progress: Progress, exporter: SpanExporter | None = None
) -> Iterator[RunTrace]:
    """Send the spans of the block to the collector; what it does not take is said, and ends nothing.

    :param exporter: where spans go instead.
    """
    noted = _Noting(exporter or _to_collector(settings))
    # One provider for each run, and not Python's global one: Prefect or an application may have its own there.
    provider = TracerProvider(
        resource=Resource.create({"service.name": "greenfly", "service.version": __version__}),
        shutdown_on_exit=False,
    )
    provider.add_span_processor(
        BatchSpanProcessor(
            noted,
            schedule_delay_millis=_BATCH_EVERY_MS,
            export_timeout_millis=settings.timeout_seconds * 1000,
        )
    )
    above = os.environ.get(_PARENT_VARIABLE)
    parent = TraceContextTextMapPropagator().extract({"traceparent": above}) if above else None
    trace = RunTrace(provider.get_tracer("greenfly", __version__), kind, settings.batch_spans, parent)
    try:
        yield trace
    finally:
        trace.ended(sys.exception())
        provider.shutdown()
        if noted.lost:
            progress.say(f"{noted.lost:,} spans were not taken by the collector (tracing.endpoint).")


def _to_collector(settings: TracingSettings) -> SpanExporter:
    # What it logs is said in one sentence at the end of the run.
    logging.getLogger("opentelemetry.exporter.otlp").addHandler(logging.NullHandler())
    logging.getLogger("opentelemetry.exporter.otlp").propagate = False
    return OTLPSpanExporter(settings.endpoint, timeout=settings.timeout_seconds)


class _Noting(SpanExporter):
    """Counts what was not taken."""

    def __init__(self, inner: SpanExporter) -> None:
        self._inner = inner
        self.lost = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = self._inner.export(spans)
        if result is not SpanExportResult.SUCCESS:
            self.lost += len(spans)
        return result

    def shutdown(self) -> None:
        self._inner.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._inner.force_flush(timeout_millis)


def _tell_error(span: Span, error: BaseException | None) -> None:
    """By its type alone: what it says may name a key."""
    if error is not None:
        span.set_attribute("error.type", type(error).__name__)
        _set_failed(span)


def _set_failed(span: Span) -> None:
    span.set_status(Status(StatusCode.ERROR))


def _nanoseconds(at: datetime) -> int:
    return int(at.timestamp() * 1e9)
