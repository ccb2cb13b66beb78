"""Counts of fixed windows in this process, as a storage of the `limits` engine that slowapi runs on.

The engine's own memory storage starts a thread every few requests to forget what is over, which cost more than the
counting. All counting here happens on one event loop, and what is over is forgotten when it is met or by the way.
"""

import time

from limits.storage import Storage

URI = "loop://"
SWEEP_EVERY = 10_000


class WindowCounts(Storage):
    """``loop://`` of the engine's storage URIs."""

    STORAGE_SCHEME = ["loop"]  # noqa: RUF012 - the engine's registry declares it so

    def __init__(self, uri: str | None = None, wrap_exceptions: bool = False, **_: float | str | bool) -> None:
        super().__init__(uri, wrap_exceptions)
        self._windows: dict[str, tuple[int, float]] = {}
        self._until_sweep = SWEEP_EVERY

    @property
    def base_exceptions(self) -> type[Exception]:
        return ValueError

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        return self.hit(key, expiry, amount)[0]

    def hit(self, key: str, expiry: int, amount: int = 1) -> tuple[int, float]:
        """Count, and tell the count and when its window ends."""
        now = time.time()
        count, ends = self._windows.get(key, (0, 0.0))
        if ends <= now:
            count, ends = 0, now + expiry
        count += amount
        self._windows[key] = count, ends
        self._sweep(now)
        return count, ends

    def get(self, key: str) -> int:
        count, ends = self._windows.get(key, (0, 0.0))
        return count if ends > time.time() else 0

    def get_expiry(self, key: str) -> float:
        return self._windows.get(key, (0, time.time()))[1]

    def check(self) -> bool:
        return True

    def reset(self) -> int:
        size = len(self._windows)
        self._windows.clear()
        return size

    def clear(self, key: str) -> None:
        self._windows.pop(key, None)

    def _sweep(self, now: float) -> None:
        self._until_sweep -= 1
        if self._until_sweep == 0:
            self._until_sweep = SWEEP_EVERY
            self._windows = {key: window for key, window in self._windows.items() if window[1] > now}
