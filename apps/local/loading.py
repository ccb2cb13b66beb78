"""From the settings to a model that can answer: the chain of steps that the loading thread walks."""

import gc
import importlib.util
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from apps.core.messages import JsonObject
from apps.core.process import import_once
from apps.core.settings import Settings
from apps.local.checkpoint import (
    Checkpoint,
    CheckpointError,
    Hub,
    Report,
    Snapshot,
    damaged_files,
    find_checkpoint,
    identity_of,
    is_at_hand,
    parameters_of,
    revision_of,
)
from apps.local.engine.port import Engine, UnsupportedModel, UnusableDraft
from apps.local.gguf import WEIGHTS
from apps.local.packaged import PACKAGED_NAME, PackagedModelError, packaged_checkpoint, transformers_checkpoint
from apps.local.tokenizer import ChatTokenizer, HubTokenizer

if TYPE_CHECKING:
    from apps.local.engine.batching.opening import Options
    from apps.local.engine.batching.scheduler import BatchingEngine
    from apps.local.engine.plain.engine import PlainEngine

log = logging.getLogger(__name__)

REQUIRED = ("numpy", "tokenizers", "jinja2", "huggingface_hub")
PLAIN_REQUIRED = ("torch", "transformers")
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


Loader = Callable[[Settings, Report], Loaded]
FirstLoader = Callable[[Settings, Report], Loaded | None]


class LocalLoader:
    """Loads the local model; the packaged one first where the asked-for one is not on this machine yet.

    Both methods block. ``report`` takes each step, and may raise to end the loading between two of them. They raise
    NotConfigured or LoadFailed.
    """

    def __init__(self) -> None:
        self._first: tuple[Path, Loaded] | None = None

    def first(self, settings: Settings, report: Report) -> Loaded | None:
        """Load what serves meanwhile; None where nothing does, or the asked-for model is at hand."""
        _require_installed()
        if settings.local_fallback != "packaged":
            return None
        report(f"loading {PACKAGED_NAME}, which answers until {settings.local_model} is here")
        try:
            if is_at_hand(settings.local_model, hub_model):
                return None
        except CheckpointError as error:
            raise LoadFailed(str(error)) from error
        try:
            folder = packaged_checkpoint(settings.model_cache_dir)
            loaded = _load(
                Checkpoint(PACKAGED_NAME, folder, f"{settings.local_model} is being fetched"), settings, report
            )
        except (PackagedModelError, LoadFailed) as error:
            log.warning("Nothing answers until %s is here: %s", settings.local_model, error)
            return None
        self._first = folder, loaded
        return loaded

    def load(self, settings: Settings, report: Report) -> Loaded:
        """Load the asked-for model; where the hub cannot be reached, the packaged one stays."""
        _require_installed()
        report(f"looking for {settings.local_model}")
        try:
            checkpoint = find_checkpoint(
                settings.local_model, settings.local_fallback, settings.model_cache_dir, hub_model, report
            )
        except (CheckpointError, PackagedModelError) as error:
            raise LoadFailed(str(error)) from error
        if self._first is not None and self._first[0] == checkpoint.folder:
            loaded = self._first[1]
            return replace(loaded, details={**loaded.details, "fallback_reason": checkpoint.fallback_reason})
        report(f"loading {checkpoint.name}")
        return _load(checkpoint, settings, report)


def load_local(settings: Settings, report: Report) -> Loaded:
    """Load the asked-for model alone. Blocks for seconds. Raises NotConfigured or LoadFailed."""
    return LocalLoader().load(settings, report)


def _load(checkpoint: Checkpoint, settings: Settings, report: Report) -> Loaded:
    started = time.monotonic()
    _check_hashes(checkpoint, settings.model_cache_dir)
    with _without_garbage_collection():
        tokenizer = _load_tokenizer(checkpoint.folder)
        engine, refused = _load_engine(checkpoint, tokenizer, settings, report)
    seconds = time.monotonic() - started
    log.info("The local model %s is ready after %.1f s: %s", checkpoint.name, seconds, dict(engine.describe()))
    details = {
        "requested_model": settings.local_model,
        "checkpoint": revision_of(checkpoint.folder),
        "parameters": parameters_of(checkpoint.folder),
        "fallback_reason": checkpoint.fallback_reason,
        "batching_refused": refused,
    }
    return Loaded(checkpoint.name, engine, tokenizer, details)


def _check_hashes(checkpoint: Checkpoint, cache_dir: Path) -> None:
    """Raises LoadFailed for weights that are not what the hub's cache says; files that passed are not read again."""
    stamp = cache_dir / "verified" / identity_of(checkpoint.folder)
    if stamp.is_file():
        return
    if damaged := damaged_files(checkpoint.folder):
        raise LoadFailed(
            f"{checkpoint.name} is damaged: {', '.join(damaged)} in {checkpoint.folder} has not the hash that the hub "
            "names it by. Delete the file and start again"
        )
    try:
        stamp.parent.mkdir(parents=True, exist_ok=True)
        stamp.touch()
    except OSError as error:
        log.warning("%s cannot be written (%s): hashes are checked at each start", stamp.parent, error.strerror)


def _load_tokenizer(folder: Path) -> HubTokenizer:
    try:
        return HubTokenizer(folder)
    except Exception as error:
        raise LoadFailed(f"The tokenizer in {folder} cannot be loaded: {type(error).__name__}: {error}") from error


def _load_engine(
    checkpoint: Checkpoint, tokenizer: HubTokenizer, settings: Settings, report: Report
) -> tuple[Engine, str | None]:
    """The batching engine; where it refuses, transformers' own `generate`, and why."""
    engine_options, open_engine = import_once(load_batching)
    folder, cache_dir = checkpoint.folder, settings.model_cache_dir
    precision, slots = settings.local_precision, settings.local_slots
    draft = _draft_folder(checkpoint, tokenizer, settings, report)
    options = engine_options(
        settings.local_speculation == "auto",
        settings.local_prefix_max_bytes,
        draft,
        settings.local_kv,
        settings.local_cache_max_bytes,
    )
    try:
        engine = open_engine(folder, tokenizer, precision, slots, cache_dir, options, report)
        return engine, None
    except UnusableDraft as error:
        raise LoadFailed(f"LOCAL_DRAFT={settings.local_draft} cannot draft: {error}") from error
    except UnsupportedModel as error:
        refused = str(error)
        if missing := _missing(PLAIN_REQUIRED):
            raise LoadFailed(
                f"The batching engine cannot serve: {refused}. transformers' generate would, and needs "
                f"{', '.join(missing)}, not installed here: {INSTALL}"
            ) from error
        log.warning("The batching engine cannot serve: %s. transformers' generate serves instead, slower", refused)
    try:
        if (folder / WEIGHTS).is_file():
            folder = transformers_checkpoint(cache_dir)
        return import_once(load_plain)(folder, tokenizer, precision, slots), refused
    except (CheckpointError, PackagedModelError) as error:
        raise LoadFailed(str(error)) from error


def load_batching() -> "tuple[type[Options], Callable[..., BatchingEngine]]":
    """With numpy and the kernels' library."""
    from apps.local.engine.batching.opening import Options, open_engine

    return Options, open_engine


def load_plain() -> "Callable[..., PlainEngine]":
    """With transformers, which takes a second that the batching engine does without."""
    from apps.local.engine.plain.engine import load_plain_engine

    return load_plain_engine


def _draft_folder(checkpoint: Checkpoint, tokenizer: HubTokenizer, settings: Settings, report: Report) -> Path | None:
    """The checkpoint of LOCAL_DRAFT; None where none is asked for, or another model than the asked-for one serves.

    Raises LoadFailed where it cannot be had or has another tokenizer.
    """
    name = settings.local_draft
    if not name:
        return None
    if checkpoint.fallback_reason is not None:
        log.warning("LOCAL_DRAFT=%s does not draft: %s serves instead of LOCAL_MODEL", name, checkpoint.name)
        return None
    report(f"looking for {name}, which drafts")
    try:
        draft = find_checkpoint(name, "none", settings.model_cache_dir, hub_model, report)
    except (CheckpointError, PackagedModelError) as error:
        raise LoadFailed(f"LOCAL_DRAFT: {error}") from error
    _check_hashes(draft, settings.model_cache_dir)
    if difference := tokenizer.difference(_load_tokenizer(draft.folder)):
        raise LoadFailed(
            f"LOCAL_DRAFT={name} cannot draft for {checkpoint.name}: its tokenizer is another one ({difference})"
        )
    return draft.folder


def hub_model(name: str) -> Snapshot:
    """Raises CheckpointError where huggingface_hub is not installed."""
    if missing := _missing(("huggingface_hub",)):
        raise CheckpointError(f"{missing[0]} is not installed: pip install -r requirements-local.txt")
    return import_once(load_hub)(name)


def load_hub() -> Hub:
    """With huggingface_hub, which a folder does not need."""
    from apps.local.hub import HubModel

    return HubModel


def _require_installed() -> None:
    if missing := _missing(REQUIRED):
        raise NotConfigured(f"The local model needs {', '.join(missing)}, not installed here: {INSTALL}")


def _missing(names: Sequence[str]) -> list[str]:
    return [name for name in names if importlib.util.find_spec(name) is None]


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
