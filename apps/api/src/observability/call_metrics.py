"""Counts requests, and calls for models, when they end, under label values of a bounded set.

The time between tokens is the mean of a call: what lies between the first token and the end, by the tokens after the
first. A clock read at each token would cost every stream, and an upstream's blocks hold any number of them. A label
value that is not known by name is `other`, so that no caller can make a new series.
"""

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from starlette.types import Scope

from apps.core.calls import CallRecord
from apps.core.ports import Observation

if TYPE_CHECKING:
    from apps.api.src.observability.instruments import Instruments

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


RequestKey = tuple[str, str, int]
Inc = Callable[[float], None]
ObserveAll = Callable[[Sequence[float]], None]
Bound = tuple[Inc, ObserveAll]

# counted several at a time, which takes half of what it takes between two other things
AT_ONCE = 256


class _Batch:
    """What is counted and observed together: each instrument takes its lock once for all of it."""

    def __init__(self) -> None:
        self.counted: defaultdict[Inc, float] = defaultdict(int)
        self.observed: defaultdict[ObserveAll, list[float]] = defaultdict(list)

    def add(self) -> None:
        """Tell the instruments."""
        for inc, amount in self.counted.items():
            inc(amount)
        for observe_all, values in self.observed.items():
            observe_all(values)


class RequestMetrics:
    """Looks the children of a label set up once, since that costs more than counting. Read after `settle` only."""

    def __init__(self, instruments: "Callable[[], Instruments]") -> None:
        self._instruments = instruments
        self._bound: dict[RequestKey, Bound] = {}
        self._ended: list[tuple[RequestKey, float]] = []

    def ended(self, route: str, method: str, status: int, seconds: float) -> None:
        """``route`` is a template or another label of a bounded set; ``method`` may be anything."""
        self._ended.append(((route, method if method in METHODS else OTHER, status), seconds))
        if len(self._ended) >= AT_ONCE:
            self.settle()

    def settle(self) -> None:
        """Count what has ended since the last time."""
        ended, self._ended = self._ended, []
        batch = _Batch()
        for key, seconds in ended:
            count, observe_all = self._bound.get(key) or self._bind(key)
            batch.counted[count] += 1
            batch.observed[observe_all].append(seconds)
        batch.add()

    def _bind(self, key: RequestKey) -> Bound:
        instruments, (route, method, status) = self._instruments(), key
        count = instruments.requests.labels(route, method, str(status)).inc
        bound = self._bound[key] = (count, instruments.request_seconds.labels(route, method).observe_all)
        return bound


CallKey = tuple[str, str, str]

log = logging.getLogger(__name__)


class CallMetrics:
    """A Bookkeeper, and Observed. Stands first among them, so that it also sees the calls that the others refuse.

    Its instruments are read after `settle` only.
    """

    def __init__(self, instruments: "Callable[[], Instruments]", models: KnownNames, providers: KnownNames) -> None:
        self._instruments = instruments
        self._models = models
        self._providers = providers
        self._children: dict[CallKey, _Children] = {}
        self._in_progress = 0
        self._ended: list[CallRecord] = []

    @property
    def in_progress(self) -> int:
        """Calls that have begun and not ended."""
        return self._in_progress

    async def opening(self, call: CallRecord) -> None:
        self._in_progress += 1

    def closing(self, call: CallRecord) -> None:
        self._in_progress -= 1
        self._ended.append(call)
        if len(self._ended) >= AT_ONCE:
            self.settle()

    def settle(self) -> None:
        """Count what has ended since the last time."""
        ended, self._ended = self._ended, []
        batch = _Batch()
        for call in ended:
            try:
                self._count(call, batch)
            except Exception:
                log.exception("A call could not be counted")  # the others are
        batch.add()

    def _count(self, call: CallRecord, batch: _Batch) -> None:
        key = (call.route, self._models.label(call.model or call.requested_model), self._providers.label(call.provider))
        children = self._children.get(key)
        if children is None:
            children = self._children[key] = _Children(self._instruments(), *key)
        children.count(call, batch)

    def observations(self) -> Iterable[Observation]:
        text = "Calls for a model that have begun and not ended"
        yield Observation("genai_calls_in_progress", text, float(self._in_progress))


class _Children:
    """The instruments of one route, model and provider, their labels bound when they are first needed.

    So what does not happen has no series: a model that only fails has no tokens and no first one.
    """

    def __init__(self, instruments: "Instruments", route: str, model: str, provider: str) -> None:
        self._instruments = instruments
        self._route = route
        self._model = model
        self._provider = provider
        self._outcomes: dict[str, Inc] = {}
        self._duration = instruments.call_seconds.labels(route, model).observe_all

    def count(self, call: CallRecord, batch: _Batch) -> None:
        counted, observed = batch.counted, batch.observed
        counted[self._outcomes.get(call.outcome) or self._bind(call.outcome)] += 1
        observed[self._duration].append(call.duration)
        if call.first_token is not None:
            observed[self._first_token].append(call.first_token)
            tokens = call.completion_tokens or 0
            if tokens > 1 and call.outcome == "ok":  # what broke off has its tokens guessed
                observed[self._per_token].append((call.duration - call.first_token) / (tokens - 1))
        if call.attempts:
            observed[self._queued].append(call.queued)
            counted[self._attempts] += call.attempts
            if call.attempts > 1:
                counted[self._retries] += call.attempts - 1
        if call.cache != "off":
            self._instruments.cache_uses.labels(call.cache).inc()
            counted[self._saved] += call.saved
        self._count_usage(call, batch.counted)

    def _count_usage(self, call: CallRecord, counted: defaultdict[Inc, float]) -> None:
        usage, cost = call.usage, call.cost
        if (cost or 0) < 0:
            raise ValueError("a negative cost")
        if usage is not None:
            if min(usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens) < 0:
                raise ValueError("a negative count")
            if usage.prompt_tokens:
                counted[self._prompt] += usage.prompt_tokens
            if usage.completion_tokens:
                counted[self._completion] += usage.completion_tokens
            if usage.cached_tokens:
                counted[self._cached] += usage.cached_tokens
        if cost:
            counted[self._cost] += cost

    def _bind(self, outcome: str) -> Inc:
        labels = (self._route, self._model, self._provider, outcome)
        bound = self._outcomes[outcome] = self._instruments.calls.labels(*labels).inc
        return bound

    @cached_property
    def _first_token(self) -> ObserveAll:
        return self._instruments.first_token_seconds.labels(self._route, self._model).observe_all

    @cached_property
    def _per_token(self) -> ObserveAll:
        return self._instruments.per_token_seconds.labels(self._route, self._model).observe_all

    @cached_property
    def _queued(self) -> ObserveAll:
        return self._instruments.queue_seconds.labels(self._provider).observe_all

    @cached_property
    def _prompt(self) -> Inc:
        return self._instruments.tokens.labels(self._model, self._provider, "prompt").inc

    @cached_property
    def _completion(self) -> Inc:
        return self._instruments.tokens.labels(self._model, self._provider, "completion").inc

    @cached_property
    def _cached(self) -> Inc:
        return self._instruments.cached_tokens.labels(self._model, self._provider).inc

    @cached_property
    def _cost(self) -> Inc:
        return self._instruments.cost.labels(self._model, self._provider).inc

    @cached_property
    def _saved(self) -> Inc:
        return self._instruments.saved.labels(self._model).inc

    @cached_property
    def _attempts(self) -> Inc:
        return self._instruments.attempts.labels(self._model, self._provider).inc

    @cached_property
    def _retries(self) -> Inc:
        return self._instruments.retries.labels(self._model, self._provider).inc
