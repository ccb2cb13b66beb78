"""Label values of a bounded set: what is not known by name is `other`, so that no caller can make a new series."""

import time
from collections.abc import Callable, Iterable
from typing import Any

from starlette.types import Scope

OTHER = "other"


NONE = "none"


METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


LOOK_AGAIN_AFTER = 1.0


class KnownNames:
    """``read`` tells the names as of now; it is asked again for one that is not known, at most once a second."""

    def __init__(self, read: Callable[[], Iterable[str]] = tuple, clock: Callable[[], float] = time.monotonic) -> None:
        self._read = read
        self._clock = clock
        self._known: frozenset[str] = frozenset()
        self._read_at = float("-inf")

    def label(self, name: str) -> str:
        """The name itself where it is known, `none` for the empty one."""
        if name in self._known:
            return name
        if not name:
            return NONE
        now = self._clock()
        if now - self._read_at >= LOOK_AGAIN_AFTER:
            self._read_at = now
            self._known = frozenset(self._read())
        return name if name in self._known else OTHER


def route_label(scope: Scope, fixed: frozenset[str]) -> str:
    """The template of the route that served the request; for one refused before that, its path where it is fixed."""
    route: Any = scope.get("route")
    if route is not None:
        return getattr(route, "path", OTHER)
    path: str = scope["path"]
    return path if path in fixed else OTHER
