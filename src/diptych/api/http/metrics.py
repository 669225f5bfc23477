"""What the HTTP surface counts, in Prometheus' terms."""

from __future__ import annotations

import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import choose_encoder

from diptych.api.generation import RequestFinished

__all__ = ["Metrics", "RequestTimer"]

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_STEP_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)


class Metrics:
    """One registry per app, so that several can live in one process."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.clock = clock
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "diptych_requests", "Finished requests.", ["route", "status"], registry=self.registry
        )
        self.in_flight = Gauge(
            "diptych_requests_in_flight", "Requests being answered.", registry=self.registry
        )
        self.disconnected = Counter(
            "diptych_clients_gone", "Clients that left before their answer ended.", registry=self.registry
        )
        self.slow_readers = Counter(
            "diptych_slow_readers_cut", "Streams cut because they were not read.", registry=self.registry
        )
        self.first_token = Histogram(
            "diptych_time_to_first_token_seconds",
            "From the arrival of a request to its first token.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.inter_token = Histogram(
            "diptych_inter_token_seconds",
            "Between the tokens of one choice, averaged over tokens that come together.",
            buckets=_STEP_SECONDS,
            registry=self.registry,
        )
        self.whole_request = Histogram(
            "diptych_request_seconds",
            "From the arrival of a request to the end of its answer.",
            ["route"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.prompt_tokens = Counter(
            "diptych_prompt_tokens", "Prompt tokens of finished prompts.", registry=self.registry
        )
        self.cached_tokens = Counter(
            "diptych_cached_prompt_tokens", "Prompt tokens found in a prefix cache.", registry=self.registry
        )
        self.output_tokens = Counter(
            "diptych_output_tokens", "Output tokens as they come.", registry=self.registry
        )

    def expose(self, accept: str) -> tuple[bytes, str]:
        """The exposition and its content type."""
        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type


class RequestTimer:
    """The times of one client request."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self.arrived = metrics.clock()
        self._last: dict[int, float] = {}

    def tokens_came(self, choice: int, count: int) -> None:
        if count == 0:
            return
        now = self._metrics.clock()
        self._metrics.output_tokens.inc(count)
        previous = self._last.get(choice)
        if previous is not None:
            self._metrics.inter_token.observe((now - previous) / count)
        elif not self._last:
            self._metrics.first_token.observe(now - self.arrived)
        self._last[choice] = now

    def prompt_finished(self, finished: RequestFinished) -> None:
        self._metrics.prompt_tokens.inc(finished.prompt_tokens)
        self._metrics.cached_tokens.inc(finished.cached_tokens)

    @property
    def elapsed_ms(self) -> int:
        return round((self._metrics.clock() - self.arrived) * 1000)

    def finished(self, route: str, status: int) -> None:
        self._metrics.requests.labels(route, str(status)).inc()
        self._metrics.whole_request.labels(route).observe(self._metrics.clock() - self.arrived)
