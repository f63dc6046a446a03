"""The metrics of one process in Prometheus' words, and the page that shows them."""

import logging
import threading
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    GCCollector,
    Histogram,
    Info,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from vmbackup import __version__
from vmbackup.core.metrics import Labels, Metric, Samples
from vmbackup.door.pages import Address, Page, Server

log = logging.getLogger(__name__)

Look = Callable[[], Samples]


class Metrics:
    """Counts and observes what happens, and asks `look` for the rest at every scrape. Safe for threads."""

    def __init__(self, metrics: Iterable[Metric], look: Look = dict) -> None:
        # Else there is a second series for every counter, for which nobody asks.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._look = look
        self._showing, self._counting = threading.Lock(), threading.Lock()
        self._registry = CollectorRegistry()
        self._shown = _Shown(self._registry)
        self._counters: dict[Metric, Counter] = {}
        self._counted: defaultdict[Metric, set[Labels]] = defaultdict(set)
        self._histograms: dict[Metric, Histogram] = {}
        for metric in metrics:
            self._add(metric)
        Info("vmbackup_build", "Version of the operator.", registry=self._registry).info({"version": __version__})
        ProcessCollector(registry=self._registry)
        GCCollector(registry=self._registry)

    def _add(self, metric: Metric) -> None:
        words: dict[str, Any] = {"labelnames": metric.labels, "registry": self._registry}
        match metric.type:
            case "counter":
                self._counters[metric] = Counter(metric.name, metric.help, **words)
            case "histogram":
                self._histograms[metric] = Histogram(metric.name, metric.help, buckets=metric.buckets, **words)
            case "gauge":
                self._shown.metrics.append(metric)

    def look_with(self, look: Look) -> None:
        """Ask `look` from now on; for a process whose parts are made after its metrics."""
        self._look = look

    def count(self, metric: Metric, labels: Labels, amount: float = 1) -> None:
        """Add to a counter. An amount of 0 makes it known: an alert sees a first step only when there was a 0."""
        with self._counting:
            self._counters[metric].labels(*labels).inc(amount)
            self._counted[metric].add(labels)

    def observe(self, metric: Metric, labels: Labels, value: float) -> None:
        self._histograms[metric].labels(*labels).observe(value)

    def keep(self, metric: Metric, label: str, values: Collection[str]) -> None:
        """Drop a counter's samples of what is no more: keep those whose label has one of these values."""
        position = metric.labels.index(label)
        with self._counting:
            for labels in [labels for labels in self._counted[metric] if labels[position] not in values]:
                self._counters[metric].remove(*labels)
                self._counted[metric].discard(labels)

    def page(self) -> Page:
        """Return the answer to one scrape."""
        with self._showing:
            self._shown.samples = self._look()
            return Page(generate_latest(self._registry), CONTENT_TYPE_PLAIN_0_0_4)


class _Shown:
    """The gauges: nothing is kept, everything comes from the last look."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.metrics: list[Metric] = []
        self.samples: Samples = {}
        registry.register(self)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        for metric in self.metrics:
            family = GaugeMetricFamily(metric.name, metric.help, labels=metric.labels)
            values: Mapping[Labels, float] = self.samples.get(metric, {})
            for labels in sorted(values):
                family.add_metric(labels, values[labels])
            yield family


def serve_metrics(metrics: Metrics, address: Address) -> Server | None:
    """Answer /metrics, and nothing else, from a thread; port 0 takes a free one.

    An address that is taken is logged and no more: nobody's VM waits for a scrape. Returns None then.
    """
    try:
        server = Server(address, {"/metrics": metrics.page})
    except OSError as error:
        words = "metrics are not shown: %s port %d: %s"
        log.error(words, *address, error.strerror or error)  # noqa: TRY400 - no fault of ours
        return None
    log.info("metrics are shown on %s port %d", *server.server_address[:2])
    return server
