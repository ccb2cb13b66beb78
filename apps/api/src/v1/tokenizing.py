"""Texts and chats as the tokens of the local model, and tokens as text: vLLM's two routes."""

from collections.abc import Mapping
from typing import Any

from apps.core.errors import InvalidType, InvalidValue, MissingRequiredField
from apps.core.messages import ChatRequest, user_message
from apps.core.ports import Tokenizing
from apps.gateway.openai_api.chat_request import chat_request
from apps.gateway.openai_api.fields import NEUTRAL, refuse_others
from apps.gateway.protocol import WireCall
from apps.gateway.routing.router import Needs, Router

TOKENIZE, DETOKENIZE = "/tokenize", "/detokenize"
STRINGS = "return_token_strs"
STRINGS_NEUTRAL: Mapping[str, tuple[Any, ...]] = {**NEUTRAL, STRINGS: (False,)}
# a bare prompt begins as the model was trained to see a text begin
PROMPT_NEUTRAL = {**STRINGS_NEUTRAL, "add_special_tokens": (True,)}
MOST_TOKENS = 1_000_000


async def tokens_of(router: Router, call: WireCall) -> dict[str, Any]:
    """The answer to /tokenize: of a ``prompt``, or of ``messages`` as the chat template writes them, tools and all.

    Raises an error of the contract's table that names the field.
    """
    (chat, longest), body = _here(router, call), call.body
    if (body.get("prompt") is None) == (body.get("messages") is None):
        raise MissingRequiredField("Either prompt or messages is required, and not both", field="prompt")
    tokens = await _tokens(chat, body, call) if body.get("prompt") != "" else []
    return {"count": len(tokens), "max_model_len": longest, "tokens": tokens, "token_strs": None}


async def text_of(router: Router, call: WireCall) -> dict[str, Any]:
    """The answer to /detokenize. Raises an error of the contract's table that names the field."""
    (chat, _), tokens = _here(router, call), call.body.get("tokens")
    refuse_others(call.body, ("model", "tokens"))
    if tokens is None:
        raise MissingRequiredField("Tokens is required", field="tokens")
    if not isinstance(tokens, list) or not all(isinstance(t, int) and not isinstance(t, bool) for t in tokens):
        raise InvalidType("Tokens must be an array of integers", field="tokens")
    if len(tokens) > MOST_TOKENS:
        details = {"max": MOST_TOKENS, "received": len(tokens)}
        raise InvalidValue(f"Tokens must be at most {MOST_TOKENS}", field="tokens", details=details)
    try:
        return {"prompt": await chat.detokenize(tokens) if tokens else ""}
    except InvalidValue as error:
        error.field = "tokens"
        raise


async def _tokens(chat: Tokenizing, body: Mapping[str, Any], call: WireCall) -> list[int]:
    if body.get("messages") is not None:
        refuse_others({STRINGS: body.get(STRINGS)}, (), STRINGS_NEUTRAL)
        return await chat.tokenize(chat_request({k: v for k, v in body.items() if k != STRINGS}, call.caller))
    refuse_others(body, ("model", "prompt"), PROMPT_NEUTRAL)
    if not isinstance(body["prompt"], str):
        raise InvalidType("Prompt must be a string", field="prompt")
    return await chat.tokenize(ChatRequest(user_message(body["prompt"]), raw=True, caller=call.caller))


def _here(router: Router, call: WireCall) -> tuple[Tokenizing, Any]:
    """The model of the call's name, and its context length. Raises InvalidValue where its tokenizer is not here."""
    chat = router.candidates(str(call.body["model"]), Needs())[0].provider.chat
    longest = chat.readiness().details.get("context_length")
    if not isinstance(chat, Tokenizing):
        raise InvalidValue("The tokenizer of this model is not here: only the local model's is", field="model")
    return chat, longest
