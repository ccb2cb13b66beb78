"""Continuous batching: one thread that computes step after step; answers join and leave between two of them.

``BatchingEngine`` is the Engine on top of it: many answers at a time, each an async stream of outputs.
"""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from typing import Any

from apps.core.errors import AppError, InternalError, ModelUnavailable
from apps.core.messages import JsonObject
from apps.local.engine.batching.answer import Answer, Mailbox
from apps.local.engine.batching.prefix_cache import BLOCK, PrefixCache, PrefixStore
from apps.local.engine.batching.speculation import Speculation
from apps.local.engine.batching.step import Chunking, Step
from apps.local.engine.port import EngineOutput, Progress, Sampling
from apps.local.tokenizer import HubTokenizer

# rows of logits are as wide as the vocabulary
MOST_PROMPT_LOGITS = 48

log = logging.getLogger(__name__)


class Scheduler:
    """Owns the inference thread. At most ``slots`` answers run; more wait in the order they came.

    ``failure`` says why the thread has ended, where it did so by itself. ``speculation`` None computes token by token;
    ``store`` keeps keys and values over restarts; ``chunking`` decides how much of prompts goes into a step, by
    the seconds that ``clock`` counts.
    """

    def __init__(
        self,
        step: Step,
        slots: int,
        caches: int,
        speculation: Speculation | None = None,
        store: PrefixStore | None = None,
        chunking: Chunking | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._step = step
        self._slots = slots
        self._caches = PrefixCache(step, caches, store)
        self._chunking = chunking or Chunking()
        self._clock = clock
        self._speculation = speculation
        self._waiting: deque[Answer] = deque()
        self._running: list[Answer] = []
        self._changed = threading.Condition()
        self._closed = False
        self.failure: str | None = None
        # answers that gave their blocks to an earlier one, and went on later
        self.interrupted = 0
        self.steps = 0
        # when the step under way began; None between two of them
        self._step_began: float | None = None
        self._thread = threading.Thread(target=self._loop, name="local-model-inference", daemon=True)
        self._thread.start()

    @property
    def running(self) -> int:
        return len(self._running)

    def progress(self) -> Progress:
        """How many steps are computed, and for how long the one under way has been."""
        began = self._step_began
        return Progress(self.steps, 0.0 if began is None else time.monotonic() - began)

    def add(self, answer: Answer) -> None:
        """Raises ModelUnavailable where the engine is closed, or has failed."""
        with self._changed:
            if self.failure is not None:
                raise ModelUnavailable(f"The local model has failed: {self.failure}")
            if self._closed:
                raise _closing()
            self._waiting.append(answer)
            self._changed.notify()

    def known(self, prompt: Sequence[int], tenant: str) -> int:
        """How many of the prompt's tokens are in memory, about."""
        return self._caches.longest(prompt, tenant)

    def cancel(self, answer: Answer) -> None:
        answer.cancelled = True
        self.wake()

    def wake(self) -> None:
        """Something that the thread may be waiting for has happened."""
        with self._changed:
            self._changed.notify()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _loop(self) -> None:
        try:
            while self._admit():
                self._step_began = time.monotonic()
                self._compute()
                self.steps += 1
                self._step_began = None
        except Exception as error:
            # a bug here must not leave readers waiting for ever
            log.exception("The inference thread ended")
            self.failure = f"its inference thread ended with {type(error).__name__} (see the log): restart the process"
            self._end_all(_failed(error))
        finally:
            self._step.close()
            if self._speculation is not None:
                self._speculation.close()

    def _admit(self) -> bool:
        """Waits until there is something to compute. False when the engine closes."""
        with self._changed:
            while True:
                if self._closed:
                    break
                self._drop_cancelled()
                while self._waiting and len(self._running) < self._slots and self._fits(self._waiting[0]):
                    answer = self._waiting.popleft()
                    # first: whatever fails from here on must reach its reader
                    self._running.append(answer)
                    # logits of a prompt exist only where it is computed: nothing of it may come from a cache
                    prompt = answer.tokens[:1] if answer.wants_prompt_logits else answer.tokens
                    answer.begin(self._caches.take(prompt, answer.tenant, answer.stored))
                    answer.stored = None
                if any(not answer.mailbox.full for answer in self._running):
                    return True
                self._changed.wait()
        self._end_all(_closing())
        return False

    def _fits(self, answer: Answer) -> bool:
        """Whether there are blocks for all its tokens, and one more for each answer, which would soon be missed.

        Who comes first is admitted first: a short prompt does not overtake a long one that waits for room.
        """
        needed = self._step.blocks_for(len(answer.tokens) + 1) + len(self._running)
        return not self._running or needed <= self._caches.available_blocks()

    def _make_room(self, plan: list[tuple[Answer, int]]) -> list[tuple[Answer, int]]:
        """The rows of ``plan`` that have blocks. Where there are too few, the answer that came last waits again.

        The first one always has enough, since the pool holds one whole context.
        """
        made = []
        for answer, rows in plan:
            while answer in self._running and answer.held is not None:
                if self._caches.ensure(answer.held, answer.computed + rows):
                    made.append((answer, rows))
                    break
                self._interrupt(self._running[-1])
        return [(answer, rows) for answer, rows in made if answer.held is not None]

    def _interrupt(self, answer: Answer) -> None:
        assert answer.held is not None  # noqa: S101 - for the type checker: running answers have begun
        self._running.remove(answer)
        if self._speculation is not None:
            # where it is cancelled while it waits, nothing else gives up its guess and the draft's cache
            self._speculation.forget(answer)
        self._caches.give_back(answer.held, keep=False)
        answer.interrupt()
        self.interrupted += 1
        with self._changed:
            self._waiting.appendleft(answer)

    def _drop_cancelled(self) -> None:
        self._waiting = deque(answer for answer in self._waiting if not answer.cancelled)
        for answer in [answer for answer in self._running if answer.cancelled]:
            self._leave(answer)

    def _compute(self) -> None:
        plan = self._make_room(list(self._plan()))
        drafts = self._drafts(plan)
        tokens: list[int] = []
        positions: list[int] = []
        caches: list[object] = []
        wanted: list[int] = []
        for answer, rows in plan:
            assert answer.held is not None  # noqa: S101 - for the type checker: running answers have begun
            start, draft = answer.computed, drafts.get(id(answer), ())
            tokens += [*answer.tokens[start : start + rows], *draft]
            positions += range(start, start + rows + len(draft))
            caches += [answer.held.memory] * (rows + len(draft))
            wanted += range(len(tokens) - _wanted_rows(answer, rows) - len(draft), len(tokens))
        began = self._clock()
        logits = self._step.run(tokens, positions, caches, wanted)
        seconds = self._clock() - began
        self._chunking.learn(len(tokens), seconds)
        if self._speculation is not None and all(answer.pending == 1 for answer, _ in plan):
            self._speculation.times.learn(len(tokens), seconds)
        self._distribute(plan, drafts, logits)

    def _drafts(self, plan: list[tuple[Answer, int]]) -> Mapping[int, Sequence[int]]:
        """Tokens to be checked beside the answers' own, by the answers' ids. None beside prompts: rows are not free."""
        if self._speculation is None or any(answer.pending != 1 for answer, _ in plan):
            return {}
        drafts = self._speculation.plan(answer for answer, _ in plan)
        held = {id(answer): answer.held for answer, _ in plan}
        # a draft is not worth another answer's memory
        return {
            key: draft
            for key, draft in drafts.items()
            if (cache := held[key]) is not None and self._step.reserve(cache.memory, len(cache.tokens) + 1 + len(draft))
        }

    def _plan(self) -> Iterator[tuple[Answer, int]]:
        """The next token of each running answer, and a chunk of the prompts in the order they came."""
        able = [answer for answer in self._running if not answer.mailbox.full]
        budget = self._chunking.rows(any(answer.pending == 1 for answer in able))
        budget = min(budget, self._step.max_rows - len(able))
        for answer in able:
            if answer.pending == 1:
                yield answer, 1
            elif budget > 0:
                rows = min(answer.pending, budget, MOST_PROMPT_LOGITS if answer.wants_prompt_logits else budget)
                budget -= rows
                yield answer, rows

    def _distribute(self, plan: list[tuple[Answer, int]], drafts: Mapping[int, Sequence[int]], logits: Any) -> None:
        at = 0
        for answer, rows in plan:
            complete, start, count = rows == answer.pending, answer.computed, _wanted_rows(answer, rows)
            draft = drafts.get(id(answer), ())
            mine, at = logits[at : at + count + len(draft)], at + count + len(draft)
            answer.computed_rows(rows)
            if not count:
                continue
            try:
                if answer.wants_prompt_logits:
                    answer.see_prompt(start, mine[:count])
                if complete:
                    self._take(answer, draft, mine[count - 1 :])
            except AppError as error:
                answer.fail(error)
                self._leave(answer)
            except Exception as error:
                log.exception("An answer failed")
                answer.fail(_failed(error))
                self._leave(answer)
            if answer.finished:
                self._leave(answer)

    def _take(self, answer: Answer, draft: Sequence[int], logits: Any) -> None:
        """The next token, and one more for each drafted token that was the right one."""
        begin = len(answer.tokens)
        answer.take(logits[0])
        for drafted, row in zip(draft, logits[1:], strict=True):
            if answer.finished or answer.tokens[-1] != drafted:
                break
            # its keys and values are in the cache already
            answer.computed_rows(1)
            answer.take(row)
        if self._speculation is not None:
            self._speculation.learn(answer, answer.tokens[begin:], len(draft))

    def _leave(self, answer: Answer) -> None:
        if answer in self._running:
            self._running.remove(answer)
            if self._speculation is not None:
                self._speculation.forget(answer)
            if answer.held is not None:
                self._caches.give_back(answer.held, answer.keep)

    def _end_all(self, error: AppError) -> None:
        with self._changed:
            self._closed = True
            for answer in [*self._running, *self._waiting]:
                answer.fail(error)
            self._running.clear()
            self._waiting.clear()


def _wanted_rows(answer: Answer, rows: int) -> int:
    """How many of the last of the answer's next ``rows`` rows need their logits."""
    return rows if answer.wants_prompt_logits else int(rows == answer.pending)


def _closing() -> ModelUnavailable:
    return ModelUnavailable("The local model is shutting down")


def _failed(cause: Exception) -> InternalError:
    return InternalError("The local model failed while it generated", details={"cause": type(cause).__name__})


class BatchingEngine:
    """Implements Engine. ``caches`` sequences are kept: one a slot, and the last answers for prompts that go on."""

    def __init__(
        self,
        step: Step,
        tokenizer: HubTokenizer,
        context_length: int,
        slots: int,
        caches: int,
        details: JsonObject,
        speculation: Speculation | None = None,
        store: PrefixStore | None = None,
    ) -> None:
        self.context_length = context_length
        self._tokenizer = tokenizer
        self._details = {"engine": "batching", **details, **step.describe()}
        # answers must not depend on it: only where a row's bits do not depend on the rows beside it
        self._speculation = speculation if step.rows_independent else None
        self._store = store
        self._scheduler = Scheduler(step, slots, caches, self._speculation, store)

    @property
    def failure(self) -> str | None:
        return self._scheduler.failure

    async def generate(self, prompt: Sequence[int], sampling: Sampling) -> AsyncGenerator[EngineOutput, None]:
        """Raises ModelUnavailable where the engine closes meanwhile, InternalError where the model fails."""
        mailbox = Mailbox(self._scheduler.wake)
        answer = Answer(prompt, sampling, self._tokenizer, mailbox)
        if self._store is not None and len(prompt) > BLOCK:
            known = self._scheduler.known(prompt, sampling.tenant)
            answer.stored = await asyncio.to_thread(self._store.load, sampling.tenant, prompt, known)
        self._scheduler.add(answer)
        try:
            while True:
                output = await mailbox.get()
                yield output
                if output.finish_reason is not None:
                    return
        finally:
            if not answer.finished:
                self._scheduler.cancel(answer)

    def progress(self) -> Progress:
        return self._scheduler.progress()

    def describe(self) -> JsonObject:
        speculation = {"speculation": "off"} if self._speculation is None else self._speculation.describe()
        return {**self._details, **speculation, "interrupted_answers": self._scheduler.interrupted}

    def close(self) -> None:
        self._scheduler.close()
        if self._store is not None:
            self._store.close()
