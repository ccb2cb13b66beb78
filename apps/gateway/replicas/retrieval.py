"""The embedders and rerankers of a set of replicas: their ports, each call a request to one of them.

A worker of API_WORKERS has no model of its own: search, ingestion, the semantic cache and /v1 all ask here.
"""

import base64
import json
from array import array
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from apps.core.errors import UpstreamError
from apps.core.ports import Readiness, Reranked
from apps.gateway.openai_api.embeddings import EmbeddingsWire
from apps.gateway.protocol import WireCall, WireReply
from apps.gateway.replicas.target import ReplicaTarget
from apps.models.upstream_errors import parsed_object

EMBEDDINGS, TOKENS, RERANK = "/embeddings", "/embeddings/tokens", "/rerank"
# as many as one call to /v1/embeddings takes
MOST_TEXTS = 2048


class ReplicaEmbedder:
    """Implements Embedder, EmbedsTokens and KnowsWords.

    What is known of the model without loading it (its name, ``dimensions``, ``longest``) is read here; the replicas
    have its weights. ``target`` is closed by its owner.
    """

    cuttable: Collection[int] = ()

    def __init__(self, target: ReplicaTarget, name: str, dimensions: int, longest: int) -> None:
        self.name = name
        self.dimensions = dimensions
        self.longest = longest
        self.target = target

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        if not all(texts):
            # OpenAI's API refuses an empty text, which has its two special tokens here
            return await self.embed_tokens(await self.tokenize(texts))
        return await self._vectors(texts)

    async def embed_tokens(self, tokens: Sequence[Sequence[int]]) -> list[list[float]]:
        return await self._vectors([list(run) for run in tokens])

    async def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        return [list(run) for run in await self._facts(texts, "tokens", return_tokens=True)]

    async def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [int(count) for count in await self._facts(texts, "counts")]

    async def unknown_shares(self, texts: Sequence[str]) -> list[float]:
        return [float(share) for share in await self._facts(texts, "unknown_shares", return_unknown_shares=True)]

    def readiness(self) -> Readiness:
        """``retry_after`` is None where the replicas answer, and have no such model."""
        table = self.target.replicas.table
        readiness = table.readiness("embedding", self.name)
        details = {"dimensions": self.dimensions, "longest_input": self.longest}
        answering = [one for one in table.replicas.values() if one.standing in ("ready", "silent")]
        if answering and not any(one.capacity_of("embedding", self.name) for one in answering):
            return Readiness(self.name, "failed", _absent(self.name), details)
        return Readiness(self.name, readiness.state, readiness.reason, details, readiness.retry_after)

    async def aclose(self) -> None:
        """Nothing is held here."""

    async def _vectors(self, inputs: Sequence[str | list[int]]) -> list[list[float]]:
        found: list[list[float]] = []
        for first in range(0, len(inputs), MOST_TEXTS):
            part = inputs[first : first + MOST_TEXTS]
            body = {"model": self.name, "input": part, "encoding_format": "base64"}
            answer = await _answer(self.target, EMBEDDINGS, body, self.name)
            found += self._read(answer, len(part))
        return found

    def _read(self, answer: Mapping[str, Any], expected: int) -> list[list[float]]:
        """Raises UpstreamError where they are not what was asked for."""
        try:
            entries = sorted(answer["data"], key=lambda entry: int(entry["index"]))
            vectors = [_floats(entry["embedding"]) for entry in entries]
        except (KeyError, TypeError, ValueError):
            raise _unknown_answer() from None
        if len(vectors) != expected or any(len(vector) != self.dimensions for vector in vectors):
            raise _unknown_answer()
        return vectors

    async def _facts(self, texts: Sequence[str], name: str, **switches: bool) -> list[Any]:
        """One fact of each text's tokens."""
        found: list[Any] = []
        for first in range(0, len(texts), MOST_TEXTS):
            part = list(texts[first : first + MOST_TEXTS])
            answer = await _answer(self.target, TOKENS, {"model": self.name, "input": part, **switches}, self.name)
            facts = answer.get(name)
            if not isinstance(facts, list) or len(facts) != len(part):
                raise _unknown_answer()
            found += facts
        return found


class ReplicaEmbeddingsWire(EmbeddingsWire):
    """Implements WireTarget over a ReplicaEmbedder: a call and its answer pass through as bytes."""

    def __init__(self, embedder: ReplicaEmbedder) -> None:
        super().__init__(embedder)
        self._remote = embedder

    async def open(self, call: WireCall, model: str) -> WireReply:
        if call.path != EMBEDDINGS:
            return await super().open(call, model)
        return await self._remote.target.open(call, self._remote.name)


class ReplicaReranker:
    """Implements Reranker. ``target`` is closed by its owner."""

    def __init__(self, target: ReplicaTarget, name: str) -> None:
        self.name = name
        self._target = target

    async def rerank(self, query: str, texts: Sequence[str]) -> Reranked:
        body = {"model": self.name, "query": query, "documents": list(texts)}
        answer = await _answer(self._target, RERANK, body, self.name)
        try:
            scores = {int(one["index"]): float(one["relevance_score"]) for one in answer["results"]}
            ordered = [scores[index] for index in range(len(texts))]
        except (KeyError, TypeError, ValueError):
            raise _unknown_answer() from None
        usage = answer.get("usage")
        tokens = usage.get("total_tokens") if isinstance(usage, dict) else None
        return Reranked(self.name, ordered, tokens if isinstance(tokens, int) else None)

    def readiness(self) -> Readiness:
        readiness = self._target.replicas.table.readiness("rerank", self.name)
        return Readiness(self.name, readiness.state, readiness.reason, {}, readiness.retry_after)

    async def aclose(self) -> None:
        """Nothing is held here."""


async def _answer(target: ReplicaTarget, path: str, body: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Raises the replica's error, and ModelUnavailable where none can answer."""
    # a lone surrogate goes as its escape: the replica says what is wrong with it
    call = WireCall(path, json.dumps(body).encode(), body, False)
    return parsed_object((await target.open(call, name)).body)


def _floats(written: str) -> list[float]:
    """Of little-endian float32 in base64. Raises ValueError."""
    values = array("f")
    values.frombytes(base64.b64decode(written, validate=True))
    return values.tolist()


def _absent(name: str) -> str:
    return f"The process that has the models has no {name}: EMBEDDING_MODELS must be the same there"


def _unknown_answer() -> UpstreamError:
    return UpstreamError("The replica's answer is not what was asked for", upstream_status=200)
