"""The wire of OpenAI's API: a call as its caller sent it, an answer as its bytes, and what a call will need.

Whether the same call, made again, would be answered the same is read from its body, never from its answer. So is what
it will use at most, by the rule of thumb of four bytes a token.
"""

import json
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

from apps.core.callers import ANONYMOUS, Caller
from apps.core.calls import ASSUMED_ANSWER, CallRecord

TraceHeaders = Callable[[], Mapping[str, str]]


class PromptSize(NamedTuple):
    """How many ``tokens`` the text of a prompt has by the rule of thumb, and how many ``images`` are in it."""

    tokens: int
    images: int


@dataclass(frozen=True, slots=True)
class Conversation:
    """The items of a conversation, as the bytes of a JSON array: parsed they take several times as much memory."""

    items: bytes
    size: PromptSize

    def parsed(self) -> list[Mapping[str, Any]]:
        parsed: list[Mapping[str, Any]] = json.loads(self.items)
        return parsed


class WireCall(NamedTuple):
    """One POST. ``body`` is ``raw``, parsed; unknown fields travel along in both.

    The target that answers notes the usage on ``record``, and the model where that is not its own. ``fits``: the limit
    of the answer is no promise, and gives way where the model's context has not so much room. ``earlier`` is the kept
    conversation that the body goes on from, and names only.
    """

    path: str
    raw: bytes
    body: Mapping[str, Any]
    stream: bool
    caller: Caller = ANONYMOUS
    record: CallRecord | None = None
    fits: bool = False
    earlier: Conversation | None = None

    @property
    def prompt_size(self) -> PromptSize:
        """Of the body and of the conversation that it goes on from."""
        tokens, images = len(self.raw) // BYTES_PER_TOKEN, 0
        if self.raw.find(b"image") >= 0:
            tokens, images = prompt_size(self.raw, self.body.get("messages") or self.body.get("input"))
        if self.earlier is not None:
            tokens, images = self.earlier.size.tokens + tokens, self.earlier.size.images + images
        return PromptSize(tokens, images)

    def for_model(self, model: str) -> bytes:
        """The bytes for a target: untouched where it has the caller's own name for the model.

        A kept conversation that the call goes on from, which the target does not know, is in them.
        """
        body = self.body if self.earlier is None else self.self_contained()
        if body is self.body and body.get("model") == model:
            return self.raw
        return json.dumps({**body, "model": model}, ensure_ascii=False).encode()

    def self_contained(self) -> Mapping[str, Any]:
        """The body with the conversation that it goes on from in its ``input``, in place of the response's id.

        Without what a model thought and the ids of items but answers, which OpenAI looks up where it has made them.
        """
        given = self.body.get("input")
        if self.earlier is None or not isinstance(given, str | list):
            return self.body
        before = [
            item if item.get("role") == "assistant" else {name: item[name] for name in item if name != "id"}
            for item in self.earlier.parsed()
            if item.get("type") != "reasoning"
        ]
        new = [{"role": "user", "content": given}] if isinstance(given, str) else given
        body = {name: value for name, value in self.body.items() if name != "previous_response_id"}
        return {**body, "input": [*before, *new]}


class Blocks(Protocol):
    """An iterator of blocks of whole events that can be closed; every async generator of bytes is one."""

    def __aiter__(self) -> AsyncIterator[bytes]: ...

    async def __anext__(self) -> bytes: ...

    async def aclose(self) -> None: ...


@dataclass(slots=True)
class WireReply:
    """A 200: the whole body; or the first block of a stream, one or more whole events, and the ``rest`` of them.

    ``close`` must be awaited, whatever happens; it ends the upstream's work.
    """

    content_type: str
    body: bytes
    rest: Blocks | None = None

    async def close(self) -> None:
        if self.rest is not None:
            await self.rest.aclose()


class WireTarget(Protocol):
    """Answers calls in OpenAI's own shapes. Raises errors of apps.core.errors and nothing else."""

    async def open(self, call: WireCall, model: str) -> WireReply:
        """Send the call; a streamed reply is returned once its first block is there."""

    async def aclose(self) -> None: ...


@runtime_checkable
class MakesResponses(Protocol):
    """A WireTarget that says of its responses who makes them."""

    @property
    def makes_responses(self) -> bool:
        """Whether they are made from chat completions here, as far as that is known."""


# what these name lives outside the request, and changes
ELSEWHERE = ("web_search_options", "conversation", "previous_response_id", "prompt", "container", "mcp_servers")
OWN_TOOLS = frozenset({"function", "custom"})


def is_deterministic(call: WireCall, greedy: Callable[[], bool]) -> bool:
    """Embeddings; else one choice, at temperature 0 or with a seed, of nothing but what the request holds.

    ``greedy`` is called where it matters: whether the target takes a temperature that is not given for 0.
    """
    if call.path == "/embeddings":
        return True
    body = call.body
    if body.get("n") not in (None, 1) or _looks_elsewhere(call):
        return False
    temperature = body.get("temperature")
    if is_number(body.get("seed")) or (is_number(temperature) and temperature == 0):
        return True
    return temperature is None and greedy()


def is_whole_when_answered(call: WireCall) -> bool:
    """A response in the background is answered before there is an answer."""
    return not call.body.get("background")


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _looks_elsewhere(call: WireCall) -> bool:
    body, tools = call.body, call.body.get("tools")
    # in the older completions the prompt is the text itself
    names = [name for name in ELSEWHERE if name != "prompt" or call.path == "/responses"]
    if any(body.get(name) is not None for name in names):
        return True
    return isinstance(tools, list) and any(
        isinstance(t, Mapping) and t.get("type", "custom") not in OWN_TOOLS for t in tools
    )


BYTES_PER_TOKEN = 4
IMAGE_TOKENS = 1_000
# of an answer whose caller set no limit
LIMITS = ("max_completion_tokens", "max_tokens", "max_output_tokens")
SEVERAL = ("n", "best_of")
NO_ANSWER = frozenset({"/embeddings"})


class ExpectedUse(NamedTuple):
    """Tokens. ``limit`` is what the caller allows the answer, 0 where he set no limit; ``answer`` is what to expect."""

    prompt: int
    limit: int
    answer: int


def expected_use(call: WireCall) -> ExpectedUse:
    """Several choices and several prompts each have the limit; an image is a thousand tokens, whatever its size."""
    size = call.prompt_size
    prompt = size.tokens + size.images * IMAGE_TOKENS
    if call.path in NO_ANSWER:
        return ExpectedUse(prompt, 0, 0)
    limit, choices = _positive(call.body, LIMITS), 1
    if "n" in call.body or "best_of" in call.body:
        choices = max(1, *(_positive(call.body, (name,)) for name in SEVERAL))
    prompts = call.body.get("prompt") if call.path == "/completions" else None
    if isinstance(prompts, list) and prompts and not isinstance(prompts[0], int):
        choices *= len(prompts)
    return ExpectedUse(prompt, limit * choices, (limit or ASSUMED_ANSWER) * choices)


def _positive(body: Mapping[str, Any], names: tuple[str, ...]) -> int:
    """The first of these that is a positive integer; 0 where none is."""
    for name in names:
        found = body.get(name)
        if isinstance(found, int) and found > 0:
            return found
    return 0


def prompt_size(raw: bytes, messages: Any) -> PromptSize:
    """Of ``messages``, or items, whose JSON is in ``raw``: where images are among them, its bytes say nothing."""
    if raw.find(b"image") < 0 or not isinstance(messages, list):
        return PromptSize(len(raw) // BYTES_PER_TOKEN, 0)
    parts = [part for message in messages for part in _parts(message)]
    texts = [part for part in parts if not is_image(part)]
    images = len(parts) - len(texts)
    if not images:
        return PromptSize(len(raw) // BYTES_PER_TOKEN, 0)
    text = sum(len(str(part.get("text") or "").encode()) for part in texts)
    plain = sum(len(content.encode()) for m in messages if isinstance(content := _content(m), str))
    return PromptSize((text + plain) // BYTES_PER_TOKEN, images)


def is_image(part: Mapping[str, Any]) -> bool:
    return part.get("type") in ("image_url", "input_image", "image")


def _parts(message: Any) -> list[Mapping[str, Any]]:
    content = _content(message)
    return [part for part in content if isinstance(part, Mapping)] if isinstance(content, list) else []


def _content(message: Any) -> Any:
    """Of a message, or what a function has put out: that may be an image too."""
    return message.get("content") or message.get("output") if isinstance(message, Mapping) else None
