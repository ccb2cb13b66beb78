"""Two tenants with collections of the same names, interleaved over ten thousand calls: neither sees the other's."""

import asyncio
import itertools
import json
import random
from pathlib import Path
from typing import Any

import httpx2
import pytest
from starlette.types import ASGIApp

from apps.core.callers import Caller
from apps.core.calls import Usage
from apps.core.deltas import Delta
from apps.core.messages import ChatRequest
from apps.models.scripted import ScriptedModel, Step
from apps.tests.support.budgets import budgeted
from apps.tests.support.callers import CallerByHeader, as_caller
from apps.tests.support.rag_serving import rag_app

AT_ONCE = 16
TENANTS = ("alice", "bob")
WORDS = {"alice": "amaryllis", "bob": "begonia"}
CALLERS = {name: Caller(name) for name in TENANTS}


def repeating(request: ChatRequest) -> list[Step]:
    """Says everything that it was given: what is not in it cannot have been in the prompt."""
    text = "\n".join(str(message.content) for message in request.messages)
    return [Delta(text, model="local"), Delta(finish_reason="stop", usage=Usage(1, 1), model="local")]


def secrets_of(tenant: str) -> list[dict[str, Any]]:
    return [
        {"name": f"note-{i}.txt", "text": f"The password of door {i} is {WORDS[tenant]}{i}.", "metadata": {"door": i}}
        for i in range(5)
    ]


async def fill(client: httpx2.AsyncClient, tenant: str) -> tuple[str, list[str]]:
    headers = as_caller(tenant)
    answer = await client.post("/rag/collections/notes/documents", json=secrets_of(tenant), headers=headers)
    job = answer.json()["job"]
    told = await client.get(f"/rag/jobs/{job}?stream=true", headers=headers)
    assert "event: done" in told.text
    await client.post(f"/rag/collections/only-{tenant}/documents", json=secrets_of(tenant)[0], headers=headers)
    documents = (await client.get("/rag/collections/notes/documents", headers=headers)).json()["documents"]
    return job, [document["id"] for document in documents]


def calls(tenant: str, others: tuple[str, list[str]], other: str) -> list[tuple[str, str, Any, int | None]]:
    """Method, path, body, and the status that it must have where there is only one."""
    job, documents = others
    prompt = {"prompt": "What is the password of door 3?", "max_tokens": 5}
    chat = {"model": "rag/notes", "messages": [{"role": "user", "content": prompt["prompt"]}], "max_tokens": 5}
    missing = {**chat, "model": f"rag/only-{other}"}
    return [
        ("POST", "/rag/collections/notes/query", {"query": prompt["prompt"]}, 200),
        ("POST", "/rag/collections/notes/query", {"query": f"{WORDS[other]}3", "filter": {"door": 3}}, 200),
        ("POST", "/rag/collections/notes/generate", prompt, 200),
        ("POST", "/rag/collections/notes/generate?stream=true", prompt, 200),
        ("POST", "/v1/chat/completions", chat, 200),
        ("POST", "/v1/chat/completions", {**chat, "stream": True}, 200),
        ("POST", "/v1/chat/completions", missing, 404),
        ("GET", "/rag/collections", None, 200),
        ("GET", "/rag/collections/notes/documents", None, 200),
        ("GET", "/v1/models", None, 200),
        ("GET", f"/rag/jobs/{job}", None, 404),
        ("GET", f"/rag/jobs/{job}?stream=true", None, 404),
        ("GET", f"/rag/collections/only-{other}", None, 404),
        ("GET", f"/rag/collections/notes/documents/{documents[0]}", None, 404),
        ("GET", f"/rag/collections/notes/documents/{documents[0]}/passages", None, 404),
        ("DELETE", f"/rag/collections/notes/documents/{documents[1]}", None, 404),
        ("DELETE", f"/rag/collections/only-{other}", None, 404),
        ("POST", f"/rag/collections/only-{other}/query", {"query": "door"}, 404),
        ("POST", f"/rag/shared/only-{other}/query", {"query": "door"}, 404),
    ]


@pytest.mark.parametrize(
    ("seed", "number"), [(1, 200), pytest.param(2, budgeted(10_000, 1_500), marks=pytest.mark.long, id="long")]
)
async def test_interleaved_calls_leak_nothing(seed: int, number: int, tmp_path: Path) -> None:
    app, services = rag_app(tmp_path, ScriptedModel(repeating, name="local"), rag_min_score=-1.0)
    guarded: ASGIApp = CallerByHeader(app, CALLERS)
    transport = httpx2.ASGITransport(app=guarded)
    assert services.documents is not None
    await services.documents.library.start()
    try:
        async with httpx2.AsyncClient(transport=transport, base_url="http://app", timeout=60) as client:
            await interleave(client, random.Random(seed), number)
    finally:
        await services.documents.library.aclose()


async def interleave(client: httpx2.AsyncClient, chance: random.Random, number: int) -> None:
    filled = {tenant: await fill(client, tenant) for tenant in TENANTS}
    menus = {tenant: calls(tenant, filled[other], other) for tenant, other in (TENANTS, tuple(reversed(TENANTS)))}
    script = iter(
        [(tenant, *chance.choice(menus[tenant])) for tenant in itertools.islice(itertools.cycle(TENANTS), number)]
    )
    answered = dict.fromkeys(TENANTS, 0)

    async def caller() -> None:
        for tenant, method, path, body, status in script:
            other = TENANTS[1 - TENANTS.index(tenant)]
            answer = await client.request(method, path, json=body, headers=as_caller(tenant))
            assert answer.status_code == status, (method, path, answer.text)
            told = answer.text.replace(json.dumps(body)[1:-1], "")
            # what the caller himself has said may come back
            asked = json.dumps(body or "")
            if f"{WORDS[other]}" not in asked:
                assert WORDS[other] not in told, (tenant, method, path)
            assert f"only-{other}" not in told or f"only-{other}" in path + asked, (tenant, method, path)
            assert not any(document in told for document in filled[other][1] if document not in path)
            answered[tenant] += WORDS[tenant] in told

    await asyncio.gather(*(caller() for _ in range(AT_ONCE)))
    # it is no wonder that nothing leaks where nothing is answered
    assert min(answered.values()) > number / 10


async def test_anothers_collection_is_missing_to_the_letter(tmp_path: Path) -> None:
    app, services = rag_app(tmp_path)
    assert services.documents is not None
    await services.documents.library.start()
    transport = httpx2.ASGITransport(app=CallerByHeader(app, CALLERS))
    try:
        async with httpx2.AsyncClient(transport=transport, base_url="http://app", timeout=60) as client:
            await fill(client, "alice")
            for path in ("", "/documents", f"/documents/{'0' * 64}"):
                headers = {**as_caller("bob"), "X-Request-ID": "same"}
                theirs = await client.get(f"/rag/collections/notes{path}", headers=headers)
                missing = await client.get(f"/rag/collections/never{path}", headers=headers)
                assert theirs.status_code == missing.status_code == 404
                assert theirs.text.replace("notes", "never") == missing.text
    finally:
        await services.documents.library.aclose()
