"""Anthropic's Messages API: messages, and how many tokens one would be.

The local model counts a prompt's tokens, Anthropic is asked, any other is estimated.
"""

import json
from typing import NamedTuple

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from apps.api.src.anthropic.request import chat_body
from apps.api.src.anthropic.target import count_chat
from apps.api.src.http.request import RawRoute
from apps.api.src.limits.limiter import RateLimits
from apps.api.src.v1.relay import read_call, relay
from apps.api.src.wiring.services import Services
from apps.core.errors import UpstreamError
from apps.core.ports import Writer
from apps.core.settings import Settings
from apps.gateway.openai_api.chat_request import chat_request
from apps.gateway.protocol import WireCall, expected_use
from apps.gateway.routing.router import Needs
from apps.gateway.routing.targets import Target


class Counted(NamedTuple):
    """``estimated``: by the length of the prompt, since the model's tokenizer is not known here."""

    tokens: int
    estimated: bool


async def count_tokens(services: Services, call: WireCall) -> Counted:
    """Raises what reading the body and asking the target raise."""
    target = services.gateway.router.candidates(str(call.body["model"]), Needs())[0]
    kind = target.provider.config.kind
    chat = chat_body({**call.body, "max_tokens": 1, "stream": False})
    if kind == "local" and isinstance(target.provider.chat, Writer):
        return Counted(await count_chat(target.provider.chat, chat_request(chat, call.caller)), estimated=False)
    if kind == "anthropic":
        return await _count_upstream(target, call)
    raw = json.dumps(chat, ensure_ascii=False).encode()
    return Counted(expected_use(call._replace(raw=raw)).prompt, estimated=True)


async def _count_upstream(target: Target, call: WireCall) -> Counted:
    """What Anthropic counts. Raises what asking it raises."""
    reply = await target.provider.wire.open(call, target.config.model)
    tokens = json.loads(reply.body).get("input_tokens")
    if not isinstance(tokens, int):
        raise UpstreamError("The upstream's answer could not be understood", upstream_status=200)
    return Counted(tokens, estimated=False)


MESSAGES = "/messages"
COUNT = "/messages/count_tokens"


def anthropic_router(services: Services, settings: Settings, limits: RateLimits) -> APIRouter:
    """What clients of Anthropic ask, from any provider or the local model."""
    raw = limits.route_class("v1", settings.rate_limit_v1, RawRoute)
    router = APIRouter(prefix="/v1", route_class=raw, tags=["anthropic"])

    @router.post(MESSAGES)
    async def messages(request: Request) -> Response:
        """Anthropic's messages; made from chat completions where a target has none of its own."""
        return await relay(request, MESSAGES)

    @router.post(COUNT)
    async def messages_count_tokens(request: Request) -> Response:
        """The tokens of a message's prompt: exact at the local model and at Anthropic, else by four bytes each."""
        call = await read_call(request, COUNT, services.gateway.router.is_local)
        counted = await count_tokens(services, call)
        headers = {"X-Estimated": "true"} if counted.estimated else {}
        return JSONResponse({"input_tokens": counted.tokens}, headers=headers)

    return router
