"""An app with a library of documents behind it: real files, a real index, and an embedder without a model."""

import hashlib
import math
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
from fastapi import FastAPI

from apps.api.src.application import create_app
from apps.api.src.wiring.gateway import load_gateway, new_gateway
from apps.api.src.wiring.services import Services
from apps.api.src.wiring.stores import build_documents
from apps.core.ports import ChatModel, Embedder, Readiness
from apps.models.scripted import ScriptedModel, saying
from apps.rag.library import Library
from apps.tests.support.serving import serving, settings

DIMENSIONS = 256
WORD = re.compile(r"\w+")


class WordEmbedder:
    """Implements Embedder: each word has a direction of its own, so texts that share words are alike."""

    name = "words"
    dimensions = DIMENSIONS
    longest = 256

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        return [_vector(text) for text in texts]

    async def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [len(WORD.findall(text)) + 2 for text in texts]

    def readiness(self) -> Readiness:
        return Readiness(self.name, "ready", "counts words")

    async def aclose(self) -> None:
        """Nothing to end."""


def _vector(text: str) -> list[float]:
    sums = [0.0] * DIMENSIONS
    for word in WORD.findall(text.lower()):
        digest = hashlib.sha256(word.encode()).digest()
        for index in range(DIMENSIONS):
            sums[index] += 1 if digest[index // 8] >> index % 8 & 1 else -1
    length = math.sqrt(sum(value * value for value in sums)) or 1.0
    return [value / length for value in sums]


def rag_app(
    folder: Path, model: ChatModel | None = None, embedder: Embedder | None = None, **changes: Any
) -> tuple[FastAPI, Services]:
    """The app, whose local model is ``model``; the documents live in ``folder``."""
    configured = settings(data_dir=folder, **{"auth": "off", "rag_min_score": 0.25, **changes})
    local, embeds = model or ScriptedModel(saying("30 days [1]."), name="local"), embedder or WordEmbedder()
    gateway = new_gateway(configured)
    documents = build_documents(configured, gateway, local, embeds, Library(folder / "rag", embeds))
    load_gateway(gateway, configured, local, embeds, documents=documents)
    services = Services(local, local, gateway, embeds, documents=documents)
    return create_app(configured, services), services


@contextmanager
def serving_documents(folder: Path, model: ChatModel | None = None, **changes: Any) -> Iterator[str]:
    with serving(rag_app(folder, model, **changes)[0]) as url:
        yield url


def ingested(http: httpx2.Client, collection: str, *documents: dict[str, Any]) -> dict[str, Any]:
    """Submit texts to ``collection`` (a whole URL) and wait for their job."""
    answer = http.post(f"{collection}/documents", json=list(documents))
    assert answer.status_code == 202, answer.text
    return waited(http, collection, answer.json()["job"])


def waited(http: httpx2.Client, url: str, job: str) -> dict[str, Any]:
    base = url[: url.index("/rag/")]
    for _ in range(600):
        told: dict[str, Any] = http.get(f"{base}/rag/jobs/{job}").json()
        if told["status"] in ("done", "failed"):
            return told
        time.sleep(0.05)
    raise AssertionError(f"the job does not end: {told}")


LEAVE: dict[str, Any] = {
    "name": "leave.md",
    "text": "# Leave\n\nEverybody has 30 days of leave in a year.",
    "metadata": {"year": 2026},
}
TRAVEL: dict[str, Any] = {
    "name": "travel.md",
    "text": "# Travel\n\nTrains are booked by the office.",
    "metadata": {"year": 2025},
}
