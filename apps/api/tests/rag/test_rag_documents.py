"""Documents as people have them, all in one collection: their words are found by /query, and nothing else is."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx2
import pytest

from apps.rag.normalization import UNSPACED
from apps.rag.relevance import RELEVANT
from apps.tests.support.document_cases import DocumentCase, document_cases
from apps.tests.support.rag_serving import WordEmbedder, rag_app

TOP_K = 5
# several documents say the same
WIDE = 20

pytestmark = pytest.mark.local


class LatinEmbedder(WordEmbedder):
    """Knows no word of a script without blanks, as the embedding model of the service does not."""

    async def unknown_shares(self, texts: Sequence[str]) -> list[float]:
        return [len("".join(UNSPACED.findall(text))) / len(text) for text in texts]


async def faults_of(cases: list[DocumentCase], folder: Path) -> list[str]:
    """What is wrong with all of them in one collection of one app, in words."""
    app, _ = rag_app(folder, embedder=LatinEmbedder(), rate_limit_enabled=False, rag_min_score=None)
    transport = httpx2.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx2.AsyncClient(transport=transport, base_url="http://test", timeout=90) as http,
    ):
        jobs = [(case, await submitted(http, case)) for case in cases]
        faults = [fault for case, job in jobs for fault in await ingestion_faults(http, case, job)]
        faults += [fault for case in cases if not case.error for fault in await search_faults(http, case)]
    return faults


async def submitted(http: httpx2.AsyncClient, case: DocumentCase) -> httpx2.Response:
    return await http.post("/rag/collections/all/documents", files=[("files", (case.name, case.content))])


async def ingestion_faults(http: httpx2.AsyncClient, case: DocumentCase, answer: httpx2.Response) -> list[str]:
    if answer.status_code != 202:
        return [] if case.error else [f"{case.name}: {answer.text}"]
    job: dict[str, Any] = {}
    async with asyncio.timeout(120):
        while job.get("status") not in ("done", "failed"):
            job = (await http.get(f"/rag/jobs/{answer.json()['job']}")).json()
            await asyncio.sleep(0.01)
    as_expected = (job["status"] == "failed") == case.error
    return [] if as_expected else [f"{case.name}: {job['status']} {job['files']}"]


async def search_faults(http: httpx2.AsyncClient, case: DocumentCase) -> list[str]:
    faults: list[str] = []
    for word in case.has:
        if not any(word in one["text"] for one in await passages_of(http, case, word, WIDE)):
            faults.append(f"{case.name}: {word!r} is not found")
    for word in case.never:
        if any(word in one["text"] for one in await passages_of(http, case, word, WIDE)):
            faults.append(f"{case.name}: {word!r} is found")
    for word, headings in case.headings.items():
        found = [one for one in await passages_of(http, case, word, WIDE) if word in one["text"]]
        if [tuple(one["heading"]) for one in found] != [headings]:
            faults.append(f"{case.name}: {word!r} stands under {[one['heading'] for one in found]}")
    if case.metadata:
        for one in await passages_of(http, case, case.has[0], WIDE):
            told_fields = {name: one["metadata"].get(name) for name in case.metadata}
            if told_fields != case.metadata:
                faults.append(f"{case.name}: its metadata has {told_fields}")
    for question, told in case.answers.items():
        best = max(await passages(http, question, TOP_K), key=lambda one: float(one["relevance"]))
        if best["name"] != case.name or told not in best["text"] or best["relevance"] < RELEVANT:
            faults.append(
                f"{case.name}: {question!r} finds {best['name']} ({best['relevance']}): {best['text'][:80]!r}"
            )
    return faults


async def passages_of(http: httpx2.AsyncClient, case: DocumentCase, query: str, top_k: int) -> list[Any]:
    return [one for one in await passages(http, query, top_k) if one["name"] == case.name]


async def passages(http: httpx2.AsyncClient, query: str, top_k: int) -> list[Any]:
    answer = await http.post("/rag/collections/all/query", json={"query": query, "top_k": top_k})
    assert answer.status_code == 200, answer.text
    found: list[Any] = answer.json()["passages"]
    return found


@pytest.mark.long
async def test_the_words_of_every_document_are_found_and_no_others(tmp_path: Path) -> None:
    faults = await faults_of(document_cases(), tmp_path)
    assert not faults, "\n".join(faults)
