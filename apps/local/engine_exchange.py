"""Between the ChatModel port and an engine: a request as the engine takes it, its outputs as the deltas of an answer.

A request becomes the prompt's tokens, how to sample, and how long the answer may be; ``LocalWindow`` counts prompts by
the model's own tokenizer and chat template, to the token. Deltas are the prompt where that is echoed, thoughts, tool
calls and text. Thoughts are `<think>` at the beginning of an answer, up to `</think>`; a budget may end them. The
grammar of the answer has made sure of the form of tool calls (grammar.py); nothing is validated here.
"""

import asyncio
import json
import re
import secrets
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from apps.core.calls import Usage
from apps.core.deltas import Delta, PromptTokens, TokenLogprob, ToolCallDelta
from apps.core.errors import ContextLengthExceeded, InvalidValue
from apps.core.messages import ChatRequest, JsonObject, Message
from apps.local.answer_grammar import begins_freely, offered_tools
from apps.local.detokenizer import Detokenizer, PendingLogprobs, StopStrings
from apps.local.engine.port import EngineOutput, Sampling
from apps.local.loading import Loaded
from apps.local.prompt import CALL_BEGINS, PromptOptions, text_of
from apps.local.tokenizer import ChatTokenizer

TEMPERATURE, TOP_P, MAX_TOKENS = 0.0, 0.9, 500
# shorter conversations take less time to tokenize than to hand to a thread
LONG_CONVERSATION = 4_000


def sampling_of(request: ChatRequest, tokenizer: ChatTokenizer) -> Sampling:
    """Raises InvalidValue for tokens that the model does not have."""
    for field, tokens in (
        ("stop_token_ids", request.stop_tokens),
        ("allowed_token_ids", request.allowed_tokens),
        ("logprob_token_ids", request.scored_tokens),
        ("logit_bias", tuple(request.logit_bias or ())),
    ):
        _check_tokens(tokens, tokenizer.vocabulary_size, field)
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
        stop_tokens=frozenset(request.stop_tokens),
        allowed_tokens=request.allowed_tokens,
        scored_tokens=request.scored_tokens,
        bad_sequences=_bad_sequences(request.bad_words, tokenizer),
        prompt_logprobs=_prompt_logprobs(request),
        # who is told the tokens finds as many entries
        end_logprob=request.token_ids,
        tenant=request.caller.tenant,
        keep=request.cache.store,
    )


def _check_tokens(tokens: Sequence[int], vocabulary: int, field: str) -> None:
    unknown = [token for token in tokens if token >= vocabulary]
    if unknown:
        raise InvalidValue(
            f"{field.replace('_', ' ').capitalize()} must be of the model's {vocabulary} tokens: {unknown[0]} is none",
            field=field,
            details={"min": 0, "max": vocabulary - 1},
        )


def _bad_sequences(words: Sequence[str], tokenizer: ChatTokenizer) -> tuple[tuple[int, ...], ...]:
    """The tokens of each word at the beginning of a text and behind a blank, as vLLM reads ``bad_words``."""
    texts = [text for word in words for text in (word.lstrip(), f" {word.lstrip()}")]
    return tuple(dict.fromkeys(tuple(tokens) for text in texts if (tokens := tokenizer.encode_text(text))))


def _prompt_logprobs(request: ChatRequest) -> int | None:
    """The alternatives a token of the prompt; None where none of its tokens is told of."""
    echoed = request.top_logprobs if request.echo and request.raw else None
    wanted = [top for top in (echoed, request.prompt_logprobs) if top is not None]
    return max(wanted, default=None)


async def tokenized(loaded: Loaded, request: ChatRequest, tools: Sequence[JsonObject]) -> list[int]:
    """The prompt's tokens, cut where that is asked for. Raises InvalidValue."""
    tokens = await _encoded(loaded, request, tools)
    if request.truncate_prompt is None:
        return tokens
    most = request.truncate_prompt
    if most == -1:
        context = loaded.engine.context_length
        most = context - min(context // 2 if request.max_tokens is None else request.max_tokens, context - 1)
    return tokens[:most] if request.truncate_right else tokens[-most:]


async def _encoded(loaded: Loaded, request: ChatRequest, tools: Sequence[JsonObject]) -> list[int]:
    if request.prompt_tokens is not None:
        return checked_tokens(request.prompt_tokens, loaded.tokenizer.vocabulary_size)
    texts = [text_of(message) for message in request.messages]
    options = PromptOptions(
        request.documents, request.template_arguments, request.continue_final_message, request.generation_prompt
    )
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


THOUGHT_BEGINS, THOUGHT_ENDS = "<think>", "</think>"


# behind its mark a template may begin a line
PROMPT_TAIL = 8


def begins_thoughts(tokenizer: ChatTokenizer, prompt: Sequence[int]) -> bool:
    """Whether the prompt's end has opened the thoughts already."""
    return tokenizer.decode(prompt[-PROMPT_TAIL:]).rstrip().endswith(THOUGHT_BEGINS)


def _ends(tools: bool) -> list[str]:
    return [THOUGHT_ENDS, CALL_BEGINS] if tools else [THOUGHT_ENDS]


class ReasoningReader:
    """One answer's. ``tokens`` counts those of the thoughts, the marks among them.

    ``begun``: the prompt's end has opened the thoughts already. ``tools``: a call ends them too, since the grammar
    takes it for one wherever it begins.
    """

    def __init__(self, *, begun: bool = False, tools: bool = False) -> None:
        self.tokens = 0
        self._ends = _ends(tools)
        self._end: StopStrings | None = StopStrings(self._ends) if begun else None
        self._undecided: str | None = None if begun else ""
        self._logprobs = PendingLogprobs()
        self._tells_logprobs = False

    def read(self, output: EngineOutput) -> tuple[str, EngineOutput]:
        """The thoughts that have become certain, and the output without them and without their log probabilities."""
        last = output.finish_reason is not None
        self._tells_logprobs = self._tells_logprobs or bool(output.logprobs)
        if self._end is None and self._undecided is None and not (last or self._tells_logprobs):
            # an answer whose thoughts are over
            return "", output
        self._logprobs.add(output.logprobs)
        thoughts, text, skipped = self._split(output.text, last)
        if self._end is not None or thoughts or skipped:
            self.tokens = output.completion_tokens
        self._logprobs.take(skipped)
        logprobs = self._logprobs.take(text)
        if last:
            logprobs += self._logprobs.rest() if self._end is None else ()
        return thoughts, replace(output, text=text, logprobs=logprobs)

    def _split(self, text: str, last: bool) -> tuple[str, str, str]:
        """Thoughts, answer, and all of the text up to where the answer begins."""
        whole = text
        if self._undecided is not None:
            whole = text = self._undecided + text
            beginning = text.lstrip()
            if (
                not last
                and THOUGHT_BEGINS.startswith(beginning[: len(THOUGHT_BEGINS)])
                and len(beginning) < len(THOUGHT_BEGINS)
            ):
                self._undecided = text
                return "", "", ""
            self._undecided = None
            if beginning.startswith(THOUGHT_BEGINS):
                self._end, text = StopStrings(self._ends), beginning[len(THOUGHT_BEGINS) :].removeprefix("\n")
        if self._end is None:
            return "", text, ""
        thoughts = self._end.feed(text)
        if self._end.found:
            call = self._end.found == CALL_BEGINS
            rest = CALL_BEGINS + self._end.rest if call else self._end.rest.lstrip("\n")
            self._end = None
            # a mark may have begun in the text before
            return thoughts, rest, whole[: max(0, len(whole) - len(rest))]
        if last:
            thoughts += self._end.flush()
        return thoughts, "", whole


class ThinkingBudget:
    """Implements Prescription: after ``most`` tokens of thoughts their end mark comes.

    ``begun`` and ``tools`` are those of `ReasoningReader`.
    """

    def __init__(self, most: int, tokenizer: ChatTokenizer, *, begun: bool, tools: bool) -> None:
        self._most = most
        self._detokenizer = Detokenizer(tokenizer.decode)
        self._mark = tokenizer.encode_text(THOUGHT_ENDS)
        self._written = 0
        self._stops = StopStrings(_ends(tools))
        self._beginning = ""
        self._thinking = begun
        self._over = False
        self._count = 0

    def due(self) -> int | None:
        if self._over or not self._thinking or self._count < self._most:
            return None
        return self._mark[self._written]

    def advance(self, token: int) -> None:
        if self._over:
            return
        if (due := self.due()) is not None:
            self._written += 1
            # a grammar that has no place for the mark has none for the end of thoughts
            self._over = token != due or self._written == len(self._mark)
            return
        text = self._detokenizer.feed(token)
        if self._thinking:
            self._count += 1
            self._stops.feed(text)
            self._over = self._stops.found is not None
            return
        self._beginning += text
        beginning = self._beginning.lstrip()
        self._thinking = beginning.startswith(THOUGHT_BEGINS)
        self._over = not THOUGHT_BEGINS.startswith(beginning[: len(THOUGHT_BEGINS)])


def thinks(request: ChatRequest) -> bool:
    """Whether thoughts may come before the answer; a raw prompt's answer is text and nothing else."""
    return begins_freely(request) and not request.raw


def thinking_budget(loaded: Loaded, request: ChatRequest, prompt: Sequence[int]) -> ThinkingBudget | None:
    """None where thoughts are not bounded."""
    if request.thinking_tokens is None or not thinks(request):
        return None
    begun, tools = begins_thoughts(loaded.tokenizer, prompt), bool(offered_tools(request))
    return ThinkingBudget(request.thinking_tokens, loaded.tokenizer, begun=begun, tools=tools)


HEAD = re.compile(r'\n\{"name": ("[^"]*"), "arguments": ')


class ToolCallReader:
    """One answer's. ``calls`` counts those that have begun; ``whole``: the last one's arguments are complete.

    ``required``: the answer is calls and nothing else, so the beginning of a mark is no text.
    """

    def __init__(self, *, required: bool = False) -> None:
        self.calls = 0
        self._required = required
        self._text = StopStrings([CALL_BEGINS])
        self._head = ""
        self._arguments: _ArgumentsEnd | None = None
        self._logprobs = PendingLogprobs()

    @property
    def whole(self) -> bool:
        return self.calls > 0 and self._arguments is None

    def read(self, output: EngineOutput) -> tuple[str, tuple[ToolCallDelta, ...], tuple[TokenLogprob, ...]]:
        """The content and the parts of calls that have become certain, and the log probabilities of the content's
        tokens. At the last output also what was held back."""
        self._logprobs.add(output.logprobs)
        content, calls = self._feed(output.text)
        ends_in_text = output.finish_reason is not None and not self._required
        if ends_in_text:
            content += self._text.flush()
        logprobs = self._logprobs.take(content)
        if ends_in_text and not self._text.found:
            logprobs += self._logprobs.rest()
        return content, tuple(calls), logprobs

    def _feed(self, text: str) -> tuple[str, list[ToolCallDelta]]:
        if self._text.found:
            return "", self._feed_call(text)
        content = self._text.feed(text)
        return content, self._feed_call(self._text.rest) if self._text.found else []

    def _feed_call(self, text: str) -> list[ToolCallDelta]:
        parts: list[ToolCallDelta] = []
        while text:
            if self._arguments is None:
                text = self._read_head(text, parts)
                continue
            length = self._arguments.feed(text)
            arguments, text = text[:length], text[length:]
            if arguments:
                parts.append(ToolCallDelta(self.calls - 1, arguments=arguments))
            if self._arguments.found:
                self._arguments = None
        return parts

    def _read_head(self, text: str, parts: list[ToolCallDelta]) -> str:
        """Reads past the end of a call and the mark of the next, up to where arguments begin; returns the rest."""
        self._head += text
        head = HEAD.search(self._head)
        if head is None:
            return ""
        rest = self._head[head.end() :]
        parts.append(ToolCallDelta(self.calls, f"call_{secrets.token_hex(12)}", json.loads(head[1])))
        self.calls += 1
        self._head, self._arguments = "", _ArgumentsEnd()
        return rest


class _ArgumentsEnd:
    """Finds where a JSON object ends, as its text comes: what follows is the form of the call, not arguments."""

    def __init__(self) -> None:
        self.found = False
        self._depth = 0
        self._in_string = False
        self._escaped = False

    def feed(self, text: str) -> int:
        """How many characters of ``text`` belong to the object."""
        for index, character in enumerate(text):
            if self._in_string:
                if self._escaped:
                    self._escaped = False
                elif character == "\\":
                    self._escaped = True
                elif character == '"':
                    self._in_string = False
            elif character == '"':
                self._in_string = True
            elif character in "{[":
                self._depth += 1
            elif character in "}]":
                self._depth -= 1
                if self._depth == 0:
                    self.found = True
                    return index + 1
        return len(text)


class AnswerReader:
    """What one answer's outputs are read into: its prompt where that is echoed, thoughts, tool calls and text."""

    def __init__(self, loaded: Loaded, request: ChatRequest, prompt: Sequence[int], *, tools: bool) -> None:
        self._model = loaded.name
        self._request = request
        self._prompt_tokens = len(prompt)
        self._prompt = PromptTokens(tuple(prompt)) if request.token_ids or request.prompt_logprobs is not None else None
        self._echoed = _echo(loaded, request, prompt) if request.echo else ""
        self._calls = ToolCallReader(required=request.tool_choice not in (None, "auto")) if tools else None
        begun = thinks(request) and begins_thoughts(loaded.tokenizer, prompt)
        self._thoughts = ReasoningReader(begun=begun, tools=tools) if thinks(request) else None

    def delta(self, output: EngineOutput) -> Delta:
        thoughts, reason = "", output.finish_reason
        if self._thoughts is not None:
            thoughts, output = self._thoughts.read(output)
        text, calls, logprobs = output.text, tuple[ToolCallDelta, ...](), output.logprobs
        if self._calls is not None:
            text, calls, logprobs = self._calls.read(output)
            # arguments that are whole are a call, also where the limit fell behind them
            ended = (reason == "stop" and self._calls.calls) or (reason == "length" and self._calls.whole)
            reason = "tool_calls" if ended else reason
        text, self._echoed = self._echoed + text, ""
        if self._request.echo and self._request.raw and self._request.top_logprobs is not None:
            logprobs = _with_alternatives(output.prompt_logprobs, self._request.top_logprobs) + logprobs
        delta = Delta(
            text,
            calls,
            reason,
            model=self._model,
            logprobs=logprobs,
            reasoning=thoughts,
            tokens=output.tokens if self._request.token_ids else (),
            prompt=self._read_prompt(output),
            stopped_by=output.stopped_by,
        )
        if reason is None and not self._request.running_usage:
            return delta
        usage = Usage(
            self._prompt_tokens,
            output.completion_tokens,
            output.cached_tokens,
            reasoning_tokens=self._thoughts.tokens if self._thoughts else 0,
        )
        return replace(delta, usage=usage)

    def _read_prompt(self, output: EngineOutput) -> PromptTokens | None:
        """With the first output, where the prompt is told of."""
        prompt, self._prompt = self._prompt, None
        most = self._request.prompt_logprobs
        if prompt is None or most is None:
            return prompt
        return replace(prompt, logprobs=_with_alternatives(output.prompt_logprobs, most))


def _with_alternatives(entries: Sequence[TokenLogprob], most: int) -> tuple[TokenLogprob, ...]:
    """The entries with at most so many likeliest tokens each."""
    return tuple(entry if len(entry.top) <= most else replace(entry, top=entry.top[:most]) for entry in entries)


def _echo(loaded: Loaded, request: ChatRequest, prompt: Sequence[int]) -> str:
    if not request.raw:
        return text_of(request.messages[-1])
    if request.prompt_tokens is None and request.truncate_prompt is None:
        return "".join(text_of(message) for message in request.messages)
    # its special tokens too, as its log probabilities have them
    return loaded.tokenizer.decode_all(prompt)
