"""The Engine on top of the scheduler: many answers at a time, each an async stream of outputs."""

import asyncio
from collections.abc import AsyncGenerator, Sequence

from apps.core.messages import JsonObject
from apps.local.engine.batching.answer import Answer, Mailbox
from apps.local.engine.batching.prefix_cache import BLOCK, PrefixStore
from apps.local.engine.batching.scheduler import Scheduler
from apps.local.engine.batching.speculation import Speculation
from apps.local.engine.batching.step import Step
from apps.local.engine.port import EngineOutput, Progress, Sampling
from apps.local.tokenizer import HubTokenizer


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
