"""From a checkpoint's folder to a running engine: precision, kernels, weights, memory."""

import ctypes
import importlib.util
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from apps.core.process import available_cpus, import_once
from apps.local.engine.batching.drafting import DraftModel
from apps.local.engine.batching.packed_cache import Packer, Progress, load_weights, weights_name
from apps.local.engine.batching.prefix_cache import PrefixStore
from apps.local.engine.batching.scheduler import BatchingEngine
from apps.local.engine.batching.shape import Shape, read_shape
from apps.local.engine.batching.speculation import Speculation
from apps.local.engine.batching.step import LARGEST, Step
from apps.local.engine.kernel.build import Variant, build, cpu_flags, usable_variants
from apps.local.engine.kernel.library import compiler_of, load_library
from apps.local.engine.kernel.native_step import NativeStep, cache_bytes, cache_type_of
from apps.local.engine.port import NoKernel, Precision, UnsupportedModel, UnusableDraft, choose_precision
from apps.local.tokenizer import HubTokenizer

if TYPE_CHECKING:
    from apps.local.engine.batching.torch_step import TorchStep

log = logging.getLogger(__name__)

SPARE_CACHES = 2
LEAST_CONTEXT = 256
# a guess need not be exact, whatever the model's own precision is
DRAFT_PRECISION = "int4"
# of a weight, with its group's scale: what a step of one row reads
BYTES = {"int4": 0.625, "int8": 1.125, "bf16": 2.0, "fp32": 4.0}
# the kernels' blocks of positions
CACHE_BLOCK = 64


@dataclass(frozen=True, slots=True)
class Library:
    """The kernels for this CPU: which, their functions, the name of their build, and why they."""

    name: str
    functions: ctypes.CDLL
    build: str
    reason: str


@dataclass(frozen=True, slots=True)
class Memory:
    """``caches`` sequences of at most ``context_length`` tokens, ``tokens`` together, take at most ``most_bytes``."""

    caches: int
    context_length: int
    tokens: int
    most_bytes: int


@dataclass(frozen=True, slots=True)
class Options:
    """What is computed how: speed and memory, and with ``kv`` int8 a little of the answers' quality.

    ``kv`` as LOCAL_KV; ``cache_bytes`` bound keys and values in memory, 0: half of what is free does.
    ``speculation``: drafts are checked where that is faster; ``draft`` is the folder of a model that drafts, of the
    same tokenizer. At most ``prefix_bytes`` of keys and values are kept on disk for prompts that begin alike.
    """

    speculation: bool = True
    prefix_bytes: int = 0
    draft: Path | None = None
    kv: Literal["auto", "int8"] = "auto"
    cache_bytes: int = 0


def open_engine(
    folder: Path,
    tokenizer: HubTokenizer,
    precision: Precision,
    slots: int,
    cache_dir: Path,
    options: Options = Options(),
    progress: Progress = lambda *_: None,
) -> BatchingEngine:
    """Blocks: for a fraction of a second where kernels and packed weights are in the cache folder already.

    ``precision`` as LOCAL_PRECISION; auto is int4. ``progress`` takes how far the packing of the weights is, and may
    raise to end it. Without the kernels torch's own serve, in float32 or bfloat16.
    Raises UnsupportedModel for a checkpoint that is not of the shape, UnusableDraft for a draft's that is not.
    """
    shape = read_shape(folder)
    chosen: str = "int4" if precision == "auto" else precision
    reason = f"LOCAL_PRECISION={precision}"
    missing: str | None = None
    kernels_reason = ""
    store: PrefixStore | None = None
    drafting = Speculation() if options.speculation else None
    step: Step
    try:
        if any(shape.windows):
            raise NoKernel("its attention slides over a window")
        library = own_library(cache_dir)
    except NoKernel as error:
        missing = str(error)
        if importlib.util.find_spec("torch") is None:
            raise UnsupportedModel(f"the kernels cannot be had ({missing}), and torch is not installed") from error
        kernels_reason = "the project's kernels cannot be had"
        log.warning("The project's own kernels cannot serve: %s. torch's kernels serve instead, slower", missing)
        torch_step, multiplies_bf16 = import_once(load_torch_step)
        chosen, reason = _without_kernels(precision, shape, native_bf16=multiplies_bf16())
        a_token = cache_bytes(shape, "float32")
        memory = plan_memory(shape, a_token, slots, free_bytes(), options.cache_bytes, whole=True)
        threads = available_cpus()
        step = torch_step(folder, shape, chosen, memory.context_length, threads, LARGEST + slots)
    else:
        cache_type = cache_type_of(chosen, options.kv)
        memory = plan_memory(shape, cache_bytes(shape, cache_type), slots, free_bytes(), options.cache_bytes)
        caches = Caches(memory.context_length, memory.tokens, cache_type)
        step = open_step(folder, chosen, cache_dir, library, caches, slots, progress)
        kernels_reason = library.reason
        if drafting is not None and options.draft is not None:
            try:
                model = _open_draft(options, shape, chosen, slots, cache_dir, library, memory, progress)
            except BaseException:
                step.close()
                raise
            drafting = Speculation(model)
        if options.prefix_bytes:
            identity = f"{weights_name(folder, shape, chosen)} {library.build} {cache_type}"
            store = PrefixStore(cache_dir / "prefixes", identity, options.prefix_bytes)
    details = {
        "precision": chosen,
        "precision_reason": reason,
        "kernels_missing": missing,
        "kernels_reason": kernels_reason,
        "slots": slots,
        "cached_sequences": memory.caches,
        "cache_bytes_at_most": memory.most_bytes,
        "prefix_bytes_on_disk_at_most": options.prefix_bytes if store is not None else 0,
    }
    _check_first_pass(step)
    return BatchingEngine(step, tokenizer, memory.context_length, slots, memory.caches, details, drafting, store)


def _open_draft(
    options: Options,
    target: Shape,
    precision: str,
    slots: int,
    cache_dir: Path,
    library: Library,
    taken: Memory,
    progress: Progress,
) -> DraftModel:
    """The model that drafts, in the memory that the large one's caches leave. Raises UnusableDraft."""
    folder, cache_type = options.draft, cache_type_of(DRAFT_PRECISION, options.kv)
    assert folder is not None  # noqa: S101 - for the type checker: without one nothing is opened
    try:
        shape, free = read_shape(folder), free_bytes()
        if any(shape.windows):
            raise UnsupportedModel("its attention slides over a window")
        left = None if free is None else max(0, free - taken.most_bytes)
        memory = plan_memory(shape, cache_bytes(shape, cache_type), slots, left, options.cache_bytes)
        context = min(memory.context_length, taken.context_length)
        caches = Caches(context, memory.tokens, cache_type)
        step = open_step(folder, DRAFT_PRECISION, cache_dir, library, caches, slots, progress)
        _check_first_pass(step)
    except UnsupportedModel as error:
        raise UnusableDraft(str(error)) from error
    share = shape.parameters * BYTES[DRAFT_PRECISION] / (target.parameters * BYTES[precision])
    return DraftModel(step, context, target.vocabulary, memory.caches, share, known=shape.vocabulary)


def _check_first_pass(step: Step) -> None:
    """Raises UnsupportedModel where the logits of one token are not finite: the weights are damaged."""
    cache = step.new_cache()
    logits = step.run([0], [0], [cache], [0])
    step.release(cache, 0)
    if not np.isfinite(logits).all():
        step.close()
        raise UnsupportedModel("its first forward pass gives logits that are not finite")


def own_library(cache_dir: Path, variants: Sequence[Variant] | None = None) -> Library:
    """The best that works: built, loaded, permitted, and right in its self check. Raises NoKernel."""
    refused: list[str] = []
    for variant in usable_variants(cpu_flags()) if variants is None else variants:
        try:
            built = build(variant, cache_dir)
            functions = load_library(built)
        except NoKernel as error:
            refused.append(str(error))
            log.warning("The kernels %s cannot serve: %s", variant.name, error)
            continue
        better = "".join(f"; not better ones: {why}" for why in dict.fromkeys(refused))
        reason = f"the best that this CPU runs, compiled by {compiler_of(functions)}{better}"
        return Library(variant.name, functions, built.stem, reason)
    raise NoKernel("; ".join(dict.fromkeys(refused)))


@dataclass(frozen=True, slots=True)
class Caches:
    """Of a step: the longest sequence, the tokens of all together, and what their keys and values are kept in."""

    context_length: int = 1024
    tokens: int | None = None
    cache_type: str | None = None


def open_step(
    folder: Path,
    precision: str,
    cache_dir: Path,
    library: Library,
    caches: Caches = Caches(),
    slots: int = 0,
    progress: Progress = lambda *_: None,
) -> NativeStep:
    """The arithmetic alone, on the project's kernels. Raises UnsupportedModel, and what ``progress`` raises."""
    shape, threads = read_shape(folder), available_cpus()
    weights = load_weights(folder, shape, precision, cache_dir, Packer(library.functions, threads, progress))
    return NativeStep(
        library.functions,
        library.name,
        shape,
        weights,
        caches.context_length,
        threads,
        LARGEST + slots,
        caches.tokens,
        caches.cache_type,
    )


def _without_kernels(requested: Precision, shape: Shape, *, native_bf16: bool) -> tuple[str, str]:
    if requested == "bf16" or requested == "fp32":
        chosen = choose_precision(requested, shape.parameters, native_bf16=native_bf16)
        return chosen.precision, chosen.reason
    chosen = choose_precision("auto", shape.parameters, native_bf16=native_bf16)
    return chosen.precision, f"LOCAL_PRECISION={requested} without the project's kernels; {chosen.reason}"


def load_torch_step() -> "tuple[type[TorchStep], Callable[[], bool]]":
    from apps.local.engine.batching.torch_step import TorchStep, multiplies_bf16

    return TorchStep, multiplies_bf16


def plan_memory(
    shape: Shape, bytes_a_token: int, slots: int, free: int | None, most: int = 0, whole: bool = False
) -> Memory:
    """The model's whole context for each slot, or as much together as ``most`` and half of the ``free`` bytes hold.

    One sequence may take all of it, unless caches are ``whole`` sequences: then each has its part.
    Raises UnsupportedModel where that is next to nothing.
    """
    caches, context = slots + SPARE_CACHES, shape.context_length
    tokens = caches * -(-context // CACHE_BLOCK) * CACHE_BLOCK
    for limit in (most or None, None if free is None else free // 2):
        if limit is not None:
            tokens = min(tokens, limit // bytes_a_token // CACHE_BLOCK * CACHE_BLOCK)
    context = min(context, tokens // caches // 16 * 16 if whole else tokens)
    if context < min(LEAST_CONTEXT, shape.context_length):
        raise UnsupportedModel(f"there is memory for {tokens} tokens only in {caches} caches")
    if context < shape.context_length:
        log.warning("Memory allows a context of %d tokens, the model has %d", context, shape.context_length)
    if tokens < slots * context:
        log.info("Keys and values of %d tokens fit into memory: %d slots share them", tokens, slots)
    return Memory(caches, context, tokens, tokens * bytes_a_token)


def free_bytes() -> int | None:
    """Memory that is free by the machine's account and the cgroup's limit; None where neither can be read."""
    known = []
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        known += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    except OSError:
        if hasattr(os, "sysconf") and "SC_AVPHYS_PAGES" in os.sysconf_names:
            known.append(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for file in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            known.append(int((Path("/sys/fs/cgroup") / file).read_text()))
        except (OSError, ValueError):
            continue
    return min(known, default=None)
