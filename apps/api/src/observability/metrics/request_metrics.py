"""HTTP requests, counted and timed where they end: in the outermost layer."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from apps.api.src.observability.metrics.labels import METHODS, OTHER

if TYPE_CHECKING:
    from apps.api.src.observability.metrics.instruments import Instruments

Key = tuple[str, str, int]
Bound = tuple[Callable[[], None], Callable[[float], None]]

# counted several at a time, which takes half of what it takes between two other things
AT_ONCE = 256


class RequestMetrics:
    """Looks the children of a label set up once, since that costs more than counting. Read after `settle` only."""

    def __init__(self, instruments: "Callable[[], Instruments]") -> None:
        self._instruments = instruments
        self._bound: dict[Key, Bound] = {}
        self._ended: list[tuple[Key, float]] = []

    def ended(self, route: str, method: str, status: int, seconds: float) -> None:
        """``route`` is a template or another label of a bounded set; ``method`` may be anything."""
        self._ended.append(((route, method if method in METHODS else OTHER, status), seconds))
        if len(self._ended) >= AT_ONCE:
            self.settle()

    def settle(self) -> None:
        """Count what has ended since the last time."""
        ended, self._ended = self._ended, []
        for key, seconds in ended:
            count, observe = self._bound.get(key) or self._bind(key)
            count()
            observe(seconds)

    def _bind(self, key: Key) -> Bound:
        instruments, (route, method, status) = self._instruments(), key
        count = instruments.requests.labels(route, method, str(status)).inc
        bound = self._bound[key] = (count, instruments.request_seconds.labels(route, method).observe)
        return bound
