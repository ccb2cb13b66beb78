"""What ends a stream while its client takes nothing is on the call's record, whichever way the frames came."""

import asyncio
import json
from typing import Any

import pytest
from starlette.types import Message

from apps.api.src.application import create_app
from apps.api.src.wiring.gateway import build_gateway
from apps.api.src.wiring.services import Services
from apps.api.src.wiring.stores import build_cache
from apps.cache.front import CacheFront
from apps.core.deltas import Delta
from apps.models.metering import Meter
from apps.models.scripted import ScriptedModel
from apps.tests.support.caching import Books
from apps.tests.support.serving import settings
from apps.tests.support.waiting import HANG_SECONDS

MESSAGES = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}
CHAT = MESSAGES | {"stream": True}
GENERATE = {"prompt": "hi"}
TEXT = b"Hel"


def scope_of(path: str, headers: dict[str, str]) -> dict[str, Any]:
    plain, _, query = path.partition("?")
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": plain,
        "raw_path": plain.encode(),
        "query_string": query.encode(),
        "headers": [(b"content-type", b"application/json"), *((k.encode(), v.encode()) for k, v in headers.items())],
        "client": ("127.0.0.1", 1),
        "server": ("test", 80),
    }


@pytest.mark.parametrize(("shuts_down", "outcome"), [(True, "SHUT_DOWN"), (False, "CLIENT_GONE")])
@pytest.mark.parametrize(
    ("path", "body", "headers"),
    [
        ("/v1/chat/completions", CHAT, {}),
        ("/v1/chat/completions", CHAT, {"idempotency-key": "k"}),
        ("/v1/chat/completions", CHAT | {"temperature": 0}, {}),
        ("/v1/responses", {"model": "tiny", "input": "hi", "stream": True}, {}),
        ("/v1/messages", CHAT | {"max_tokens": 9}, {}),
        ("/api/chat", MESSAGES, {}),
        ("/generate?stream=true", GENERATE, {}),
        ("/local/generate?stream=true", GENERATE | {"temperature": 0}, {}),
    ],
    ids=["chat", "idempotent", "cached", "responses", "messages", "ollama", "generate", "cached-generate"],
)
async def test_what_ends_a_stream_that_nobody_takes_is_its_outcome(
    path: str, body: dict[str, Any], headers: dict[str, str], shuts_down: bool, outcome: str
) -> None:
    model = ScriptedModel(lambda request: [Delta("Hel", model="tiny"), Delta("lo"), 60.0], name="tiny")
    configured, books = settings(auth="off", cache_storage="mem://"), Books()
    cache, meter = build_cache(configured, None), Meter([books])
    assert cache is not None
    gateway = build_gateway(configured, model, None)
    app = create_app(configured, Services(model, model, gateway, None, meter, CacheFront(cache, meter)))
    taking, gone = asyncio.Event(), asyncio.Event()
    given: list[Message] = [{"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}]

    async def receive() -> Message:
        if given:
            return given.pop()
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        if TEXT in message.get("body", b""):
            taking.set()
            await asyncio.Event().wait()

    async with app.router.lifespan_context(app):
        serving = asyncio.ensure_future(app(scope_of(path, headers), receive, send))
        async with asyncio.timeout(HANG_SECONDS):
            await taking.wait()
            if shuts_down:
                app.state.shutdown._expire()
            else:
                gone.set()
            # a shutdown is said in the stream's last event, which is not taken either
            while not books.closed:  # noqa: ASYNC110 - the books tell nobody
                await asyncio.sleep(0.01)
        serving.cancel()
        await asyncio.wait([serving])
    assert [record.outcome for record in books.closed] == [outcome]


async def test_a_tool_of_mcp_that_the_service_ends_is_shut_down() -> None:
    model = ScriptedModel(lambda request: [60.0], name="tiny")
    configured, books = settings(auth="off"), Books()
    gateway = build_gateway(configured, model, None)
    app = create_app(configured, Services(model, model, gateway, None, Meter([books])))
    call = {"name": "generate", "arguments": {"prompt": "hi"}}
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": call}
    given: list[Message] = [{"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}]

    async def receive() -> Message:
        return given.pop() if given else await asyncio.get_running_loop().create_future()

    async def send(message: Message) -> None:
        """Its client takes all."""

    headers = {"accept": "application/json, text/event-stream", "mcp-protocol-version": "2025-06-18"}
    async with app.router.lifespan_context(app):
        serving = asyncio.ensure_future(app(scope_of("/mcp", headers), receive, send))
        async with asyncio.timeout(HANG_SECONDS):
            while not model.open:  # noqa: ASYNC110 - the model tells nobody
                await asyncio.sleep(0.01)
            app.state.shutdown._expire()
            await asyncio.wait([serving])
    assert [record.outcome for record in books.closed] == ["SHUT_DOWN"]
