"""Every way in which the mock upstream fails, and how the contract says that it ends."""

from dataclasses import dataclass
from typing import Any

READ_TIMEOUT = 0.5


@dataclass(frozen=True)
class Fault:
    """How a fault ends: the status and the code of what the caller sees, and the calls of the upstream.

    ``begun``: it strikes after the first delta, so that a streamed answer is a 200 with an error event.
    """

    model: str
    status: int
    code: str
    calls: int
    begun: bool = False
    details: tuple[tuple[str, Any], ...] = ()


ATTEMPTS = ("attempts", 3)
FAULTS = [
    *[
        Fault(f"fault-{status}", 502, "UPSTREAM_ERROR", 1, details=(("upstream_status", status),))
        for status in (400, 401, 403, 404, 408, 409, 422)
    ],
    *[
        Fault(
            f"fault-{status}",
            500,
            "INTERNAL_ERROR",
            3,
            details=(ATTEMPTS, ("upstream_status", status), ("cause", f"the upstream answered {status}")),
        )
        for status in (500, 502, 503, 504, 529)
    ],
    Fault("fault-429", 429, "RATE_LIMIT_EXCEEDED", 1, details=(("source", "upstream"),)),
    Fault("fault-hang", 504, "TIMEOUT", 3, details=(ATTEMPTS, ("cause", "timeout"))),
    Fault("fault-rst", 500, "INTERNAL_ERROR", 3, details=(ATTEMPTS, ("cause", "network error"))),
    Fault("fault-200error", 502, "UPSTREAM_ERROR", 1, details=(("upstream_status", 200),)),
    Fault("flaky-5", 500, "INTERNAL_ERROR", 3, details=(ATTEMPTS,)),
    Fault("fault-cut", 502, "UPSTREAM_ERROR", 1, begun=True, details=(("upstream_status", 200),)),
    Fault("fault-stall", 504, "TIMEOUT", 1, begun=True, details=(("cause", "timeout"),)),
    Fault("fault-badjson", 502, "UPSTREAM_ERROR", 1, begun=True, details=(("upstream_status", 200),)),
    Fault("fault-error", 502, "UPSTREAM_ERROR", 1, begun=True, details=(("upstream_status", 200),)),
    Fault("fault-nofinish", 502, "UPSTREAM_ERROR", 1, begun=True, details=(("upstream_status", 200),)),
]
