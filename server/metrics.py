"""Counters and histograms, exported under the names that tools of vLLM's users read.

Responsible for: cheap recording (plain attributes on the hot path; nothing is locked, all of it runs on the
event loop) and for the Prometheus text, which `prometheus_client` writes from them when scraped.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from engine.types import Ready, StepReport
from server.admission import Admission
from server.scheduler.events import TaskSpec

_SHORT = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 10.0, 30.0)
_LONG = (0.01, 0.05, 0.1, 0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 60.0, 120.0, 300.0)


class Histogram:
    """Counts per bucket and a sum, in seconds; one bisect per observation."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, seconds: float, times: int = 1) -> None:
        self.counts[bisect_left(self.bounds, seconds)] += times
        self.sum += seconds * times

    def buckets(self) -> list[tuple[str, float]]:
        """Cumulative, as Prometheus wants them."""
        total, rows = 0, []
        for bound, count in zip((*map(str, self.bounds), "+Inf"), self.counts, strict=True):
            total += count
            rows.append((bound, float(total)))
        return rows


@dataclass(slots=True)
class EngineLoad:
    """What the last StepReport of one engine said, and sums over all of them."""

    block_size: int = 0
    num_blocks: int = 0
    num_running: int = 0
    num_waiting: int = 0
    free_blocks: int = 0
    steps: int = 0
    preemptions: int = 0
    evictions: int = 0
    prefix_queries: int = 0
    prefix_hits: int = 0
    shared_kv_bytes: int = 0
    deaths: int = 0

    def start(self, ready: Ready) -> None:
        """A process has come up; the sums go on where the one before it left them."""
        self.block_size, self.num_blocks, self.free_blocks = (
            ready.block_size,
            ready.num_blocks,
            ready.num_blocks,
        )
        self.num_running = self.num_waiting = 0

    def stop(self) -> None:
        self.deaths += 1
        self.num_running = self.num_waiting = 0
        self.free_blocks = self.num_blocks

    def record(self, report: StepReport) -> None:
        self.num_running = report.num_running
        self.num_waiting = report.num_waiting
        self.free_blocks = report.free_blocks
        self.steps += 1
        self.preemptions += report.num_preemptions
        self.evictions += report.num_evictions
        self.prefix_queries += report.prefix_queries
        self.prefix_hits += report.prefix_hits
        self.shared_kv_bytes += report.shared_kv_bytes


LoadValue = Callable[[EngineLoad], float]


@dataclass(frozen=True, slots=True)
class Probe:
    """A figure that somebody else owns, read when it is scraped."""

    name: str
    text: str
    value: Callable[[], float]


@dataclass(slots=True, eq=False)
class Metrics(Collector):
    """All figures of one server. `model` is the label that every series carries; `probes` are what it holds now."""

    model: str
    probes: tuple[Probe, ...] = ()
    engines: dict[int, EngineLoad] = field(default_factory=dict)
    prompt_tokens: int = 0
    generation_tokens: int = 0
    finished: dict[str, int] = field(default_factory=lambda: {"stop": 0, "length": 0, "abort": 0, "error": 0})
    eager_tokens: int = 0  # computed of calls that waited
    eager_tokens_used: int = 0  # that were there when such a call ran
    eager_dropped: int = 0  # requests for it that an engine gave up
    answers: Counter[tuple[str, str, int]] = field(default_factory=Counter)
    time_to_first_token: Histogram = field(default_factory=lambda: Histogram(_SHORT))
    inter_token: Histogram = field(default_factory=lambda: Histogram(_SHORT))
    e2e: Histogram = field(default_factory=lambda: Histogram(_LONG))
    queue_time: Histogram = field(default_factory=lambda: Histogram(_LONG))
    prefill_time: Histogram = field(default_factory=lambda: Histogram(_LONG))
    decode_time: Histogram = field(default_factory=lambda: Histogram(_LONG))

    def answered(self, method: str, route: str, status: int) -> None:
        """Of every HTTP request, when its answer is complete; 499: its client had left."""
        self.answers[method, route, status] += 1

    def render(self) -> tuple[bytes, str]:
        """The scrape's body and content type."""
        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        # Memory, CPU and open files of this process, under Prometheus's names.
        ProcessCollector(registry=registry)
        return generate_latest(registry), CONTENT_TYPE_LATEST

    def collect(self) -> Iterator[Metric]:
        yield from self._gauges()
        yield from self._counters()
        yield from self._histograms()

    def _gauges(self) -> Iterator[Metric]:
        yield self._per_engine_gauge(
            "num_requests_running", "Sequences in the last step.", lambda load: load.num_running
        )
        yield self._per_engine_gauge(
            "num_requests_waiting", "Sequences waiting for a step.", lambda load: load.num_waiting
        )
        yield self._per_engine_gauge("kv_cache_usage_perc", "Share of KV blocks in use, 0..1.", _usage)
        for probe in self.probes:
            yield GaugeMetricFamily(f"parrot:{probe.name}", probe.text, probe.value())

    def _counters(self) -> Iterator[Metric]:
        yield self._counter("num_preemptions", "Sequences recomputed.", self._sum("preemptions"))
        yield self._counter("prefix_cache_queries", "Prompt tokens looked up.", self._sum("prefix_queries"))
        yield self._counter("prefix_cache_hits", "Prompt tokens not computed.", self._sum("prefix_hits"))
        yield self._counter("kv_blocks_evicted", "Cached blocks dropped.", self._sum("evictions"))
        yield self._counter(
            "shared_kv_bytes", "KV bytes grouped attention skipped.", self._sum("shared_kv_bytes")
        )
        yield self._counter("engine_steps", "Model steps.", self._sum("steps"))
        yield self._counter("prompt_tokens", "Prompt tokens of started requests.", self.prompt_tokens)
        yield self._counter("generation_tokens", "Tokens generated.", self.generation_tokens)
        family = CounterMetricFamily(
            "vllm:request_success", "Requests ended, by reason.", labels=["model_name", "finished_reason"]
        )
        for reason, count in self.finished.items():
            family.add_metric([self.model, reason], count)
        yield family
        yield from self._own_counters()

    def _own_counters(self) -> Iterator[Metric]:
        family = CounterMetricFamily(
            "parrot:http_requests", "Requests answered.", labels=["method", "route", "status"]
        )
        for (method, route, status), count in sorted(self.answers.items()):
            family.add_metric([method, route, str(status)], count)
        yield family
        for name, text, value in (
            ("eager_prefill_tokens", "Prompt tokens computed of calls that waited.", self.eager_tokens),
            ("eager_prefill_tokens_used", "Those that the calls found.", self.eager_tokens_used),
            ("eager_prefill_dropped", "Such work that was given up.", self.eager_dropped),
        ):
            yield CounterMetricFamily(f"parrot:{name}", text, value)
        family = CounterMetricFamily(
            "parrot:engine_deaths", "Engine processes that ended.", labels=["engine"]
        )
        for index, load in sorted(self.engines.items()):
            family.add_metric([str(index)], load.deaths)
        yield family

    def _histograms(self) -> Iterator[Metric]:
        for name, histogram in (
            ("time_to_first_token_seconds", self.time_to_first_token),
            ("inter_token_latency_seconds", self.inter_token),
            ("e2e_request_latency_seconds", self.e2e),
            ("request_queue_time_seconds", self.queue_time),
            ("request_prefill_time_seconds", self.prefill_time),
            ("request_decode_time_seconds", self.decode_time),
        ):
            family = HistogramMetricFamily(f"vllm:{name}", name.replace("_", " "), labels=["model_name"])
            family.add_metric([self.model], histogram.buckets(), histogram.sum)
            yield family

    def _counter(self, name: str, text: str, value: float) -> Metric:
        family = CounterMetricFamily(f"vllm:{name}", text, labels=["model_name"])
        family.add_metric([self.model], value)
        return family

    def _per_engine_gauge(self, name: str, text: str, value: LoadValue) -> Metric:
        family = GaugeMetricFamily(f"vllm:{name}", text, labels=["model_name", "engine"])
        for index, load in sorted(self.engines.items()):
            family.add_metric([self.model, str(index)], value(load))
        return family

    def _sum(self, name: str) -> int:
        return sum(getattr(load, name) for load in self.engines.values())


class RequestClock:
    """What one request waited for; tells the metrics and the admission once, whatever ends it first."""

    __slots__ = (
        "_admission",
        "_finished",
        "_first",
        "_last",
        "_metrics",
        "_sent",
        "_spec",
        "_started",
        "_tokens",
    )

    def __init__(
        self, metrics: Metrics, admission: Admission, spec: TaskSpec, arrived: float | None = None
    ) -> None:
        """`arrived`: when it was asked for, on the monotonic clock; its prompt has become tokens since then."""
        metrics.prompt_tokens += spec.num_tokens
        admission.taken(spec.tenant, spec.app, spec.num_tokens)
        self._metrics = metrics
        self._admission = admission
        self._spec = spec
        self._started = self._last = time.monotonic() if arrived is None else arrived
        self._sent = self._first = 0.0
        self._tokens = 0
        self._finished = False

    def sent(self) -> None:
        """An engine has it; the first time counts."""
        self._sent = self._sent or time.monotonic()

    def tokens(self, count: int, queue_ms: float | None) -> None:
        """`count` tokens have just come. `queue_ms`, with the first: how long they waited in the engine."""
        if not count:
            return
        now = time.monotonic()
        if self._tokens:
            # Each of them counts, so that the mean is time over tokens, as clients reckon.
            self._metrics.inter_token.observe((now - self._last) / count, count)
        else:
            self._first_token(now, queue_ms)
            self._admission.started(self._spec.num_tokens, now)
        self._last = now
        self._tokens += count
        self._metrics.generation_tokens += count

    def finish(self, reason: str) -> None:
        if self._finished:
            return
        self._finished = True
        self._metrics.finished[reason] += 1
        spec = self._spec
        self._admission.ended(spec.tenant, spec.app, 0 if self._tokens else spec.num_tokens)
        if reason in ("stop", "length"):
            now = time.monotonic()
            self._metrics.e2e.observe(now - self._started)
            if self._tokens:
                self._metrics.decode_time.observe(now - self._first)

    def _first_token(self, now: float, queue_ms: float | None) -> None:
        metrics = self._metrics
        metrics.time_to_first_token.observe(now - self._started)
        if queue_ms is not None:  # the first token of a life after the first one does not bring it
            queued = self._sent - self._started + queue_ms * 1e-3
            metrics.queue_time.observe(queued)
            metrics.prefill_time.observe(max(0.0, now - self._started - queued))
        self._first = now


def _usage(load: EngineLoad) -> float:
    return 1.0 - load.free_blocks / load.num_blocks if load.num_blocks else 0.0
