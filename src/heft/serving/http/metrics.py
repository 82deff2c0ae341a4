"""`/metrics` in Prometheus' format: requests as they end, and the engine as it is when it is asked."""

import time
from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from heft.serving.engine import Engine

_KNOWN = ("/v1/completions", "/v1/chat/completions", "/v1/classify", "/v1/models")


class _OfEngine(Collector):
    def __init__(self, engine: Engine):
        self._engine = engine

    def collect(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        engine, counts, prefixes = self._engine, self._engine.counts, self._engine.prefixes
        gauges = {
            "heft_requests_running": ("Texts that get a token in every round.", engine.running),
            "heft_requests_waiting": ("Requests that wait for their first pass.", engine.waiting),
            "heft_adapters_loaded": ("Adapter directories that are loaded.", len(engine.catalog.names)),
            "heft_prefix_bytes": ("Memory of kept prefixes.", prefixes.bytes),
        }
        counters = {
            "heft_passes": ("Forward passes.", counts.passes),
            "heft_mixed_passes": ("Forward passes with rows of several models.", counts.mixed),
            "heft_prompt_tokens_computed": ("Tokens of prompts that were computed.", counts.prompt_tokens),
            "heft_generated_tokens": ("Tokens that were generated.", counts.new_tokens),
            "heft_prefix_tokens_found": ("Tokens of prompts that were kept from earlier ones.", prefixes.hits),
            "heft_prefix_tokens_asked": ("Tokens of prompts.", prefixes.asked),
        }
        for name, (text, value) in gauges.items():
            yield GaugeMetricFamily(name, text, value)
        for name, (text, value) in counters.items():
            yield CounterMetricFamily(name, text, value)


class Metrics:
    """Counts requests, as ASGI middleware's counterpart. Each server has its own."""

    def __init__(self, engine: Engine):
        self._registry = CollectorRegistry()
        self._registry.register(_OfEngine(engine))
        labels = ["path", "status"]
        self._requests = Counter("heft_requests", "Requests by path and status.", labels, registry=self._registry)
        self._seconds = Histogram(
            "heft_request_seconds", "From a request to its end.", ["path"], registry=self._registry
        )

    def document(self) -> bytes:
        """As Prometheus reads it."""
        return generate_latest(self._registry)

    def watching(self, app: Callable) -> Callable:
        """An ASGI application that counts the requests of another."""

        async def counted(scope: dict, receive: Callable, send: Callable) -> None:
            if scope["type"] != "http":
                await app(scope, receive, send)
                return
            start, status = time.monotonic(), 499

            async def noted(message: dict) -> None:
                nonlocal status
                if message["type"] == "http.response.start":
                    status = message["status"]
                await send(message)

            path = scope["path"] if scope["path"] in _KNOWN else "other"
            try:
                await app(scope, receive, noted)
            finally:
                self._requests.labels(path, str(status)).inc()
                self._seconds.labels(path).observe(time.monotonic() - start)

        return counted
