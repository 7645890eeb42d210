"""Figures of the running service for Prometheus: requests, latencies by route and by stage, the bundle.

Where PROMETHEUS_MULTIPROC_DIR is set before this is imported (`recsys serve` does), the workers share their figures
through files in that folder, and any of them answers for all.
"""

from __future__ import annotations

import os

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from recsys.stage_clock import STAGES

FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
SECONDS = (0.0005, 0.001, 0.002, 0.004, 0.006, 0.008, 0.012, 0.02, 0.03, 0.05, 0.1, 0.25, 1.0)
"""Upper bounds of the histograms' buckets, close together where the service is meant to be."""


class Metrics:
    """The figures of one application."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "recsys_requests", "Requests answered", ["method", "route", "status"], registry=self._registry
        )
        self._seconds = Histogram(
            "recsys_request_seconds", "Time to answer", ["route"], buckets=SECONDS, registry=self._registry
        )
        stages = Histogram(
            "recsys_stage_seconds", "Time of one stage of a list", ["stage"], buckets=SECONDS, registry=self._registry
        )
        self._stages = {stage: stages.labels(stage) for stage in STAGES}
        self._bundle = Gauge(
            "recsys_bundle_info", "1 for each version that answers", ["bundle", "variant"],
            multiprocess_mode="livemax", registry=self._registry,
        )  # fmt: skip

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """A request was answered."""
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def stage(self, stage: str, seconds: float) -> None:
        """A stage has ended (an `Observer`)."""
        self._stages[stage].observe(seconds)

    def serving(self, bundle: str, variant: str, *, now: bool = True) -> None:
        """A version answers, or does no longer."""
        self._bundle.labels(bundle, variant).set(1.0 if now else 0.0)

    def text(self) -> bytes:
        """All figures in Prometheus' text format, of every worker where there are several."""
        if FOLDER_VARIABLE not in os.environ:
            return generate_latest(self._registry)
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry)


def worker_ended(pid: int) -> None:
    """What a worker said of itself alone, such as its bundle, ends with it."""
    if FOLDER_VARIABLE in os.environ:
        mark_process_dead(pid)  # type: ignore[no-untyped-call]
