"""What goes wrong with an upstream over HTTP, as errors of the tree: one table."""

from collections.abc import Callable

from apps.core.errors import AppError, Timeout, UpstreamTimeout, UpstreamUnavailable
from apps.models.http1.errors import BadRequest, ConnectionFailed, Cut, HttpFailure, ProtocolError
from apps.models.upstream_errors import nonsense, not_understood, timed_out, unreachable

FAILURES = (HttpFailure, TimeoutError)


def translate(error: Exception, *, begun: bool = False) -> AppError:
    """The table's first match counts, so subclasses stand before their bases.

    ``begun``: the upstream had answered 200 and something of its answer, so this is no error to try again after.
    """
    made = next(make() for kind, make in ERRORS if isinstance(error, kind))
    if not begun:
        return made
    if isinstance(made, UpstreamTimeout):
        return Timeout("The upstream fell silent in its answer", details={**made.details, "upstream_status": 200})
    if isinstance(made, UpstreamUnavailable):
        return nonsense("The upstream's answer was cut off")
    return made


ERRORS: list[tuple[type[Exception], Callable[[], AppError]]] = [
    (TimeoutError, timed_out),
    (BadRequest, not_understood),
    (ConnectionFailed, unreachable),
    (Cut, unreachable),
    (ProtocolError, not_understood),
]
