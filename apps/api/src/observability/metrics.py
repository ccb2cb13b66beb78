"""The metrics of one app: what counts, what is observed, how late the event loop is, and the text for Prometheus.

Each process counts for itself: behind one port, several workers answer scrapes in turn with different numbers. Run one
process a port, and let Prometheus scrape each. What is observed of the models and the gateway is read from the live
objects at a scrape, never kept.

A timer that should have rung by now says how long every request had to wait. A thread beside it looks where the loop's
own thread is meanwhile, so that the log can name the call: files and functions, and nothing that a caller sent. Both
wake seldom where there has been no work for a while: they would be most of what an idle process does.
"""

import asyncio
import logging
import platform
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, get_args

from apps.api.src.observability.call_metrics import CallMetrics, KnownNames, RequestMetrics
from apps.core.ports import Observation, Observed, Readiness, State
from apps.gateway.gateway import Gateway

if TYPE_CHECKING:
    from apps.api.src.observability.instruments import Instruments

EVERY = 0.1
# between two rings of a process that has had no work for so long
IDLE_EVERY = 1.0
CALM_SECONDS = 5.0
REMEMBERED_SECONDS = 15.0
STALL = 0.1
SHOWN_FRAMES = 6
ROOT = str(Path(__file__).parents[4])
# where the loop's thread is between two callbacks
WAITING = frozenset({"select", "poll", "_run_once", "run_forever", "run_until_complete", "run", "wrapper"})

log = logging.getLogger(__name__)


class LoopLag:
    """An Observed: the longest delay of the last 15 seconds, which two scrapes in a row may both see.

    A delay of ``stall`` seconds or more is counted, and written to the log with the call that made it. `began` and
    `ended` tell of requests, and `watch` of other work; without any for 5 s a delay under a second may go unseen.
    """

    def __init__(self, stall: float = STALL, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._stall = stall
        self._clock = clock
        # each with the time when it was measured
        self._delays: deque[tuple[float, float]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._due = float("inf")
        self._cpu = 0.0
        self._where: str | None = None
        self._stalls = 0
        self._starting = False
        self._warned = True
        self._requests = 0
        self._watched: list[Callable[[], bool]] = []
        self._worked_at = 0.0
        self._every = EVERY
        self._loop: asyncio.AbstractEventLoop | None = None
        self._over = False
        # for the thread: the timer's time has changed, or all is over
        self._news = threading.Event()

    @contextmanager
    def measured(self) -> Iterator[None]:
        """Measure the running loop for the length of the block."""
        self._over, self._loop, self._worked_at = False, asyncio.get_running_loop(), self._clock()
        watch = threading.Thread(target=self._watch, args=(threading.get_ident(),), name="loop-lag", daemon=True)
        self._wait(self._loop)
        watch.start()
        try:
            yield
        finally:
            self._over = True
            self._news.set()
            if self._timer is not None:
                self._timer.cancel()
            self._loop = None
            watch.join()

    def watch(self, at_work: Callable[[], bool]) -> None:
        """Ask a part at each ring whether it is at work, for a request or without one."""
        self._watched.append(at_work)

    def began(self) -> None:
        """A request is there, which waits for the loop."""
        self._requests += 1
        if self._every == IDLE_EVERY and self._loop is not None and self._timer is not None:
            self._timer.cancel()
            self._wait(self._loop)
            self._news.set()

    def ended(self) -> None:
        """Its answer is over."""
        self._requests -= 1
        self._worked_at = self._clock()

    @contextmanager
    def starting(self) -> Iterator[None]:
        """Expect stalls in the block, such as imports at the start: they are counted, and no warning."""
        self._starting, self._warned = True, False
        try:
            yield
        finally:
            self._starting = False

    def observations(self) -> Iterable[Observation]:
        self._forget(self._clock())
        longest = max((delay for _, delay in self._delays), default=0.0)
        yield Observation("genai_event_loop_lag_seconds", "Longest delay of the event loop in the last 15 s", longest)
        text = f"Delays of the event loop of {self._stall:g} s and more; the log names the call"
        yield Observation("genai_event_loop_stalls_total", text, float(self._stalls), "counter")

    def _wait(self, loop: asyncio.AbstractEventLoop) -> None:
        self._where, self._cpu = None, time.thread_time()
        # a stall that ends the start is seen only when its timer rings, after it
        self._warned = not self._starting
        now = self._clock()
        if self._requests or any(at_work() for at_work in self._watched):
            self._worked_at = now
        self._every = IDLE_EVERY if now - self._worked_at > CALM_SECONDS else EVERY
        self._due = now + self._every
        self._timer = loop.call_later(self._every, self._rang, loop)

    def _rang(self, loop: asyncio.AbstractEventLoop) -> None:
        now = self._clock()
        delay = max(0.0, now - self._due)
        self._forget(now)
        self._delays.append((now, delay))
        if delay >= self._stall:
            self._stalls += 1
            used = time.thread_time() - self._cpu
            if self._where is not None:
                level = logging.WARNING if self._warned else logging.INFO
                log.log(level, "The event loop stalled for %.2f s (%.2f s of CPU) in %s", delay, used, self._where)
            else:
                log.info("The event loop stalled for %.2f s (%.2f s of CPU) in no call: a busy machine", delay, used)
        self._wait(loop)

    def _forget(self, now: float) -> None:
        while self._delays and now - self._delays[0][0] > REMEMBERED_SECONDS:
            self._delays.popleft()

    def _watch(self, loop_thread: int) -> None:
        while not self._over:
            # asleep until the timer is so late that it matters, and not on a clock of its own: it would wake as often
            if self._news.wait(max(EVERY / 2, self._due + self._stall / 2 - self._clock())):
                self._news.clear()
            elif self._where is None and self._clock() - self._due >= self._stall / 2:
                frame = sys._current_frames().get(loop_thread)
                if frame is not None and frame.f_code.co_name not in WAITING:
                    self._where = _calls(frame)


def _calls(frame: FrameType | None) -> str:
    """From the innermost call outwards."""
    shown: list[str] = []
    while frame is not None and len(shown) < SHOWN_FRAMES:
        code = frame.f_code
        if code.co_filename.startswith("<frozen"):
            # the machinery of imports, which would hide who imports
            frame = frame.f_back
            continue
        file = code.co_filename.removeprefix(ROOT).lstrip("/").rpartition("site-packages/")[2]
        shown.append(f"{code.co_name} ({file}:{frame.f_lineno})")
        frame = frame.f_back
    return " < ".join(shown)


class Metrics:
    """``models`` and ``providers`` bound the labels of those names; ``observed`` are asked at each scrape.

    prometheus_client is imported at the first use, and `warm` is one.
    """

    def __init__(
        self,
        models: KnownNames | None = None,
        providers: KnownNames | None = None,
        observed: Sequence[Observed] = (),
        version: str = "",
    ) -> None:
        self.loop_lag = LoopLag()
        self.requests = RequestMetrics(lambda: self._instruments)
        self.calls = CallMetrics(lambda: self._instruments, models or KnownNames(), providers or KnownNames())
        self.loop_lag.watch(lambda: self.calls.in_progress > 0)
        self._observed: tuple[Observed, ...] = (self.loop_lag, self.calls, *observed)
        self._version = version

    def observe(self, *parts: Observed) -> None:
        """Ask these at each scrape, too."""
        self._observed += parts

    def warm(self) -> None:
        """Import and register now what the first request would wait for."""
        _ = self._instruments

    def render(self, accept: str = "") -> tuple[str, bytes]:
        """The content type and the text, in the newest format that ``accept`` asks for."""
        self.requests.settle()
        self.calls.settle()
        return self._instruments.text(accept)

    def summary(self) -> dict[str, list[dict[str, Any]]]:
        """Labels and values by metric, without the buckets of histograms and the times of creation."""
        self.requests.settle()
        self.calls.settle()
        values: dict[str, list[dict[str, Any]]] = {}
        for family in self._instruments.registry.collect():
            for sample in family.samples:
                if not sample.name.endswith(("_bucket", "_created")):
                    values.setdefault(sample.name, []).append({"labels": sample.labels, "value": sample.value})
        return values

    @cached_property
    def _instruments(self) -> "Instruments":
        from apps.api.src.observability.instruments import Instruments

        return Instruments(self._observations)

    def _observations(self) -> Iterator[Observation]:
        about = {"version": self._version, "python": platform.python_version()}
        yield Observation("genai_build_info", "The version that runs; always 1", 1.0, labels=about)
        for part in self._observed:
            try:
                yield from list(part.observations())
            except Exception:
                # one part that is broken must not hide all the others; this says which
                log.exception("The numbers of %s cannot be read", type(part).__name__)
                self._instruments.observer_errors.labels(type(part).__name__).inc()


BREAKER = {"closed": 0, "half_open": 1, "open": 2}
LOCAL_NUMBERS = {
    "slots": ("genai_local_slots", "Answers that the local model writes at the same time"),
    "running": ("genai_local_slots_busy", "Answers that the local model is writing"),
    "waiting": ("genai_local_queue_length", "Calls that wait for the local model"),
    "queue_size": ("genai_local_queue_capacity", "Calls that may wait for the local model"),
    "predicted_wait": ("genai_local_predicted_wait_seconds", "What a call made now should wait for the local model"),
    "weights_bytes": ("genai_local_weights_bytes", "Memory of the local model's weights"),
    "context_length": ("genai_local_context_tokens", "Context of the local model"),
}


class ModelsObserved:
    """An Observed over the readiness of each model; ``roles`` are `cloud`, `local`, `embedder`."""

    def __init__(self, roles: Mapping[str, Callable[[], Readiness]]) -> None:
        self._roles = roles

    def observations(self) -> Iterable[Observation]:
        for role, readiness in self._roles.items():
            now = readiness()
            for state in get_args(State):
                labels = {"role": role, "state": state}
                yield Observation(
                    "genai_model_state", "1 for the state that a model is in", float(now.state == state), labels=labels
                )
            if role == "local":
                yield from _local_numbers(now)


def _local_numbers(readiness: Readiness) -> Iterator[Observation]:
    """What the engine does not tell has no metric."""
    for key, (name, text) in LOCAL_NUMBERS.items():
        value = readiness.details.get(key)
        if isinstance(value, int | float):
            yield Observation(name, text, float(value))


class GatewayObserved:
    """An Observed over providers, breakers and retry budgets of the routing file that is in force."""

    def __init__(self, gateway: Gateway, models: KnownNames) -> None:
        self._gateway = gateway
        self._models = models

    def observations(self) -> Iterable[Observation]:
        yield from self._providers()
        yield from self._breakers()
        yield from self._budgets()

    def _providers(self) -> Iterator[Observation]:
        for name, provider in self._gateway.router.providers.items():
            labels, admission = {"provider": name}, provider.admission
            slots, busy, waiting = float(admission.slots), float(admission.running), float(admission.waiting)
            yield Observation("genai_provider_slots", "Calls a provider may have under way", slots, labels=labels)
            yield Observation("genai_provider_slots_busy", "Calls a provider has under way", busy, labels=labels)
            yield Observation("genai_provider_queue_length", "Calls that wait for a provider", waiting, labels=labels)
            yield Observation(
                "genai_provider_predicted_wait_seconds",
                "What a call made now should wait for a provider",
                admission.predicted_wait(),
                labels=labels,
            )

    def _breakers(self) -> Iterator[Observation]:
        """Names that callers made up share one label: the worst of their states counts."""
        worst: dict[tuple[str, str], int] = {}
        for target in self._gateway.router.everywhere():
            key = (target.provider.name, self._models.label(target.answers_as))
            worst[key] = max(worst.get(key, 0), BREAKER[target.breaker.state])
        for (provider, model), state in worst.items():
            labels = {"provider": provider, "model": model}
            text = "Breaker of a target: 0 closed, 1 half open, 2 open"
            yield Observation("genai_breaker_state", text, float(state), labels=labels)

    def _budgets(self) -> Iterator[Observation]:
        least: dict[str, float] = {}
        for name, budget in self._gateway.budgets.each():
            label = self._models.label(name)
            least[label] = min(least.get(label, float("inf")), budget.left())
        for model, left in least.items():
            text = "Extra attempts that a model name may make within the minute"
            yield Observation("genai_retry_budget_left", text, left, labels={"model": model})
