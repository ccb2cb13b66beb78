"""OpenAI's chat API, the client's half: requests as bodies, and the chunks of an answer as deltas.

One reader of choices serves everything that looks into an upstream's answer: /generate, agents, and the translations of
/v1. It takes what upstreams really send. OpenAI sends a tool call's index with each piece, its id and name with the
first, and its arguments as pieces of text. Others send index 0 for every call, null or none; an id or a name that comes
later, or again with each piece; arguments as an object, as null, or not at all. A call is given on once its name is
known, and its id where one is about to come.
"""

import json
import secrets
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from apps.core.calls import Usage
from apps.core.deltas import Delta, TokenLogprob, ToolCallDelta
from apps.core.errors import UpstreamError
from apps.core.messages import ChatRequest, Message
from apps.models.event_stream import SurrogateJoiner
from apps.models.upstream_errors import nonsense

NO_ARGUMENTS = "{}"


@dataclass(slots=True)
class _Call:
    """A call in the making; ``place`` is the upstream's index, ``index`` ours once the call has been given on."""

    place: int | None
    id: str = ""
    name: str = ""
    arguments: str = ""
    index: int | None = None


class ToolCallReader:
    """Reads the calls of one choice. Raises UpstreamError for unknown shapes."""

    def __init__(self) -> None:
        self._calls: list[_Call] = []
        self._given = 0

    def read(self, pieces: Any) -> list[ToolCallDelta]:
        """What the pieces of one delta, or the calls of a whole message, add."""
        if not isinstance(pieces, list | tuple):
            raise unknown_shape()
        return [delta for piece in pieces for delta in self._read(piece)]

    def finish(self) -> list[ToolCallDelta]:
        """What was held back, at the answer's end. Raises UpstreamError for a call without a name."""
        deltas: list[ToolCallDelta] = []
        for call in self._calls:
            if not call.name:
                raise nonsense("The upstream's answer calls a tool without a name")
            missing = "" if call.arguments.strip() else NO_ARGUMENTS
            call.arguments += missing
            if call.index is None:
                deltas.append(self._first(call))
            elif missing:
                deltas.append(ToolCallDelta(call.index, arguments=missing))
        return deltas

    def _read(self, piece: Any) -> list[ToolCallDelta]:
        if not isinstance(piece, Mapping):
            raise unknown_shape()
        function = piece.get("function")
        function = {} if function is None else function
        if not isinstance(function, Mapping):
            raise unknown_shape()
        place = piece.get("index")
        place = place if type(place) is int else None
        id, name = text_of(piece.get("id")), text_of(function.get("name"))
        arguments = _arguments(function.get("arguments"))
        call = self._call_of(place, id, name, arguments)
        if not isinstance(function.get("arguments"), str | None) and call.arguments:
            # a whole object is never the continuation of a text
            if call.arguments != arguments:
                raise unknown_shape()
            arguments = ""
        call.id, call.name = call.id or id, call.name or name
        call.arguments += arguments
        if call.index is not None:
            return [ToolCallDelta(call.index, arguments=arguments)] if arguments else []
        # an id may come with the next piece, and a client takes it from the first that it sees
        if call.name and (call.id or call.arguments):
            return [self._first(call)]
        return []

    def _first(self, call: _Call) -> ToolCallDelta:
        call.index = self._given
        self._given += 1
        call.id = call.id or f"call_{secrets.token_hex(12)}"
        return ToolCallDelta(call.index, call.id, call.name, call.arguments)

    def _call_of(self, place: int | None, id: str, name: str, arguments: str) -> _Call:
        """The call that a piece belongs to, or a new one."""
        for call in self._calls:
            if id and call.id == id and (place is None or call.place is None or call.place == place):
                return call
        last = next((call for call in reversed(self._calls) if place is None or call.place == place), None)
        if last is None or self._begins(last, id, name, arguments):
            last = _Call(place)
            self._calls.append(last)
        return last

    @staticmethod
    def _begins(last: _Call, id: str, name: str, arguments: str) -> bool:
        """Whether a piece begins a call of its own, though an earlier one has its place."""
        if id and last.id:
            # some upstreams make up another id for each piece of arguments
            return bool(name) or not arguments or _is_whole(last.arguments)
        if name and last.name:
            return name != last.name or _is_whole(last.arguments)
        return False


def text_of(value: Any) -> str:
    """A text or nothing. Raises UpstreamError for everything else."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise unknown_shape()
    return value


def unknown_shape() -> UpstreamError:
    return nonsense("The upstream's answer has an unknown shape")


def _arguments(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, Mapping) else text_of(value)


def _is_whole(arguments: str) -> bool:
    try:
        json.loads(arguments)
    except (ValueError, RecursionError):
        return False
    return True


# no call uses more than this: sums of a ledger full of them still fit
MOST_TOKENS = 10**12
# kinds of content parts that hold what a model thinks, and not what it says
THINKING = frozenset({"thinking", "reasoning", "reasoning_content"})


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
        "stop_token_ids": list(request.stop_tokens) or None,
        "allowed_token_ids": list(request.allowed_tokens) or None,
        "bad_words": list(request.bad_words) or None,
        "logprob_token_ids": list(request.scored_tokens) or None,
        "structured_outputs": _structured_outputs(request) or None,
        "chat_template_kwargs": request.template_arguments,
        "documents": list(request.documents) or None,
    }
    if request.continue_final_message:
        optional |= {"continue_final_message": True, "add_generation_prompt": False}
    elif not request.generation_prompt:
        optional |= {"add_generation_prompt": False}
    body = {"model": request.model or default_model, "messages": [_message(m) for m in request.messages]}
    return body | {name: value for name, value in optional.items() if value is not None}


@dataclass(frozen=True, slots=True)
class ChoiceDelta:
    """What a chunk adds to a choice. ``reasoning`` is no part of the answer's text."""

    text: str = ""
    reasoning: str = ""
    refusal: str = ""
    tool_calls: tuple[ToolCallDelta, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: str | None = None


class ChoiceReader:
    """Reads one choice of an answer, chunk by chunk; a whole ``message`` counts as one delta."""

    def __init__(self) -> None:
        self._calls = ToolCallReader()

    def read(self, choice: Any) -> ChoiceDelta:
        """Raises UpstreamError where the choice has an unknown shape."""
        try:
            delta = choice.get("delta") or choice.get("message") or {}
            text, reasoning = read_content(delta.get("content"))
            reasoning += text_of(delta.get("reasoning_content") or delta.get("reasoning"))
            finish = text_of(choice.get("finish_reason")) or None
            calls = self._calls.read(delta.get("tool_calls") or ())
            if finish:
                calls += self._calls.finish()
            logprobs = tuple(map(_logprob, (choice.get("logprobs") or {}).get("content") or ()))
            refusal = text_of(delta.get("refusal"))
        except (AttributeError, KeyError, TypeError, ValueError, IndexError, OverflowError):
            raise unknown_shape() from None
        return ChoiceDelta(text, reasoning, refusal, tuple(calls), logprobs, finish)


def read_content(content: Any) -> tuple[str, str]:
    """The text and the thinking of a ``content``, which is a text or a list of parts.

    Raises UpstreamError, TypeError and AttributeError for other shapes.
    """
    if not isinstance(content, list):
        return text_of(content), ""
    texts, thoughts = [], []
    for part in content:
        if isinstance(part, str):
            texts.append(part)
        elif part.get("type") in THINKING:
            thoughts.append(_thought(part.get(part["type"]) or part.get("text") or ""))
        else:
            texts.append(text_of(part.get("text")))
    return "".join(texts), "".join(thoughts)


async def deltas_of(chunks: AsyncGenerator[dict[str, Any], None], requested_model: str) -> AsyncGenerator[Delta, None]:
    """Parsed chunks in, deltas of the first choice out; ``asked`` is the model's name where the chunks do not say.

    Raises UpstreamError where they end without a finish reason, or have an unknown shape.
    """
    joiner, reader = SurrogateJoiner(), ChoiceReader()
    finish = model = usage = None
    async with aclosing(chunks):
        async for chunk in chunks:
            model = text_of(chunk.get("model")) or model or requested_model
            usage = _usage(chunk.get("usage")) or usage
            choice = _first_choice(chunk)
            if choice is None:
                continue
            read = reader.read(choice)
            finish = read.finish_reason or finish
            text = joiner.join(read.text)
            if text or read.tool_calls or read.logprobs:
                yield Delta(text, read.tool_calls, model=model, logprobs=read.logprobs)
    if finish is None:
        raise nonsense("The upstream's answer was cut off before its end")
    yield Delta(joiner.flush(), finish_reason=finish, model=model, usage=usage)


def _first_choice(chunk: Mapping[str, Any]) -> Any:
    """The choice that deltas are made from; those of other indexes are other answers."""
    choices = chunk.get("choices")
    if not choices:
        return None
    if not isinstance(choices, list):
        raise unknown_shape()
    return choices[0]


def _thought(value: Any) -> str:
    return text_of(value) if not isinstance(value, list) else read_content(value)[0]


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


def _logprob(entry: dict[str, Any]) -> TokenLogprob:
    rivals = entry.get("top_logprobs") or ()
    return TokenLogprob(*_token_of(entry), tuple(TokenLogprob(*_token_of(rival)) for rival in rivals))


def _token_of(entry: dict[str, Any]) -> tuple[str, bytes, float]:
    """The token without lone surrogates, its bytes, which not every upstream tells, and its log probability."""
    text = text_of(entry["token"]).encode("utf-8", "replace")
    listed = entry.get("bytes")
    return text.decode(), bytes(listed) if isinstance(listed, list) else text, float(entry["logprob"])


def _usage(usage: Any) -> Usage | None:
    if not isinstance(usage, dict):
        return None
    details = usage.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, dict) else None
    counts = (usage.get("prompt_tokens"), usage.get("completion_tokens"), cached or 0)
    sound = all(isinstance(count, int) and 0 <= count <= MOST_TOKENS for count in counts)
    return Usage(*counts) if sound else None  # type: ignore[arg-type]
