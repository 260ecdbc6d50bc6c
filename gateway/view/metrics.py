"""The text that Prometheus reads, made off the event loop.

Values are plain integers and floats out of the parts' ``stats()`` and guard.shm; nothing counts
here. The label sets are fixed by the site file, never by what a device sends.
"""

import asyncio
from collections.abc import Iterable, Sequence
from concurrent.futures import Executor
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from gateway.view.live import Moment
from gateway.view.metric_names import METRICS, PREFIX, MetricSpec
from gateway.view.reactions import ReactionCounts
from gateway.view.readings import Row, Sheet, fill

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

    from gateway.parts import Gateway
    from gateway.view.reactions import Reactions


class Metrics:
    """Renders the metrics of one gateway; scrapes at the same time share one rendering."""

    def __init__(self, gateway: "Gateway", reactions: "Reactions", executor: Executor) -> None:
        self._gateway = gateway
        self._reactions = reactions
        self._executor = executor
        self._under_way: asyncio.Future[bytes] | None = None

    async def render(self) -> bytes:
        """The exposition text: the loop gives the counts, the executor makes the text."""
        if self._under_way is None:
            moment = Moment.of(self._gateway)
            counts = self._reactions.counts()
            loop = asyncio.get_running_loop()
            self._under_way = loop.run_in_executor(self._executor, exposition, moment, counts)
            self._under_way.add_done_callback(self._done)
        return await asyncio.shield(self._under_way)

    def _done(self, _rendered: "asyncio.Future[bytes]") -> None:
        self._under_way = None


def exposition(moment: Moment, reactions: ReactionCounts) -> bytes:
    """Fill a sheet and write it down; may run in any thread."""
    registry = CollectorRegistry()
    registry.register(_Families(fill(moment), reactions))
    return generate_latest(registry)


class _Families(Collector):
    """One scrape's families, in the order of METRICS; those without a value are left out."""

    def __init__(self, sheet: Sheet, reactions: ReactionCounts) -> None:
        self._sheet = sheet
        self._reactions = reactions

    def describe(self) -> "Iterable[Metric]":
        return ()  # names are ours and unique: no collecting at registration

    def collect(self) -> "Iterable[Metric]":
        for spec in METRICS:
            rows = self._sheet.rows.get(spec.name)
            if spec.kind == "histogram":
                yield _histogram(spec, self._reactions)
            elif rows:
                yield _family(spec, rows)


def _family(spec: MetricSpec, rows: Sequence[Row]) -> "Metric":
    make = CounterMetricFamily if spec.kind == "counter" else GaugeMetricFamily
    family = make(PREFIX + spec.name, spec.help, labels=spec.labels)
    for labels, value in rows:
        family.add_metric(labels, value)
    return family


def _histogram(spec: MetricSpec, counts: ReactionCounts) -> "Metric":
    family = HistogramMetricFamily(PREFIX + spec.name, spec.help, labels=spec.labels)
    family.add_metric([], buckets=counts.cumulative(), sum_value=counts.sum_ns / 1e9)
    return family
