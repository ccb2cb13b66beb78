"""A cloud model: any upstream that speaks OpenAI's chat API, as a ChatModel.

It turns requests into bodies and chunks into deltas. It always streams from the upstream, so that the read
timeout is a silence between bytes and never the length of an answer.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from apps.core.calls import Usage
from apps.core.deltas import Delta, TokenLogprob, ToolCallDelta
from apps.core.errors import ModelUnavailable, UpstreamError
from apps.core.messages import ChatRequest, Message
from apps.core.ports import Readiness
from apps.core.settings import Settings
from apps.models.event_stream import SurrogateJoiner
from apps.models.wrapper import digest_of

if TYPE_CHECKING:
    from apps.models.openai_transport import OpenAITransport

OPENAI_URL = "https://api.openai.com/v1"
NO_KEY = "set OPENAI_API_KEY, or OPENAI_BASE_URL for an upstream that needs no key"
# more than this nobody has used: sums of a ledger full of them still fit
MOST_TOKENS = 10**12


class OpenAIModel:
    """Configured by a key, or by the base URL of an upstream that needs none; ``trace`` is the transport's."""

    def __init__(self, settings: Settings, trace: Callable[[], Mapping[str, str]] | None = None) -> None:
        self._settings = settings
        self._trace = trace
        self._key = settings.openai_api_key.get_secret_value()
        self._configured = bool(self._key) or settings.openai_base_url.rstrip("/") != OPENAI_URL
        self._transport: OpenAITransport | None = None
        self._opening: asyncio.Task[OpenAITransport] | None = None

    async def start(self) -> None:
        """Import the SDK in the background: a second's work that the first caller should not wait for."""
        if self._configured:
            self._opening = asyncio.create_task(asyncio.to_thread(self._open))

    def readiness(self) -> Readiness:
        if self._configured:
            return Readiness(self._settings.default_model, "ready", "configured")
        return Readiness(self._settings.default_model, "not_configured", NO_KEY)

    def revision(self, request: ChatRequest) -> str:
        return digest_of(self._settings.openai_base_url, request.model or self._settings.default_model)

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Delta, None]:
        transport = await self._ready_transport()
        body = chat_body(request, self._settings.default_model)
        async with aclosing(deltas_of(transport.chat(body), body["model"])) as deltas:
            async for delta in deltas:
                yield delta

    async def aclose(self) -> None:
        if self._opening:
            await asyncio.wait({self._opening})
        if self._transport:
            await self._transport.aclose()

    def _open(self) -> "OpenAITransport":
        from apps.models.openai_transport import OpenAITransport, Timeouts

        s = self._settings
        timeouts = Timeouts(s.connect_timeout, s.read_timeout, s.write_timeout)
        self._transport = OpenAITransport(
            base_url=s.openai_base_url, api_key=self._key, timeouts=timeouts, trace=self._trace
        )
        return self._transport

    async def _ready_transport(self) -> "OpenAITransport":
        if not self._configured:
            raise ModelUnavailable(f"The cloud model is not configured: {NO_KEY}", retry_after=60)
        if self._transport is None and self._opening:
            return await asyncio.shield(self._opening)
        return self._transport or self._open()


def chat_body(request: ChatRequest, default_model: str) -> dict[str, Any]:
    """The body of POST /chat/completions; what the caller left open is left out."""
    optional = {
        "temperature": request.temperature,
        "top_p": request.top_p,
        "max_tokens": request.max_tokens,
        "stop": list(request.stop) or None,
        "seed": request.seed,
        "tools": list(request.tools) or None,
        "tool_choice": request.tool_choice,
        "parallel_tool_calls": request.parallel_tool_calls,
        "response_format": request.response_format,
        "logprobs": None if request.top_logprobs is None else True,
        "top_logprobs": request.top_logprobs or None,
        "frequency_penalty": request.frequency_penalty,
        "presence_penalty": request.presence_penalty,
        "logit_bias": {str(token): bias for token, bias in (request.logit_bias or {}).items()} or None,
        # not OpenAI's: the names that vLLM and most others know them by; an upstream without them says so itself
        "top_k": request.top_k,
        "min_p": request.min_p,
        "repetition_penalty": request.repetition_penalty,
        "min_tokens": request.min_tokens,
        "ignore_eos": request.ignore_eos or None,
        "structured_outputs": _structured_outputs(request) or None,
        "chat_template_kwargs": request.template_arguments,
        "documents": list(request.documents) or None,
    }
    if request.continue_final_message:
        optional |= {"continue_final_message": True, "add_generation_prompt": False}
    body = {"model": request.model or default_model, "messages": [_message(m) for m in request.messages]}
    return body | {name: value for name, value in optional.items() if value is not None}


async def deltas_of(chunks: AsyncGenerator[dict[str, Any], None], asked: str) -> AsyncGenerator[Delta, None]:
    """Parsed chunks in, deltas out; ``asked`` is the model's name where the chunks do not say.

    Raises UpstreamError where they end without a finish reason, or have a shape that nobody knows.
    """
    joiner = SurrogateJoiner()
    finish = model = usage = None
    async with aclosing(chunks):
        async for chunk in chunks:
            model = _text(chunk.get("model")) or model or asked
            usage = _usage(chunk.get("usage")) or usage
            text, calls, logprobs, ended = _read_choice(chunk)
            finish = ended or finish
            text = joiner.join(text)
            if text or calls or logprobs:
                yield Delta(text, calls, model=model, logprobs=logprobs)
    if finish is None:
        raise UpstreamError("The upstream's answer was cut off before its end", details={"upstream_status": 200})
    yield Delta(joiner.flush(), finish_reason=finish, model=model, usage=usage)


def _structured_outputs(request: ChatRequest) -> dict[str, Any]:
    forms = {
        "regex": request.answer_regex,
        "choice": list(request.answer_choices) or None,
        "grammar": request.answer_grammar,
    }
    return {name: form for name, form in forms.items() if form is not None}


def _message(message: Message) -> dict[str, Any]:
    content = message.content if isinstance(message.content, str) else list(message.content)
    plain: dict[str, Any] = {"role": message.role, "content": content}
    if message.tool_calls:
        plain["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.tool_calls
        ]
    if message.tool_call_id is not None:
        plain["tool_call_id"] = message.tool_call_id
    if message.name is not None:
        plain["name"] = message.name
    if message.reasoning is not None:
        plain["reasoning_content"] = message.reasoning
    return plain


def _read_choice(
    chunk: dict[str, Any],
) -> tuple[str, tuple[ToolCallDelta, ...], tuple[TokenLogprob, ...], str | None]:
    """What the first choice has of text, tool calls and log probabilities, and its finish reason; a whole ``message``
    counts as one delta."""
    choices = chunk.get("choices") or []
    if not choices:
        return "", (), (), None
    try:
        choice = choices[0]
        delta = choice.get("delta") or choice.get("message") or {}
        calls = tuple(_tool_calls(delta.get("tool_calls") or ()))
        logprobs = tuple(map(_logprob, (choice.get("logprobs") or {}).get("content") or ()))
        return _text(delta.get("content")), calls, logprobs, _text(choice.get("finish_reason")) or None
    except (AttributeError, KeyError, TypeError, ValueError, IndexError, OverflowError):
        raise UpstreamError("The upstream's answer has an unknown shape", details={"upstream_status": 200}) from None


def _tool_calls(pieces: Iterable[dict[str, Any]]) -> Iterable[ToolCallDelta]:
    for position, piece in enumerate(pieces):
        function = piece.get("function") or {}
        index = piece.get("index")
        yield ToolCallDelta(
            index if isinstance(index, int) else position,
            _text(piece.get("id")) or None,
            _text(function.get("name")) or None,
            _text(function.get("arguments")),
        )


def _logprob(entry: dict[str, Any]) -> TokenLogprob:
    rivals = entry.get("top_logprobs") or ()
    return TokenLogprob(*_spelled(entry), tuple(TokenLogprob(*_spelled(rival)) for rival in rivals))


def _spelled(entry: dict[str, Any]) -> tuple[str, bytes, float]:
    """The token without lone surrogates, its bytes, which not every upstream tells, and its log probability."""
    text = _text(entry["token"]).encode("utf-8", "replace")
    told = entry.get("bytes")
    return text.decode(), bytes(told) if isinstance(told, list) else text, float(entry["logprob"])


def _usage(usage: Any) -> Usage | None:
    if not isinstance(usage, dict):
        return None
    details = usage.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, dict) else None
    counts = (usage.get("prompt_tokens"), usage.get("completion_tokens"), cached or 0)
    sound = all(isinstance(count, int) and 0 <= count <= MOST_TOKENS for count in counts)
    return Usage(*counts) if sound else None  # type: ignore[arg-type]


def _text(value: Any) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise UpstreamError("The upstream's answer has an unknown shape", details={"upstream_status": 200})
    return value
