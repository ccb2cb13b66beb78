"""transformers' own `model.generate`, a thread a generation: runs every checkpoint that transformers knows.

Not the fast way: callers share nothing but the weights and take turns at each forward pass. It is what serves
where the batching engine cannot.
"""

import threading
from collections.abc import AsyncGenerator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from apps.core.cpu import Choice, available_cpus
from apps.core.errors import AppError, InternalError, ModelUnavailable
from apps.core.messages import JsonObject
from apps.local.engine.plain.sampler import SeededSampler
from apps.local.engine.plain.streaming import Bridge, Cancelled, PieceStreamer
from apps.local.engine.port import Piece, Sampling
from apps.local.tokenizer import HubTokenizer


class PlainEngine:
    """Implements Engine. ``slots`` generations run at the same time; more wait for a thread."""

    def __init__(self, model: Any, tokenizer: HubTokenizer, slots: int, choice: Choice) -> None:
        import torch

        self.context_length = int(model.config.max_position_embeddings)
        self._model = model
        self._tokenizer = tokenizer
        self._choice = choice
        self._threads = available_cpus()
        # the number of threads is a property of the thread that calls torch
        self._pool = ThreadPoolExecutor(
            slots, "local-model", initializer=torch.set_num_threads, initargs=(self._threads,)
        )
        self._running: set[Bridge] = set()
        self._current = threading.local()
        self._closed = False
        for module in self._interruptible():
            module.register_forward_pre_hook(self._stop_if_cancelled)

    async def generate(self, prompt: Sequence[int], sampling: Sampling) -> AsyncGenerator[Piece, None]:
        """Raises ModelUnavailable where the engine closes meanwhile, InternalError where `generate` dies."""
        if self._closed:
            raise _closing()
        bridge = Bridge()
        try:
            work = self._pool.submit(self._run, bridge, list(prompt), sampling)
        except RuntimeError as error:
            raise _closing() from error
        self._running.add(bridge)
        try:
            while (piece := await bridge.get()) is not None:
                yield piece
            if bridge.cancelled.is_set():
                raise _closing()
        finally:
            bridge.cancel()
            self._running.discard(bridge)
            # the slot is free when the thread is, not before: that is at the next layer of the model
            if not work.cancel():
                await bridge.ended.wait()

    @property
    def failure(self) -> str | None:
        """Each generation fails for itself."""
        return None

    def describe(self) -> JsonObject:
        return {
            "engine": "plain",
            "precision": self._choice.precision,
            "precision_reason": self._choice.reason,
            "kernels": "transformers generate",
            "threads": self._threads,
            "weights_bytes": _weights_bytes(self._model),
        }

    def close(self) -> None:
        self._closed = True
        for bridge in list(self._running):
            bridge.cancel()
        # what still waits for a thread runs too: it sees that it is cancelled, and tells its reader
        self._pool.shutdown(wait=True)

    def _run(self, bridge: Bridge, prompt: list[int], sampling: Sampling) -> None:
        """In a thread of the pool: one whole generation. Whatever happens, the reader hears of the end."""
        error: AppError | None = None
        try:
            if bridge.cancelled.is_set():
                return
            self._current.bridge = bridge
            self._generate(bridge, prompt, sampling)
        except Cancelled:
            pass
        except AppError as refusal:
            error = refusal
        except Exception as cause:
            error = InternalError("The local model failed while it generated", details={"cause": type(cause).__name__})
            error.__cause__ = cause
        finally:
            self._current.bridge = None
            bridge.end(error)

    def _generate(self, bridge: Bridge, prompt: list[int], sampling: Sampling) -> None:
        import torch
        from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList

        tokenizer = self._tokenizer
        streamer = PieceStreamer(bridge.put, tokenizer.decode, tokenizer.end_tokens, sampling, tokenizer.token_bytes)
        processors: list[Any] = []
        if sampling.constraint is not None or sampling.top_logprobs is not None:
            processors.append(_Seeing(streamer))
        if sampling.temperature > 0:
            processors.append(SeededSampler(sampling))
        tokens = torch.tensor([prompt])
        self._model.generate(
            tokens,
            attention_mask=torch.ones_like(tokens),
            generation_config=GenerationConfig(
                max_new_tokens=sampling.max_tokens,
                do_sample=False,
                eos_token_id=sorted(tokenizer.end_tokens) or None,
                pad_token_id=tokenizer.pad_token,
            ),
            logits_processor=LogitsProcessorList(processors),
            stopping_criteria=StoppingCriteriaList([_Stop(bridge.cancelled, streamer)]),
            streamer=streamer,
        )

    def _interruptible(self) -> Iterator[Any]:
        """The model's layers: a long prompt is one forward pass, too long to wait for its end."""
        import torch

        for module in self._model.modules():
            if isinstance(module, torch.nn.ModuleList):
                yield from module

    def _stop_if_cancelled(self, module: Any, arguments: Any) -> None:
        bridge: Bridge | None = getattr(self._current, "bridge", None)
        if bridge is not None and bridge.cancelled.is_set():
            raise Cancelled


class _Seeing:
    """A logits processor of transformers, the first one: shows the streamer each row and takes what it leaves."""

    def __init__(self, streamer: PieceStreamer) -> None:
        self._streamer = streamer

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        import torch

        return torch.from_numpy(self._streamer.see(scores[0].float().numpy())).unsqueeze(0)


class _Stop:
    """A stopping criterion of transformers, asked after each token: the reader is gone, or the answer is whole."""

    def __init__(self, cancelled: threading.Event, streamer: PieceStreamer) -> None:
        self._cancelled = cancelled
        self._streamer = streamer

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        import torch

        stop = self._cancelled.is_set() or self._streamer.stopped
        return torch.full((input_ids.shape[0],), stop, dtype=torch.bool)


def _closing() -> ModelUnavailable:
    return ModelUnavailable("The local model is shutting down", retry_after=5)


def _weights_bytes(model: Any) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
