"""The local model as a ChatModel: loads in the background, admits, counts the context, streams.

Knows no torch: that is the engine's, behind the seam of engine/port.py.
"""

import asyncio
import logging
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from apps.core.deltas import Delta
from apps.core.errors import AppError, InternalError, ModelUnavailable
from apps.core.messages import ChatRequest
from apps.core.ports import Readiness, State, digest_of
from apps.core.settings import Settings
from apps.local.answer_grammar import answer_grammar, offered_tools, open_compiler
from apps.local.checkpoint import model_name
from apps.local.engine.port import Constraint
from apps.local.engine_exchange import (
    AnswerReader,
    LocalWindow,
    answer_limit,
    checked_tokens,
    sampling_of,
    thinking_budget,
    tokenized,
)
from apps.local.loading import FirstLoader, Loaded, Loader, LoadFailed, LocalLoader, NotConfigured
from apps.local.prompt import text_of
from apps.models.admission import Admission
from apps.models.capacity import ModelCapacity, Throughput

if TYPE_CHECKING:
    from apps.local.grammar import GrammarCompiler

log = logging.getLogger(__name__)

# what its answers depend on besides its name
REVISION = ("checkpoint", "engine", "precision", "kernels", "cache_type")
# a state that has lasted so long is taken to last as long again, within these seconds
SHORTEST_RETRY, LONGEST_RETRY = 1.0, 60.0
CLOSE_TIMEOUT = 1.5


class _Closed(Exception):
    """Ends the loading thread between two steps."""


class _Serving:
    """A loaded model with what is made of it, and the answers that run on it. The event loop's, but for `retire`.

    A model that another one has replaced is closed when its last answer has ended.
    """

    def __init__(self, loaded: Loaded) -> None:
        self.loaded = loaded
        self.grammars: GrammarCompiler | None = None
        self._lock = threading.Lock()
        self._answers = 0
        self._retired = False

    @contextmanager
    def answering(self) -> Iterator[None]:
        """Keep the model open for the block."""
        with self._lock:
            self._answers += 1
        try:
            yield
        finally:
            with self._lock:
                self._answers -= 1
                over = self._retired and not self._answers
            if over:
                # joins the engine's thread, which the event loop cannot wait for
                threading.Thread(target=self.close, name="local-model-close", daemon=True).start()

    def retire(self) -> None:
        """Close the model, now or with its last answer. Called by the thread that loaded the next one."""
        with self._lock:
            self._retired = True
            over = not self._answers
        if over:
            self.close()

    def close(self) -> None:
        """End all its answers. Blocks."""
        if self.grammars is not None:
            self.grammars.close()
        self.loaded.engine.close()


class LocalModel:
    """Implements ChatModel. ``load`` makes the engine, in a thread of its own; ``first`` what serves until then."""

    def __init__(
        self,
        settings: Settings,
        load: Loader | None = None,
        first: FirstLoader | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        loader = LocalLoader()
        self.admission = Admission(settings.local_slots, settings.local_queue_size, settings.local_queue_timeout)
        self._throughput = Throughput(clock)
        self._clock = clock
        self._since = clock()
        self._settings = settings
        self._requested = self._name = model_name(settings.local_model)
        self._load = loader.load if load is None else load
        self._first = loader.first if load is None else first
        self._serving: _Serving | None = None
        self._seconds_left: float | None = None
        self._bytes: tuple[int | None, int | None] = (None, None)
        self._state: State = "loading"
        self._reason = "Not started yet"
        self._thread: threading.Thread | None = None
        self._closed = threading.Event()
        self._publishing = threading.Lock()
        self._settled = asyncio.Event()

    @property
    def name(self) -> str:
        """Of the model that really answers; until one is loaded, of the one that was asked for."""
        return self._name

    def readiness(self) -> Readiness:
        details = {
            "slots": self.admission.slots,
            "running": self.admission.running,
            "waiting": self.admission.waiting,
            "queue_size": self.admission.queue_size,
            "predicted_wait": self.admission.predicted_wait(),
            "seconds_left": self._seconds_left,
            "loaded_bytes": self._bytes[0],
            "total_bytes": self._bytes[1],
        }
        if (serving := self._serving) is not None:
            engine = serving.loaded.engine
            details |= {**serving.loaded.details, **engine.describe(), "context_length": engine.context_length}
        state, reason = self._standing()
        return Readiness(self.name, state, reason, details, None if state == "ready" else self._retry_after())

    def capacity(self) -> ModelCapacity:
        """What it can take now; a fleet sends its calls by this."""
        state, reason = self._standing()
        engine = None if self._serving is None else self._serving.loaded.engine
        progress = None if engine is None else engine.progress()
        rate = self._throughput.rate()
        return ModelCapacity.model_construct(
            id=self.name,
            kind="chat",
            status=state,
            reason=reason,
            slots=self.admission.slots,
            running=self.admission.running,
            waiting=self.admission.waiting,
            queue_size=self.admission.queue_size,
            tokens_per_second=None if rate is None else round(rate, 2),
            context=None if engine is None else engine.context_length,
            revision=self._revision(),
            predicted_wait=round(self.admission.predicted_wait(), 3),
            retry_after=None if state == "ready" else round(self._retry_after(), 1),
            steps=None if progress is None else progress.steps,
            stalled=None if progress is None else round(progress.stalled, 3),
        )

    def control_texts(self) -> list[str] | None:
        """Texts that its tokenizer reads as more than text; None until one is loaded."""
        return None if self._serving is None else sorted(self._serving.loaded.tokenizer.control_texts())

    def revision(self, request: ChatRequest) -> str | None:
        """None until it is loaded: which model will answer is not known yet."""
        return self._revision()

    def _revision(self) -> str | None:
        if self._serving is None:
            return None
        loaded = self._serving.loaded
        details = {**loaded.details, **loaded.engine.describe()}
        return digest_of(loaded.name, *(details.get(name) for name in REVISION))

    async def start(self) -> None:
        if self._thread is not None:
            return
        loop = asyncio.get_running_loop()
        # a daemon: a load cannot be interrupted, and must not keep the process from ending
        self._reason = "Loading has begun"
        self._thread = threading.Thread(target=self._run, args=(loop,), name="local-model-load", daemon=True)
        self._thread.start()

    async def settled(self) -> Readiness:
        """Wait until loading has ended, well or not. Any number may wait."""
        await self._settled.wait()
        return self.readiness()

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Delta, None]:
        """Raises ModelUnavailable, Overloaded, or InvalidValue before the first delta."""
        serving = self._require_serving()
        with serving.answering():
            async with aclosing(self._answer(serving, request)) as deltas:
                async for delta in deltas:
                    yield delta

    async def _answer(self, serving: _Serving, request: ChatRequest) -> AsyncGenerator[Delta, None]:
        loaded = serving.loaded
        if not request.joins:
            self.admission.check()
        tools = offered_tools(request)
        prompt = await tokenized(loaded, request, tools)
        constraint, thinking = await self._constraint(serving, request), thinking_budget(loaded, request, prompt)
        sampling = replace(sampling_of(request, loaded.tokenizer), constraint=constraint, thinking=thinking)
        limit = answer_limit(request, len(prompt), sampling.max_tokens, loaded.engine.context_length)
        sampling = replace(sampling, max_tokens=limit)
        reading = AnswerReader(loaded, request, prompt, tools=bool(tools))
        waiting_since = time.perf_counter()
        async with (
            self.admission.slot(joins=request.joins),
            aclosing(loaded.engine.generate(prompt, sampling)) as outputs,
        ):
            if request.record is not None:
                request.record.queued += time.perf_counter() - waiting_since
            counted = 0
            self._throughput.begin()
            try:
                async for output in outputs:
                    self._throughput.count(output.completion_tokens - counted)
                    counted = output.completion_tokens
                    yield reading.delta(output)
            except ModelUnavailable as error:
                # the engine knows that it ends, and not for how long
                error.retry_after = error.retry_after or self._retry_after()
                raise
            except AppError:
                raise
            except Exception as error:
                raise InternalError("The local model failed", details={"cause": type(error).__name__}) from error
            finally:
                self._throughput.end()

    async def tokenize(self, request: ChatRequest, *, special: bool = True) -> list[int]:
        """The prompt's tokens, as a call with this request would have them. Raises as ``stream``."""
        loaded = self._require_serving().loaded
        if request.raw and not special:
            return await asyncio.to_thread(loaded.tokenizer.encode_text, "".join(map(text_of, request.messages)))
        return await tokenized(loaded, request, offered_tools(request))

    async def pieces(self, tokens: Sequence[int]) -> list[str]:
        """Each token by itself, special ones by their names. Raises ModelUnavailable, InvalidValue."""
        tokenizer = self._require_serving().loaded.tokenizer
        known = checked_tokens(tokens, tokenizer.vocabulary_size)
        return await asyncio.to_thread(lambda: list(map(tokenizer.piece, known)))

    async def detokenize(self, tokens: Sequence[int]) -> str:
        """The text of ``tokens``, special ones by their names. Raises ModelUnavailable, InvalidValue."""
        tokenizer = self._require_serving().loaded.tokenizer
        return await asyncio.to_thread(tokenizer.decode_all, checked_tokens(tokens, tokenizer.vocabulary_size))

    async def window(self, request: ChatRequest) -> LocalWindow:
        """What fits into one call. Raises ModelUnavailable."""
        loaded = self._require_serving().loaded
        return LocalWindow(loaded.tokenizer, loaded.engine.context_length)

    async def aclose(self) -> None:
        """Ends every generation. A load that runs on is left to itself: its thread frees what it made."""
        with self._publishing:
            self._closed.set()
            serving, self._serving = self._serving, None
            self._state, self._reason = "failed", "The local model is shutting down"
            self._since = self._clock()
        self._settled.set()
        if serving is not None:
            await asyncio.to_thread(serving.close)
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join, CLOSE_TIMEOUT)

    async def _constraint(self, serving: _Serving, request: ChatRequest) -> Constraint | None:
        """What the answer is held to; None where any text will do."""
        grammar = answer_grammar(request)
        if grammar is None:
            return None
        if serving.grammars is None:
            made = await asyncio.to_thread(open_compiler, serving.loaded.tokenizer)
            # another call may have been faster
            serving.grammars = serving.grammars or made
        return await serving.grammars.compile(grammar.lark, grammar.field, own=grammar.own)

    def _standing(self) -> tuple[State, str]:
        """The state now, and why: a model that was loaded well may fail later."""
        failure = self._serving.loaded.engine.failure if self._serving is not None else None
        return (self._state, self._reason) if failure is None else ("failed", failure)

    def _retry_after(self) -> float:
        """Seconds until it may answer: what loading has left, else as long again as it has not been able to."""
        if self._seconds_left is not None:
            return max(SHORTEST_RETRY, self._seconds_left)
        return min(LONGEST_RETRY, max(SHORTEST_RETRY, self._clock() - self._since))

    def _require_serving(self) -> _Serving:
        state, reason = self._standing()
        if self._serving is None or state == "failed":
            raise ModelUnavailable(
                f"The local model cannot answer ({state.replace('_', ' ')}): {reason}",
                details={"state": state, "model": self.name},
                retry_after=self._retry_after(),
            )
        return self._serving

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        """The loading thread."""
        started = time.monotonic()
        try:
            if self._first is not None and (first := self._first(self._settings, self._report)) is not None:
                self._publish("ready", f"Answers until {self._requested} is here", first)
            loaded = self._load(self._settings, self._report)
        except _Closed:
            return
        except NotConfigured as error:
            self._publish("not_configured", str(error))
        except LoadFailed as error:
            self._publish("failed", str(error))
        except Exception as error:
            log.exception("The local model cannot be loaded")
            self._publish("failed", f"Loading ended with {type(error).__name__}: {error}")
        else:
            self._publish("ready", f"Loaded in {time.monotonic() - started:.1f} s", loaded)
        try:
            loop.call_soon_threadsafe(self._settled.set)
        except RuntimeError:
            log.debug("The loop ended before the load did")

    def _report(
        self, step: str, seconds_left: float | None = None, done: int | None = None, total: int | None = None
    ) -> None:
        if self._closed.is_set():
            raise _Closed
        self._seconds_left, self._bytes = seconds_left, (done, total)
        meanwhile = f"Answers until {self._requested} is here; " if self._serving is not None else ""
        self._reason = f"{meanwhile}{'s' if meanwhile else 'S'}till {step}"

    def _publish(self, state: State, reason: str, loaded: Loaded | None = None) -> None:
        """Let a loaded model serve in place of the one before, or none with a reason."""
        before: _Serving | None = None
        made = None if loaded is None else _Serving(loaded)
        with self._publishing:
            if not self._closed.is_set():
                before, self._serving = self._serving, made
                if before is not None and loaded is not None and before.loaded.engine is loaded.engine:
                    # the same model stays, with other details; what runs on it knows the holder of before
                    before.loaded = loaded
                    self._serving, before = before, None
                self._state, self._reason, self._seconds_left, self._bytes = state, reason, None, (None, None)
                self._since = self._clock()
                self._name = self._requested if loaded is None else loaded.name
                made = None
                if state != "ready":
                    log.warning("The local model is %s: %s", state.replace("_", " "), reason)
        if before is not None:
            before.retire()
        if made is not None:
            made.close()
