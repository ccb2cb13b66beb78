"""The list of models, tokens of the local one, and what an embedder's tokenizer knows of texts.

The list has OpenAI's shape, and beside it whether each model can answer now, and which target would. Texts and chats
become tokens, and tokens text, by vLLM's two routes, in llama.cpp's words too.

POST /v1/embeddings/tokens is for processes that have no embedder. It is served by SERVE_ROLE=model alone: ingestion
measures passages by it, and search how much of a question is unknown.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from apps.api.src.wiring.services import Services
from apps.core.callers import Caller
from apps.core.errors import InvalidType, InvalidValue, MissingRequiredField, NotFound, quoted
from apps.core.fields import Schema
from apps.core.messages import ChatRequest, user_message
from apps.core.ports import STATES, Embedder, EmbedsTokens, KnowsWords, State, Tokenizing
from apps.gateway.openai_api.chat_request import chat_request, read_boolean
from apps.gateway.openai_api.embeddings import MOST_TEXTS
from apps.gateway.openai_api.fields import NEUTRAL, label, refuse_others
from apps.gateway.protocol import WireCall
from apps.gateway.routing.router import Needs, Router
from apps.gateway.routing.targets import Target


class TargetStatus(Schema):
    """One of a name's targets, in the order of the routing file."""

    target: str = Field(description="The provider, and its own name for the model", examples=["openai/gpt-4o-mini"])
    status: State
    reason: str
    breaker: str = Field(description="closed; open after too many failures; half_open while it is probed")


class Model(Schema):
    """A name that calls may use as their `model`."""

    id: str
    object: str = "model"
    created: int = Field(description="Unix time of this server's start: nobody else's is known")
    owned_by: str = Field(description="The provider of the first target")
    max_model_len: int | None = Field(
        description="Most tokens of prompt and answer, at the target that has the fewest; null: not known"
    )
    dimensions: int | None = Field(None, description="Of an embedding model's vectors, where they are known")
    status: State
    reason: str
    targets: list[TargetStatus]


class ModelList(Schema):
    object: str = "list"
    data: list[Model]


class ModelDirectory:
    """Lists the names of a router: those of the routing file, those of the models of this process, the default's."""

    def __init__(self, default_model: str) -> None:
        self._default_model = default_model
        self._created = int(time.time())

    def all(self, router: Router, more: Iterable[str] = ()) -> ModelList:
        """``more`` are names that the caller may use and others may not."""
        return ModelList(data=[self._model(name, targets) for name, targets in self.names(router, more).items()])

    def one(self, router: Router, name: str, more: Iterable[str] = ()) -> Model:
        """Raises NotFound for a name that is not listed, also where a default provider would take it."""
        names = self.names(router, more)
        if name not in names:
            others = f"; calls with it are handed to {router.default.name}" if router.default else ""
            raise NotFound(
                f"No model is listed as {quoted(name)}{others}",
                field="model",
                details={"available": list(names)},
            )
        return self._model(name, names[name])

    def names(self, router: Router, more: Iterable[str]) -> dict[str, Sequence[Target]]:
        """The targets of each name."""
        names: dict[str, Sequence[Target]] = {name: router.targets(name) for name in router.names()}
        for name, target in router.own().items():
            names.setdefault(name, [target])
        if router.default is not None and self._default_model not in names:
            names[self._default_model] = router.candidates(self._default_model, Needs())
        for name in more:
            names.setdefault(name, router.candidates(name, Needs()))
        return names

    def _model(self, name: str, targets: Sequence[Target]) -> Model:
        statuses = [_status(target) for target in targets]
        lengths = [length for target in targets if (length := _length(target)) is not None]
        best = min(statuses, key=lambda status: STATES.index(status.status))
        return Model(
            id=name,
            created=self._created,
            owned_by=targets[0].provider.name,
            max_model_len=min(lengths, default=None),
            dimensions=_dimensions(targets),
            status=best.status,
            reason=best.reason,
            targets=statuses,
        )


def _length(target: Target) -> int | None:
    """What a call may be long: of a model of this process by itself, of any other by the routing file."""
    details = target.provider.chat.readiness().details
    reported = details.get("context_length", details.get("longest_input"))
    known = [length for length in (reported, target.config.context) if isinstance(length, int)]
    return min(known, default=None)


def _dimensions(targets: Sequence[Target]) -> int | None:
    dimensions = targets[0].provider.chat.readiness().details.get("dimensions")
    return dimensions if isinstance(dimensions, int) else None


def _status(target: Target) -> TargetStatus:
    readiness, breaker = target.provider.chat.readiness(), target.breaker.state
    state, reason = readiness.state, readiness.reason
    if state in ("ready", "unknown") and breaker == "open":
        state, reason = "failed", "It failed too often and is left alone for a while"
    return TargetStatus(target=target.name, status=state, reason=reason, breaker=breaker)


TOKENIZE, DETOKENIZE, CHAT_TOKENS = "/tokenize", "/detokenize", "/chat/completions/input_tokens"
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
    listed: list[Any] = list(tokens)
    if pieces:
        listed = [{"id": token, "piece": piece} for token, piece in zip(tokens, shown, strict=True)]
    return {
        "count": len(tokens),
        "max_model_len": longest,
        "tokens": listed,
        "token_strs": shown if strings else None,
    }


async def chat_tokens_of(router: Router, call: WireCall) -> dict[str, Any]:
    """The answer to /chat/completions/input_tokens: how many tokens the prompt of a chat's body has.

    Raises an error of the contract's table that names the field.
    """
    chat, _ = _here(router, call)
    return await input_tokens(chat, call.body, call.caller)


async def input_tokens(chat: Tokenizing, body: Mapping[str, Any], caller: Caller) -> dict[str, Any]:
    """How many tokens the prompt of a chat has, in the words of a response."""
    tokens = await chat.tokenize(chat_request(body, caller))
    return {"object": "response.input_tokens", "input_tokens": len(tokens)}


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


class TokensBody(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")

    model: str = Field(description="The embedding model's name")
    input: Annotated[list[str], Field(min_length=1, max_length=MOST_TEXTS)]
    return_tokens: bool = Field(False, description="Whether the answer has the tokens")
    return_unknown_shares: bool = Field(False, description="Whether it has each text's share of unknown tokens")


class TokensAnswer(Schema):
    model: str
    counts: list[int] = Field(description="Tokens of each text, special ones included")
    tokens: list[list[int]] | None = None
    unknown_shares: list[float] | None = Field(None, description="0 to 1, of each text")


def embedding_tokens_router(services: Services) -> APIRouter:
    router = APIRouter(prefix="/v1", tags=["v1"])

    @router.post("/embeddings/tokens", response_model_exclude_none=True)
    async def tokens(body: TokensBody) -> TokensAnswer:
        """The tokens of texts, as an embedding model of this machine reads them."""
        embedder = _named(services, body.model)
        if not isinstance(embedder, EmbedsTokens):
            raise InvalidValue("The tokenizer of this model is not here", field="model")
        shares = None
        if body.return_unknown_shares:
            if not isinstance(embedder, KnowsWords):
                raise InvalidValue("This model does not tell what it does not know", field="model")
            shares = await embedder.unknown_shares(body.input)
        runs = await embedder.tokenize(body.input)
        return TokensAnswer(
            model=embedder.name,
            counts=[len(run) for run in runs],
            tokens=runs if body.return_tokens else None,
            unknown_shares=shares,
        )

    return router


def _named(services: Services, name: str) -> Embedder:
    """Raises NotFound."""
    here = [services.embedder, *services.embedders]
    found = next((one for one in here if one is not None and one.name == name), None)
    if found is None:
        raise NotFound(f"No embedding model is named {quoted(name)}", field="model")
    return found
