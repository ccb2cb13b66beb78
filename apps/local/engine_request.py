"""A ChatRequest as the engine takes it: the prompt's tokens, how to sample, and how long the answer may be.

``LocalWindow`` counts prompts by the model's own tokenizer and chat template, to the token.
"""

import asyncio
from collections.abc import Sequence
from functools import partial

from apps.core.errors import ContextLengthExceeded, InvalidValue
from apps.core.messages import ChatRequest, JsonObject, Message
from apps.local.engine.port import Sampling
from apps.local.loading import Loaded
from apps.local.prompt import PromptOptions, text_of
from apps.local.tokenizer import ChatTokenizer

TEMPERATURE, TOP_P, MAX_TOKENS = 0.0, 0.9, 500
# shorter conversations take less time to tokenize than to hand to a thread
LONG_CONVERSATION = 4_000


def sampling_of(request: ChatRequest) -> Sampling:
    return Sampling(
        TEMPERATURE if request.temperature is None else request.temperature,
        TOP_P if request.top_p is None else request.top_p,
        MAX_TOKENS if request.max_tokens is None else request.max_tokens,
        request.seed,
        request.stop,
        top_logprobs=request.top_logprobs,
        top_k=request.top_k or 0,
        min_p=request.min_p or 0.0,
        repetition_penalty=1.0 if request.repetition_penalty is None else request.repetition_penalty,
        frequency_penalty=request.frequency_penalty or 0.0,
        presence_penalty=request.presence_penalty or 0.0,
        logit_bias=request.logit_bias or {},
        min_tokens=request.min_tokens or 0,
        ignore_eos=request.ignore_eos,
        prompt_logprobs=request.echo and request.top_logprobs is not None,
        tenant=request.caller.tenant,
        keep=request.cache.store,
    )


async def tokenized(loaded: Loaded, request: ChatRequest, tools: Sequence[JsonObject]) -> list[int]:
    if request.prompt_tokens is not None:
        return checked_tokens(request.prompt_tokens, loaded.tokenizer.vocabulary_size)
    texts = [text_of(message) for message in request.messages]
    options = PromptOptions(request.documents, request.template_arguments, request.continue_final_message)
    encode = partial(loaded.tokenizer.encode_chat, request.messages, tools, options)
    if request.raw:
        encode = partial(loaded.tokenizer.encode_raw, "".join(texts))
    soon = sum(map(len, texts)) < LONG_CONVERSATION and not tools and not request.documents
    tokens = encode() if soon else await asyncio.to_thread(encode)
    if not tokens:
        raise InvalidValue("The prompt has no tokens", field="prompt" if request.raw else "messages")
    return tokens


def checked_tokens(tokens: Sequence[int], vocabulary: int) -> list[int]:
    if not tokens:
        raise InvalidValue("Prompt must not be empty", field="prompt")
    if not all(0 <= token < vocabulary for token in tokens):
        details = {"min": 0, "max": vocabulary - 1}
        raise InvalidValue("Prompt has a token that the model does not have", field="prompt", details=details)
    return list(tokens)


def answer_limit(request: ChatRequest, prompt_tokens: int, max_tokens: int, context_length: int) -> int:
    """The answer's limit: what was asked for, or what there is room for where that may give way or was left open."""
    room = context_length - prompt_tokens
    if room >= 1 and request.fits:
        return room if request.max_tokens is None else min(max_tokens, room)
    if room >= 1 and request.max_tokens is None:
        return min(max_tokens, room)
    if max_tokens > room:
        raise ContextLengthExceeded(prompt_tokens, max_tokens, context_length)
    return max_tokens


class LocalWindow:
    """Implements ContextWindow."""

    def __init__(self, tokenizer: ChatTokenizer, context_length: int) -> None:
        self.tokens = context_length
        self.control = tokenizer.control_texts()
        self._tokenizer = tokenizer

    async def count(self, messages: Sequence[Message], tools: Sequence[JsonObject] = ()) -> int:
        return len(await asyncio.to_thread(self._tokenizer.encode_chat, messages, tools))
