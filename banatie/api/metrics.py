"""Metrics in Prometheus' text format: requests, queue, stages, memory.

Requests are counted here, in memory; everything about generations is read from the database on each
scrape, so that it survives restarts. No metric names a project, key or prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import accumulate

import psutil
from litestar.types import HTTPScope
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)

import banatie
from banatie.errors import DatabaseUnusable, ServiceUnavailable
from banatie.store.database import Database
from banatie.store.statistics import Statistics, read_statistics
from banatie.store.workers import Workers, WorkerState, state_of

METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
OTHER = "other"
"""The route of a request without one, and the method of one that HTTP does not have."""
BUCKETS = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    30.0,
    120.0,
)
"""Seconds until an answer begins; clients may wait for an image for up to two minutes."""


class Metrics:
    """The metrics of one web process."""

    def __init__(self, database: Database, workers: Workers, clock: Callable[[], int]) -> None:
        self._database = database
        self._workers = workers
        self._clock = clock
        self._process = psutil.Process()
        # The `_created` samples would double the output.
        disable_created_metrics()
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "banatie_http_requests",
            "Requests answered",
            ("method", "route", "status"),
            registry=self._registry,
        )
        self._seconds = Histogram(
            "banatie_http_request_duration_seconds",
            "From a request's arrival to the first byte of its answer, waiting included",
            ("method", "route"),
            buckets=BUCKETS,
            registry=self._registry,
        )
        # Looking a child up costs more than incrementing it.
        self._cache: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def count(self, scope: HTTPScope, status: int, seconds: float) -> None:
        """Count an answered request."""
        key = (scope["method"], scope.get("path_template", OTHER), status)
        requests, durations = self._cache.get(key) or self._children(*key)
        requests.inc()
        durations.observe(seconds)

    def render(self) -> bytes:
        """All metrics as Prometheus reads them; waits for the disk."""
        return generate_latest(self._registry)

    def describe(self) -> Iterable[Metric]:
        """Nothing: the registry need not know beforehand what `collect` returns."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """The metrics that are not counted here but looked up."""
        yield InfoMetricFamily("banatie", "This server", value={"version": banatie.__version__})
        measures, workers, up = None, [], 1
        try:
            now = self._clock()
            measures = read_statistics(self._database, now)
            workers = self._workers.present(now)
        except (ServiceUnavailable, DatabaseUnusable):
            up = 0
        yield _gauge("banatie_database_up", "Whether the database can be read", up)
        ready = int(state_of(workers) == "ready")
        yield _gauge("banatie_worker_ready", "Whether a worker with its models is there", ready)
        yield _counted(workers)
        yield from self._memory(workers)
        if measures is not None:
            yield from _generations(measures)

    def _children(self, method: str, route: str, status: int) -> tuple[Counter, Histogram]:
        shown = method if method in METHODS else OTHER
        children = (
            self._requests.labels(shown, route, status),
            self._seconds.labels(shown, route),
        )
        # A client can invent methods, so those are not cached.
        if shown == method:
            self._cache[method, route, status] = children
        return children

    def _memory(self, workers: list[WorkerState]) -> Iterable[Metric]:
        memory = GaugeMetricFamily(
            "banatie_memory_bytes",
            "Resident memory of the web process, and of all workers together",
            labels=["process"],
        )
        memory.add_metric(["web"], self._process.memory_info().rss)
        if known := [worker.memory_bytes for worker in workers if worker.memory_bytes is not None]:
            memory.add_metric(["worker"], sum(known))
        yield memory
        used = GaugeMetricFamily(
            "banatie_gpu_memory_used_bytes", "In use on the workers' GPUs", labels=["device"]
        )
        total = GaugeMetricFamily(
            "banatie_gpu_memory_total_bytes", "Memory of the workers' GPUs", labels=["device"]
        )
        # By device, since two workers on one report the same.
        for device, worker in {worker.device: worker for worker in workers}.items():
            if device is not None and worker.device_memory_total:
                used.add_metric([device], worker.device_memory_used or 0)
                total.add_metric([device], worker.device_memory_total)
        yield from (used, total)


def _counted(workers: list[WorkerState]) -> Metric:
    counted = GaugeMetricFamily("banatie_workers", "Workers, by their state", labels=["state"])
    for state in ("ready", "starting", "broken"):
        counted.add_metric([state], sum(worker.state == state for worker in workers))
    return counted


def _generations(measures: Statistics) -> Iterable[Metric]:
    yield CounterMetricFamily(
        "banatie_generations_accepted", "Generations accepted", value=measures.accepted
    )
    ended = CounterMetricFamily(
        "banatie_generations_ended", "Generations ended, by how", labels=["status", "reason"]
    )
    for (status, reason), number in sorted(measures.ended.items()):
        ended.add_metric([status, reason], number)
    yield ended
    queue = GaugeMetricFamily(
        "banatie_queue_generations", "Generations that have not ended", labels=["stage", "state"]
    )
    for (stage, held), number in sorted(measures.queues.items()):
        queue.add_metric([stage, "working" if held else "waiting"], number)
    yield queue
    yield _gauge(
        "banatie_queue_oldest_seconds",
        "How long ago the oldest generation that waits was accepted",
        measures.oldest_waiting_seconds,
    )
    stages = HistogramMetricFamily(
        "banatie_stage_duration_seconds", "Time that generations spend", labels=["stage"]
    )
    for stage, durations in measures.durations.items():
        sums = accumulate(durations.counts.values())
        buckets = [
            ("+Inf" if at_most == float("inf") else str(at_most), number)
            for at_most, number in zip(durations.counts, sums, strict=True)
        ]
        stages.add_metric([stage], buckets, sum_value=durations.seconds)
    yield stages


def _gauge(name: str, documentation: str, value: float) -> Metric:
    return GaugeMetricFamily(name, documentation, value=value)
