"""The yardstick of `make bench-gateway`: the least that a gateway in Python can do, bytes in and bytes out.

UPSTREAM=http://127.0.0.1:9100/v1 uvicorn eval.bare_gateway:app. No limits, ids, log, routing, retries or errors: what it
answers when something fails is anybody's guess. Never serve it.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

JSON = {"Content-Type": "application/json"}


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as app.state.session:
        yield


async def chat(request: Request) -> Response:
    body = await request.body()
    session: aiohttp.ClientSession = request.app.state.session
    url = os.environ["UPSTREAM"] + "/chat/completions"
    if b'"stream":true' in body or b'"stream": true' in body:
        return StreamingResponse(_chunks(session, url, body), media_type="text/event-stream")
    async with session.post(url, data=body, headers=JSON) as answer:
        return Response(await answer.read(), answer.status, media_type="application/json")


async def _chunks(session: aiohttp.ClientSession, url: str, body: bytes) -> AsyncIterator[bytes]:
    async with session.post(url, data=body, headers=JSON) as answer:
        async for chunk in answer.content.iter_any():
            yield chunk


app = Starlette(routes=[Route("/v1/chat/completions", chat, methods=["POST"])], lifespan=lifespan)
