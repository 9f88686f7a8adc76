"""Requests, counted: cheaper than a counter of the library each, as prices are asked for thousands of times a second."""

from collections import Counter
from collections.abc import Iterator

from prometheus_client import REGISTRY
from prometheus_client.core import CounterMetricFamily, Metric, SummaryMetricFamily
from prometheus_client.registry import Collector


class HttpMetrics(Collector):
    """HTTP metrics: responses by route and status, and the time to make them; prices by source."""

    def __init__(self) -> None:
        self._requests: Counter[tuple[str, int]] = Counter()
        self._seconds: Counter[str] = Counter()
        self.prices: Counter[str] = Counter()

    def add(self, route: str, status: int, seconds: float) -> None:
        """One more."""
        self._requests[route, status] += 1
        self._seconds[route] += seconds  # type: ignore[assignment]

    def collect(self) -> Iterator[Metric]:
        """Collect the metrics for Prometheus."""
        requests = CounterMetricFamily("quotebus_http_requests", "Requests by route and status.", labels=["route", "status"])
        for (route, status), count in self._requests.items():
            requests.add_metric([route, str(status)], count)
        yield requests
        seconds = SummaryMetricFamily("quotebus_http_seconds", "Time until an answer was made.", labels=["route"])
        for route, total in self._seconds.items():
            count = sum(n for (each, _), n in self._requests.items() if each == route)
            seconds.add_metric([route], count_value=count, sum_value=total)
        yield seconds
        prices = CounterMetricFamily("quotebus_prices_served", "Price documents by where they came from.", labels=["source"])
        for source, count in self.prices.items():
            prices.add_metric([source], count)
        yield prices


SERVED = HttpMetrics()
REGISTRY.register(SERVED)
