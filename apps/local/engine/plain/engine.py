"""transformers' own `model.generate`, a thread a generation: runs every checkpoint that transformers knows.

Not the fast way: callers share nothing but the weights and take turns at each forward pass. It is what serves
where the batching engine cannot. A checkpoint's folder is read in the loading thread, which imports torch and
transformers.
"""

import json
import logging
import math
import struct
import threading
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, GenerationConfig, LogitsProcessorList, StoppingCriteriaList
from transformers.utils import logging as transformers_logging

from apps.core.deltas import TokenLogprob
from apps.core.errors import AppError, InternalError, ModelUnavailable
from apps.core.messages import JsonObject
from apps.core.process import available_cpus
from apps.local.checkpoint import CheckpointError
from apps.local.engine.decoding import LogprobRecorder, OutputProcessor, Sampler
from apps.local.engine.plain.streamer import Cancelled, OutputStreamer
from apps.local.engine.port import ChosenPrecision, EngineOutput, Precision, Progress, Sampling, choose_precision
from apps.local.tokenizer import HubTokenizer

# of a checkpoint that says nothing: what the models with ALiBi were trained on
CONTEXT_WITHOUT_POSITIONS = 2048


class PlainEngine:
    """Implements Engine. ``slots`` generations run at the same time; more wait for a thread."""

    def __init__(self, model: Any, tokenizer: HubTokenizer, slots: int, chosen: ChosenPrecision) -> None:
        self.context_length = _context_length(model.config)
        self._model = model
        self._tokenizer = tokenizer
        self._chosen = chosen
        self._threads = available_cpus()
        # the number of threads is a property of the thread that calls torch
        self._pool = ThreadPoolExecutor(
            slots, "local-model", initializer=torch.set_num_threads, initargs=(self._threads,)
        )
        self._running: set[OutputStreamer] = set()
        self._current = threading.local()
        self._closed = False
        # a layer of any generation is a step
        self._steps, self._stepped_at = 0, 0.0
        for module in self._interruptible():
            module.register_forward_pre_hook(self._stop_if_cancelled)

    async def generate(self, prompt: Sequence[int], sampling: Sampling) -> AsyncGenerator[EngineOutput, None]:
        """Raises ModelUnavailable where the engine closes meanwhile, InternalError where `generate` dies."""
        if self._closed:
            raise _closing()
        tokenizer = self._tokenizer
        output = OutputProcessor(tokenizer.decode, tokenizer.end_tokens, sampling, tokenizer.token_bytes)
        streamer = OutputStreamer(output)
        try:
            work = self._pool.submit(self._run, streamer, output, list(prompt), sampling)
        except RuntimeError as error:
            raise _closing() from error
        if not self._running:
            self._stepped_at = time.monotonic()
        self._running.add(streamer)
        try:
            async for part in streamer:
                yield part
            if streamer.cancelled.is_set():
                raise _closing()
        finally:
            streamer.cancel()
            self._running.discard(streamer)
            # the slot is free when the thread is, not before: that is at the next layer of the model
            if not work.cancel():
                await streamer.ended.wait()

    @property
    def failure(self) -> str | None:
        """Each generation fails for itself."""
        return None

    def progress(self) -> Progress:
        return Progress(self._steps, time.monotonic() - self._stepped_at if self._running else 0.0)

    def describe(self) -> JsonObject:
        return {
            "engine": "plain",
            "precision": self._chosen.precision,
            "precision_reason": self._chosen.reason,
            "kernels": "transformers generate",
            "threads": self._threads,
            "weights_bytes": _weights_bytes(self._model),
        }

    def close(self) -> None:
        self._closed = True
        for streamer in list(self._running):
            streamer.cancel()
        # what still waits for a thread runs too: it sees that it is cancelled, and ends its reader
        self._pool.shutdown(wait=True)

    def _run(self, streamer: OutputStreamer, output: OutputProcessor, prompt: list[int], sampling: Sampling) -> None:
        """In a thread of the pool: one whole generation. Whatever happens, the reader hears of the end."""
        error: AppError | None = None
        try:
            if streamer.cancelled.is_set():
                return
            self._current.streamer = streamer
            self._generate(streamer, output, prompt, sampling)
        except Cancelled:
            pass
        except AppError as refusal:
            error = refusal
        except Exception as cause:
            error = InternalError("The local model failed while it generated", details={"cause": type(cause).__name__})
            error.__cause__ = cause
        finally:
            self._current.streamer = None
            streamer.finish(error)

    def _generate(
        self, streamer: OutputStreamer, output: OutputProcessor, prompt: list[int], sampling: Sampling
    ) -> None:
        tokens = torch.tensor([prompt])
        if sampling.prompt_logprobs is not None:
            output.prompt_logprobs = self._prompt_logprobs(tokens, sampling.prompt_logprobs)
        if sampling.max_tokens == 0:
            streamer.send(output.without_tokens())
            return
        sampler = Sampler(sampling, prompt, self._tokenizer.end_tokens)
        self._model.generate(
            tokens,
            attention_mask=torch.ones_like(tokens),
            generation_config=GenerationConfig(
                max_new_tokens=sampling.max_tokens,
                do_sample=False,
                eos_token_id=sorted(self._tokenizer.end_tokens) or None,
                pad_token_id=self._tokenizer.pad_token,
            ),
            logits_processor=LogitsProcessorList([_Choosing(sampler, streamer)]),
            stopping_criteria=StoppingCriteriaList([_Stop(streamer)]),
            streamer=streamer,
        )

    def _prompt_logprobs(self, tokens: Any, top: int) -> tuple[TokenLogprob, ...]:
        recorder = LogprobRecorder(top, self._tokenizer.token_bytes)
        with torch.inference_mode():
            rows = self._model(tokens).logits[0, :-1]
        known = [recorder.first(int(tokens[0, 0]))]
        for row, token in zip(rows, tokens[0, 1:].tolist(), strict=True):
            known.append(recorder.entry(row.float().numpy(), token, ranked=True))
        return tuple(known)

    def _interruptible(self) -> Iterator[Any]:
        """The model's layers: a long prompt is one forward pass, too long to wait for its end."""
        for module in self._model.modules():
            if isinstance(module, torch.nn.ModuleList):
                yield from module

    def _stop_if_cancelled(self, module: Any, arguments: Any) -> None:
        self._steps += 1
        self._stepped_at = time.monotonic()
        streamer: OutputStreamer | None = getattr(self._current, "streamer", None)
        if streamer is not None and streamer.cancelled.is_set():
            raise Cancelled


class _Choosing:
    """A logits processor of transformers that leaves `generate` one token: the sampler's.

    `generate` itself would draw from torch's global generator, which all threads share: the same seed would give
    another answer beside other calls.
    """

    def __init__(self, sampler: Sampler, streamer: OutputStreamer) -> None:
        self._sampler = sampler
        self._streamer = streamer

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        logits = scores[0].float().numpy()
        token = self._sampler.choose(logits)
        self._streamer.chosen(token, logits, self._sampler.finished)
        row = torch.full_like(scores, float("-inf"))
        row[0, token] = 0
        return row


class _Stop:
    """A stopping criterion of transformers, asked after each token."""

    def __init__(self, streamer: OutputStreamer) -> None:
        self._streamer = streamer

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        return torch.full((input_ids.shape[0],), self._streamer.stopped, dtype=torch.bool)


def _context_length(config: Any) -> int:
    """Tokens that the model was made for. ALiBi has no positions: such a checkpoint says how long its texts were."""
    for name in ("max_position_embeddings", "seq_length", "max_seq_len", "n_positions", "n_ctx"):
        length = getattr(config, name, None)
        if isinstance(length, int) and length > 0:
            return length
    return CONTEXT_WITHOUT_POSITIONS


def _closing() -> ModelUnavailable:
    return ModelUnavailable("The local model is shutting down")


def _weights_bytes(model: Any) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())


log = logging.getLogger(__name__)


class CheckpointBroken(CheckpointError):
    """The files are there but make no model; the message says what is wrong with them."""


def load_plain_engine(folder: Path, tokenizer: HubTokenizer, precision: Precision, slots: int) -> PlainEngine:
    """Raises CheckpointBroken; never runs code from the checkpoint and never reads pickled weights."""
    parameters = count_parameters(folder)
    transformers_logging.disable_progress_bar()
    chosen = choose_precision(precision, parameters, native_bf16=torch.cpu._is_avx512_bf16_supported())
    if precision not in ("auto", chosen.precision):
        log.warning("%s", chosen.reason)
    dtype = torch.bfloat16 if chosen.precision == "bf16" else torch.float32
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            str(folder),
            dtype=dtype,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except Exception as error:
        raise CheckpointBroken(f"{folder} cannot be loaded: {type(error).__name__}: {error}") from error
    if missing := sorted(report["missing_keys"]):
        # transformers fills these with random numbers and goes on
        raise CheckpointBroken(f"{folder} lacks weights: {', '.join(missing[:3])} and {len(missing)} in all")
    model.eval()
    _check_finite(folder, model)
    # a checkpoint's own sampling defaults must not mix with what a caller asks for
    model.generation_config = GenerationConfig()
    return PlainEngine(model, tokenizer, slots, chosen)


def _check_finite(folder: Path, model: Any) -> None:
    """Raises CheckpointBroken for weights, or logits of a first forward pass, that are not finite."""
    for name, values in model.named_parameters():
        if not torch.isfinite(values).all():
            raise CheckpointBroken(f"{folder} is damaged: {name} has values that are not finite")
    with torch.inference_mode():
        logits = model(torch.zeros((1, 1), dtype=torch.long)).logits
    if not torch.isfinite(logits).all():
        raise CheckpointBroken(f"{folder} is damaged: a first forward pass gives logits that are not finite")


def count_parameters(folder: Path) -> int:
    """Numbers in all safetensors files, from their headers alone. Raises CheckpointBroken for a broken header."""
    count = 0
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with file.open("rb") as stream:
                (length,) = struct.unpack("<Q", stream.read(8))
                if length > file.stat().st_size:
                    raise ValueError("its header is longer than the file")
                header = json.loads(stream.read(length))
            count += sum(math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")
        except (OSError, ValueError, KeyError, struct.error, AttributeError, TypeError) as error:
            raise CheckpointBroken(f"{file} is not a safetensors file: {error}") from error
    return count
