"""Which kept question is nearest in meaning: vectors by scope, in this process's memory, bounded in bytes."""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType
from typing import TYPE_CHECKING, Any

from apps.cache.wording import in_latin_script, may_mean_the_same
from apps.core.errors import AppError, InvalidValue
from apps.core.ports import Embedder, KnowsWords
from apps.core.process import import_once

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Vector = NDArray[np.float32]

log = logging.getLogger(__name__)

MOST_BYTES = 32 * 1024 * 1024
BYTES_A_VALUE = 4
# a vector has its digest and its places in two containers beside it; a text has at most four bytes a character
OVERHEAD = 400
BYTES_A_CHARACTER = 4
# the embedder works on one call after another, and a long one must not keep a chat waiting
LONGEST = 0.5
MOST_CHARACTERS = 2_000
# two texts take up to a millisecond or so, on the event loop
MOST_COMPARED = 20


@dataclass(slots=True)
class _Kept:
    text: str
    expires: float
    vector: "Vector"


@dataclass(slots=True)
class _Scope:
    kept: OrderedDict[bytes, _Kept] = field(default_factory=OrderedDict)
    digests: list[bytes] = field(default_factory=list)
    matrix: Any = None


class SemanticIndex:
    """Knows digests of questions, never answers. ``size`` in bytes, about; ``too_slow`` counts texts given up on."""

    def __init__(
        self, embedder: Embedder, most_bytes: int = MOST_BYTES, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._embedder = embedder
        self._most_bytes = most_bytes
        self._clock = clock
        self._scopes: OrderedDict[bytes, _Scope] = OrderedDict()
        self._warned = False
        self._each = embedder.dimensions * BYTES_A_VALUE * 2 + OVERHEAD
        self.size = 0
        self.too_slow = 0

    async def vector_of(self, text: str) -> "Vector | None":
        """Off the event loop. None where there is none to be had, soon: then only exact matches count."""
        if len(text) > MOST_CHARACTERS or not text.strip() or not self._has_embedder():
            return None
        try:
            async with asyncio.timeout(LONGEST):
                if await self._is_blind_to(text):
                    return None
                vectors = await self._embedder.embed([text])
        except InvalidValue:
            return None
        except TimeoutError:
            self.too_slow += 1
            return None
        except AppError as error:
            self._warn(error.message)
            return None
        vector: Vector = import_once(load_numpy).asarray(vectors[0], dtype="float32")
        return vector

    def nearest(self, scope: bytes, vector: "Vector", text: str, least: float) -> list[tuple[bytes, float]]:
        """Digests of kept questions that are at least so near, the nearest first."""
        np = import_once(load_numpy)
        known = self._scopes.get(scope)
        if known is None:
            return []
        self._scopes.move_to_end(scope)
        if known.matrix is None:
            known.digests = list(known.kept)
            known.matrix = np.stack([kept.vector for kept in known.kept.values()])
        cosines, now = known.matrix @ vector, self._clock()
        near = [(known.digests[i], min(1.0, float(cosines[i]))) for i in np.flatnonzero(cosines >= least)]
        near = sorted(near, key=lambda pair: -pair[1])[:MOST_COMPARED]
        return [(digest, score) for digest, score in near if self._may_answer(known.kept[digest], text, now)]

    def add(self, scope: bytes, digest: bytes, vector: "Vector", text: str, ttl: float) -> None:
        self.forget(scope, digest)
        known = self._scopes.setdefault(scope, _Scope())
        self._scopes.move_to_end(scope)
        known.kept[digest] = _Kept(text, self._clock() + ttl, vector)
        known.matrix = None
        self.size += self._each + BYTES_A_CHARACTER * len(text)
        while self.size > self._most_bytes:
            oldest = next(iter(self._scopes))
            self.forget(oldest, next(iter(self._scopes[oldest].kept)))

    def forget(self, scope: bytes, digest: bytes) -> None:
        """Its answer is gone."""
        known = self._scopes.get(scope)
        kept = known.kept.pop(digest, None) if known is not None else None
        if known is None or kept is None:
            return
        self.size -= self._each + BYTES_A_CHARACTER * len(kept.text)
        known.matrix = None
        if not known.kept:
            del self._scopes[scope]

    async def _is_blind_to(self, text: str) -> bool:
        """Whether the embedder has a vocabulary, and the text has letters or signs that are not in it."""
        if not isinstance(self._embedder, KnowsWords):
            return False
        if not in_latin_script(text):
            return True
        [unknown] = await self._embedder.unknown_shares([text])
        return unknown > 0

    def _may_answer(self, kept: _Kept, text: str, now: float) -> bool:
        return kept.expires > now and may_mean_the_same(text, kept.text)

    def _has_embedder(self) -> bool:
        readiness = self._embedder.readiness()
        if readiness.state != "ready":
            self._warn(readiness.reason)
        return readiness.state == "ready"

    def _warn(self, reason: str) -> None:
        if not self._warned:
            self._warned = True
            log.warning("A key asks for the semantic cache and gets exact matches only: %s", reason)


def load_numpy() -> ModuleType:
    """With the first vector: a cache of exact matches does not need it."""
    import numpy

    return numpy
