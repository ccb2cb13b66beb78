"""How many tokens a message's prompt has: the local model counts, Anthropic is asked, any other is estimated."""

import json
from typing import NamedTuple

from apps.api.src.anthropic.request import chat_body
from apps.api.src.anthropic.target import count_chat
from apps.api.src.wiring.services import Services
from apps.core.errors import UpstreamError
from apps.core.ports import Writer
from apps.gateway.openai_api.chat_request import chat_request
from apps.gateway.protocol import WireCall
from apps.gateway.routing.estimates import expected_use
from apps.gateway.routing.router import Needs
from apps.gateway.routing.targets import Target


class Counted(NamedTuple):
    """``estimated``: by the length of the prompt, since nobody here knows the model's tokenizer."""

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
        return await _asked(target, call)
    raw = json.dumps(chat, ensure_ascii=False).encode()
    return Counted(expected_use(call._replace(raw=raw)).prompt, estimated=True)


async def _asked(target: Target, call: WireCall) -> Counted:
    """What Anthropic counts. Raises what asking it raises."""
    reply = await target.provider.wire.open(call, target.config.model)
    tokens = json.loads(reply.body).get("input_tokens")
    if not isinstance(tokens, int):
        raise UpstreamError("The upstream's answer could not be understood", upstream_status=200)
    return Counted(tokens, estimated=False)
