"""An engine's outputs as the deltas of one answer: its prompt where that is echoed, thoughts, tool calls and text."""

from collections.abc import Sequence

from apps.core.calls import Usage
from apps.core.deltas import Delta, ToolCallDelta
from apps.core.errors import InvalidValue
from apps.core.messages import ChatRequest
from apps.local.engine.port import EngineOutput
from apps.local.loading import Loaded
from apps.local.prompt import text_of
from apps.local.reasoning import BEGINS as REASONING_BEGINS
from apps.local.reasoning import ReasoningReader
from apps.local.tool_calls import ToolCallReader


class AnswerReader:
    """What one answer's outputs are read into: its prompt where that is echoed, thoughts, tool calls and text."""

    def __init__(
        self, loaded: Loaded, request: ChatRequest, prompt: Sequence[int], *, tools: bool, constrained: bool
    ) -> None:
        self._model = loaded.name
        self._prompt_tokens = len(prompt)
        self._echoed = _echo(loaded, request, prompt) if request.echo else ""
        self._calls = ToolCallReader() if tools else None
        # a schema leaves no room for thoughts; a raw prompt's answer is text and nothing else
        thinks = not request.raw and (tools or not constrained)
        tail = loaded.tokenizer.decode(prompt[-8:]).rstrip() if thinks else ""
        self._thoughts = ReasoningReader(begun=tail.endswith(REASONING_BEGINS)) if thinks else None

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
        logprobs = output.prompt_logprobs + logprobs
        if reason is None:
            return Delta(text, calls, model=self._model, logprobs=logprobs, reasoning=thoughts)
        usage = Usage(
            self._prompt_tokens,
            output.completion_tokens,
            output.cached_tokens,
            reasoning_tokens=self._thoughts.tokens if self._thoughts else 0,
        )
        return Delta(text, calls, reason, usage, self._model, logprobs, reasoning=thoughts)


def _echo(loaded: Loaded, request: ChatRequest, prompt: Sequence[int]) -> str:
    if not request.raw:
        raise InvalidValue("Only a prompt without a template can be echoed", field="echo")
    if request.prompt_tokens is None:
        return "".join(text_of(message) for message in request.messages)
    return loaded.tokenizer.decode(prompt)
