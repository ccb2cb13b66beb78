"""Texts and chats as the tokens of the local model, and tokens as text: vLLM's two routes, in llama.cpp's words too."""

from collections.abc import Mapping
from typing import Any

from apps.core.errors import InvalidType, InvalidValue, MissingRequiredField
from apps.core.messages import ChatRequest, user_message
from apps.core.ports import Tokenizing
from apps.gateway.openai_api.chat_request import chat_request, read_boolean
from apps.gateway.openai_api.fields import NEUTRAL, label, refuse_others
from apps.gateway.protocol import WireCall
from apps.gateway.routing.router import Needs, Router

TOKENIZE, DETOKENIZE = "/tokenize", "/detokenize"
STRINGS, PIECES = "return_token_strs", "with_pieces"
# vLLM's word and llama.cpp's, and whether a bare prompt begins as the model was trained to see a text begin
PROMPTS = {"prompt": ("add_special_tokens", True), "content": ("add_special", False)}
# special tokens that stand in the text are read as such
PROMPT_NEUTRAL: Mapping[str, tuple[Any, ...]] = {**NEUTRAL, "parse_special": (True,)}
MOST_TOKENS = 1_000_000


async def tokens_of(router: Router, call: WireCall) -> dict[str, Any]:
    """The answer to /tokenize: of a ``prompt``, or of ``messages`` as the chat template writes them, tools and all.

    Raises an error of the contract's table that names the field.
    """
    (chat, longest), body = _here(router, call), call.body
    given = [name for name in (*PROMPTS, "messages") if body.get(name) is not None]
    if len(given) != 1:
        raise MissingRequiredField("Either prompt or messages is required, and not both", field="prompt")
    strings, pieces = read_boolean(body, STRINGS), read_boolean(body, PIECES)
    tokens = await _tokens(chat, body, given[0], call)
    shown = await chat.pieces(tokens) if tokens and (strings or pieces) else []
    told: list[Any] = list(tokens)
    if pieces:
        told = [{"id": token, "piece": piece} for token, piece in zip(tokens, shown, strict=True)]
    return {
        "count": len(tokens),
        "max_model_len": longest,
        "tokens": told,
        "token_strs": shown if strings else None,
    }


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
        text = await chat.detokenize(tokens) if tokens else ""
    except InvalidValue as error:
        error.field = "tokens"
        raise
    return {"prompt": text, "content": text}


async def _tokens(chat: Tokenizing, body: Mapping[str, Any], name: str, call: WireCall) -> list[int]:
    """Of the field ``name``: a chat's, or those of a bare text."""
    if name == "messages":
        return await chat.tokenize(
            chat_request({k: v for k, v in body.items() if k not in (STRINGS, PIECES)}, call.caller)
        )
    switch, special = PROMPTS[name]
    refuse_others(body, ("model", name, switch, STRINGS, PIECES), PROMPT_NEUTRAL)
    if not isinstance(body[name], str):
        raise InvalidType(f"{label(name)} must be a string", field=name)
    wanted = read_boolean(body, switch)
    if not body[name]:
        return []
    request = ChatRequest(user_message(body[name]), raw=True, caller=call.caller)
    return await chat.tokenize(request, special=special if wanted is None else wanted)


def _here(router: Router, call: WireCall) -> tuple[Tokenizing, Any]:
    """The model of the call's name, and its context length. Raises InvalidValue where its tokenizer is not here."""
    chat = router.candidates(str(call.body["model"]), Needs())[0].provider.chat
    longest = chat.readiness().details.get("context_length")
    if not isinstance(chat, Tokenizing):
        raise InvalidValue("The tokenizer of this model is not here: only the local model's is", field="model")
    return chat, longest
