"""Our ChatModel port as a model of pydantic-ai: its messages go in, our deltas come out and are emitted as they come.

pydantic-ai keeps the loop; what is said to which model, and within which bounds, is decided here.
"""

import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from pydantic_ai.messages import (
    ModelMessage,
    ModelRequest,
    ModelResponse,
    ModelResponsePart,
    SystemPromptPart,
    TextPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_ai.models import Model, ModelRequestParameters
from pydantic_ai.profiles import ModelProfile
from pydantic_ai.settings import ModelSettings
from pydantic_ai.usage import RequestUsage

from apps.agents.config import AgentConfig, Overrides
from apps.agents.progress import Emit, Progress, TextDelta
from apps.core.callers import Caller
from apps.core.deltas import Answer, Delta, collect
from apps.core.errors import UpstreamError
from apps.core.messages import ChatRequest, JsonObject, Message, ToolCall
from apps.core.ports import ChatModel
from apps.models.metering import cut_off_with

PROFILE = ModelProfile(
    supports_inline_system_prompts=True,
    # a tool's result that spells a model's control tokens must not become a turn of the conversation
    may_tokenize_special_tokens_in_content=True,
)
SCHEMA_NAME = "answer"


@dataclass
class Asking:
    """For whom, as which agent and within what the model is asked."""

    chat: ChatModel
    agent: AgentConfig
    caller: Caller
    progress: Progress
    emit: Emit
    overrides: Overrides
    tools: tuple[JsonObject, ...] = field(default=())


class PortModel(Model[None]):
    """One run's."""

    def __init__(self, asking: Asking) -> None:
        super().__init__(profile=PROFILE)
        self._asking = asking

    @property
    def model_name(self) -> str:
        return self._asking.agent.model or "default"

    @property
    def system(self) -> str:
        return "port"

    async def request(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        asking, progress = self._asking, self._asking.progress
        await self._tell_results(messages)
        progress.check()
        await progress.check_wanted()
        await progress.check_budget()
        started = time.perf_counter()
        answer = await self._ask(chat_request(asking, messages))
        if not answer.text and not answer.tool_calls:
            raise UpstreamError("The model's answer is empty")
        progress.answered(answer, time.perf_counter() - started)
        parts: list[ModelResponsePart] = [TextPart(answer.text)] if answer.text else []
        for call in answer.tool_calls:
            parts.append(ToolCallPart(call.name, call.arguments, tool_call_id=call.id))
            await asking.emit(progress.called(call.id, call.name, call.arguments))
        return ModelResponse(parts=parts, usage=_usage(answer), model_name=answer.model or self.model_name)

    async def _ask(self, request: ChatRequest) -> Answer:
        """Text is emitted at once, except where it has to be held against a schema first."""
        held = self._asking.agent.output_schema is not None

        async def guarded() -> AsyncGenerator[Delta, None]:
            async with aclosing(self._asking.chat.stream(request)) as deltas:
                async for delta in deltas:
                    if delta.model is not None:
                        self._asking.progress.run.model = delta.model
                    if delta.text and not held:
                        await self._asking.emit(TextDelta(delta.text))
                    yield delta

        async def collected() -> Answer:
            async with aclosing(guarded()) as deltas:
                return await collect(deltas)

        answer = await cut_off_with(collected(), lambda _: self._asking.progress.ended_by)
        answer.tool_calls = distinct(answer.tool_calls, self._asking.progress.known_ids())
        return answer

    async def _tell_results(self, messages: Sequence[ModelMessage]) -> None:
        """Of calls that never reached a tool: there is none of that name, or the call was denied."""
        last = messages[-1] if messages else None
        if not isinstance(last, ModelRequest):
            return
        for part in last.parts:
            if isinstance(part, ToolReturnPart):
                progress = self._asking.progress
                result = progress.redact(part.model_response_str(wrap_if_error=False))
                returned = progress.returned(part.tool_call_id, part.tool_name, result, 0.0, failed=True)
                if returned is not None:
                    await self._asking.emit(returned)


def chat_request(asking: Asking, messages: Sequence[ModelMessage]) -> ChatRequest:
    """What the port is asked: the conversation so far, and the tools that may be called now."""
    agent, progress, overrides = asking.agent, asking.progress, asking.overrides
    rounds = agent.limits.tool_rounds
    tools = asking.tools if rounds is None or progress.tool_rounds < rounds else ()
    must_call = bool(tools) and agent.first_step == "tool" and progress.steps == 0
    schema = agent.output_schema
    return ChatRequest(
        tuple(message for one in messages for message in as_messages(one)),
        model=agent.model,
        temperature=agent.temperature if overrides.temperature is None else overrides.temperature,
        top_p=overrides.top_p,
        max_tokens=min(progress.answer_tokens(), overrides.max_tokens or progress.limits.answer_tokens),
        stop=overrides.stop or agent.stop,
        seed=overrides.seed,
        tools=tools,
        tool_choice="required" if must_call else None,
        parallel_tool_calls=False if tools and not agent.parallel_tool_calls else None,
        response_format=None
        if schema is None
        else {"type": "json_schema", "json_schema": {"name": SCHEMA_NAME, "schema": schema}},
        caller=asking.caller,
    )


def as_messages(message: ModelMessage) -> Iterator[Message]:
    """One of pydantic-ai's messages as ours. Raises TypeError for a part that no run of ours makes."""
    if isinstance(message, ModelResponse):
        calls = tuple(ToolCall(c.tool_call_id, c.tool_name, c.args_as_json_str()) for c in message.tool_calls)
        yield Message("assistant", message.text or "", tool_calls=calls)
        return
    for part in message.parts:
        match part:
            case SystemPromptPart():
                yield Message("system", part.content)
            case UserPromptPart(content=str() as text):
                yield Message("user", text)
            case ToolReturnPart():
                yield Message("tool", part.model_response_str(), tool_call_id=part.tool_call_id)
            case _:
                raise TypeError(f"no run of an agent has a {part.part_kind}")


def distinct(calls: Sequence[ToolCall], taken: set[str]) -> list[ToolCall]:
    """The calls with an id each: some models give none, or the same to all, or to those of each answer."""
    seen = set(taken)
    renamed = []
    for i, call in enumerate(calls):
        name = call.id
        while not name or name in seen:
            name = f"call_{time.monotonic_ns():x}{i}"
        seen.add(name)
        renamed.append(call if name == call.id else ToolCall(name, call.name, call.arguments))
    return renamed


def _usage(answer: Answer) -> RequestUsage:
    usage = answer.usage
    if usage is None:
        return RequestUsage()
    return RequestUsage(input_tokens=usage.prompt_tokens, output_tokens=usage.completion_tokens)
