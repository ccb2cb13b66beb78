"""HTTP requests, counted and timed where they end: in the outermost layer."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from apps.api.src.metrics.labels import METHODS, OTHER

if TYPE_CHECKING:
    from apps.api.src.metrics.instruments import Instruments

Bound = tuple[Callable[[], None], Callable[[float], None]]


class RequestMetrics:
    """Looks the children of a label set up once, since that costs more than counting."""

    def __init__(self, instruments: "Callable[[], Instruments]") -> None:
        self._instruments = instruments
        self._bound: dict[tuple[str, str, int], Bound] = {}

    def ended(self, route: str, method: str, status: int, seconds: float) -> None:
        """``route`` is a template or another label of a bounded set; ``method`` may be anything."""
        key = (route, method if method in METHODS else OTHER, status)
        count, observe = self._bound.get(key) or self._bind(key)
        count()
        observe(seconds)

    def _bind(self, key: tuple[str, str, int]) -> Bound:
        instruments, (route, method, status) = self._instruments(), key
        count = instruments.requests.labels(route, method, str(status)).inc
        bound = self._bound[key] = (count, instruments.request_seconds.labels(route, method).observe)
        return bound
