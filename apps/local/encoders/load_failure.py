"""Why an encoder did not load, and when it is worth another try."""

from collections.abc import Callable, Mapping
from typing import Any

from apps.core.ports import Readiness

RETRY_AFTER = 60.0


class LoadFailure:
    """``clock`` is monotonic, in seconds.

    After RETRY_AFTER seconds an encoder that failed is ready again: it tries to load at its next use. Who asks its
    readiness before a call, as workers and gateways of a fleet do, would else never call it again.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._noted: tuple[str, float] | None = None

    def note(self, reason: str) -> None:
        """It did not load now."""
        self._noted = (reason, self._clock() + RETRY_AFTER)

    def clear(self) -> None:
        """It is loaded."""
        self._noted = None

    def readiness(self, name: str, details: Mapping[str, Any] | None = None) -> Readiness | None:
        """Of an encoder that failed; None where it did not."""
        # a thread that loads may clear it meanwhile
        noted = self._noted
        if noted is None:
            return None
        reason, until = noted
        wait = until - self._clock()
        if wait > 0:
            return Readiness(name, "failed", reason, dict(details or {}), wait)
        return Readiness(name, "ready", f"{reason}; tries again at its next use", dict(details or {}))
