"""What Prometheus is told, in its text format; with the names and units that its documentation asks for."""

from __future__ import annotations

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

from ..runtime import Prediction
from ..runtime.exits import COARSELY

BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Seconds: Prometheus' own, with two more below, as a small expert answers within a millisecond."""

NONE = "none_of_these"


class Metrics:
    """The counters of one server. Threads may share them."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = every = CollectorRegistry()
        ProcessCollector(registry=every)
        self.requests = Counter("expertc_requests", "Requests that were answered.", ["route", "status"], registry=every)
        self.seconds = Histogram(
            "expertc_request_seconds", "From the head of a request to the end of its answer.", ["route"],
            registry=every, buckets=BUCKETS,
        )  # fmt: skip
        self.in_flight = Gauge("expertc_requests_in_flight", "Requests that are not answered yet.", registry=every)
        self.refused = Counter(
            "expertc_refused", "Requests and connections that were too much.", ["why"], registry=every
        )
        self.release = Info("expertc_release", "The release that answers.", registry=every)
        self.switches = Counter("expertc_release_switches", "Changes to another release.", registry=every)
        self.failures = Counter("expertc_release_failures", "Releases that could not be opened.", registry=every)
        self.predictions = Counter(
            "expertc_predictions", "Photos, by what /predict found in them.", ["label", "kind"], registry=every
        )
        self.exits = Counter("expertc_exits", "Photos, by the early exit that answered.", ["exit"], registry=every)

    def predicted(self, prediction: Prediction) -> None:
        """Count an answer: a class, a category (of a coarse exit), or none of these."""
        if prediction.exit is not None:
            self.exits.labels(str(prediction.exit)).inc()
        if prediction.none_of_these:
            self.predictions.labels(NONE, NONE).inc()
        else:
            kind = "category" if prediction.granularity == COARSELY else "class"
            self.predictions.labels(prediction.labels[0][0], kind).inc()

    def text(self) -> bytes:
        """The page."""
        return generate_latest(self._registry)
