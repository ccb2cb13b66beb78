"""RERANK_MODEL as a Reranker: loads at its first use, computes in a thread of its own."""

import asyncio
import functools
import importlib.util
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from apps.core.errors import AppError, InternalError, ModelUnavailable
from apps.core.ports import Readiness, Reranked
from apps.core.process import available_cpus, import_once
from apps.local.encoders.load_failure import RETRY_AFTER, LoadFailure

if TYPE_CHECKING:
    from apps.local.encoders.bert import CrossEncoder

log = logging.getLogger(__name__)
T = TypeVar("T")

REQUIRED = ("torch", "transformers", "tokenizers", "safetensors")
INSTALL = "make setup, or pip install -r requirements-local.txt"


class LocalReranker:
    """Implements Reranker. Calls are computed one after the other."""

    def __init__(self, model: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.name = model.rstrip("/").rpartition("/")[2] or model
        self._source = model
        self._pool = ThreadPoolExecutor(1, "rerank")
        self._model: CrossEncoder | None = None
        self._failure = LoadFailure(clock)

    async def rerank(self, query: str, texts: Sequence[str]) -> Reranked:
        """Raises InvalidValue for a query that is too long, and ModelUnavailable."""
        scores, tokens = await self._in_thread(lambda: self._loaded().scores(query, texts))
        return Reranked(self.name, scores, tokens)

    def readiness(self) -> Readiness:
        missing = missing_requirements()
        if missing:
            return Readiness(self.name, "not_configured", _install(missing))
        if (failed := self._failure.readiness(self.name)) is not None:
            return failed
        if self._model is None:
            return Readiness(self.name, "ready", "Loads at its first use")
        details = {"precision": self._model.precision, "longest_input": self._model.longest}
        return Readiness(self.name, "ready", "Loaded", details)

    async def aclose(self) -> None:
        """What is being computed is computed to its end."""
        await asyncio.to_thread(self._pool.shutdown)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        if missing := missing_requirements():
            raise ModelUnavailable(_install(missing), details={"state": "not_configured"}, retry_after=RETRY_AFTER)
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, work)
        except AppError:
            raise
        except Exception as error:
            raise InternalError(f"{self.name} failed", details={"cause": type(error).__name__}) from error

    def _loaded(self) -> "CrossEncoder":
        if self._model is not None:
            return self._model
        open_encoder = import_once(load_cross_encoder)
        try:
            self._model = open_encoder(self._source, available_cpus())
        except Exception as error:
            why = f"Loading RERANK_MODEL ended with {type(error).__name__}: it must be a BERT-like checkpoint"
            self._failure.note(why)
            log.warning("%s", why, exc_info=True)
            raise ModelUnavailable(why, details={"state": "failed"}, retry_after=RETRY_AFTER) from error
        self._failure.clear()
        log.info("%s is loaded in %s", self.name, self._model.precision)
        return self._model


@functools.cache  # a process does not gain packages
def missing_requirements() -> list[str]:
    return [name for name in REQUIRED if importlib.util.find_spec(name) is None]


def _install(missing: list[str]) -> str:
    return f"The reranker needs {', '.join(missing)}, not installed here: {INSTALL}"


def load_cross_encoder() -> "Callable[[str, int], CrossEncoder]":
    from apps.local.encoders.bert import open_cross_encoder

    return open_cross_encoder
