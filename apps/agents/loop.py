"""The loop of one run: pydantic-ai's, over our port, reported as events. Importing it takes half a second.

An agent's tools are a toolset of pydantic-ai: each call within its bounds, each failure given to the model as data.
"""

import asyncio
import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import pydantic_ai
from pydantic_ai import (
    Agent,
    DeferredToolRequests,
    DeferredToolResults,
    ModelRetry,
    RunContext,
    ToolApproved,
    ToolDenied,
)
from pydantic_ai.exceptions import AgentRunError
from pydantic_ai.messages import (
    ModelMessage,
    ModelMessagesTypeAdapter,
    ModelRequest,
    ModelRequestPart,
    ModelResponse,
    SystemPromptPart,
    TextPart,
    UserPromptPart,
)
from pydantic_ai.tools import ToolDefinition
from pydantic_ai.toolsets import AbstractToolset, ToolsetTool
from pydantic_ai.usage import UsageLimits

from apps.agents.config import AgentConfig, Overrides
from apps.agents.port_model import Asking, PortModel
from apps.agents.progress import ApprovalRequired, Emit, Progress, RunEnded, TextDelta, Verdict
from apps.agents.schema_check import SchemaCheck
from apps.agents.tools import AgentTool, ToolContext, ToolError
from apps.core.callers import Caller
from apps.core.errors import AppError, UpstreamError
from apps.core.messages import JsonObject, Message, read_json_text
from apps.core.ports import ChatModel

# how often one tool may be called wrongly is bounded by the steps of the run
NO_BOUND = 1_000_000
NO_OBJECT = "\0"

log = logging.getLogger(__name__)


class RunToolset(AbstractToolset[Any]):
    """One run's."""

    def __init__(self, tools: Sequence[AgentTool], caller: Caller, progress: Progress, emit: Emit) -> None:
        self._tools = {tool.name: tool for tool in tools}
        self._caller = caller
        self._progress = progress
        self._emit = emit
        self._offered = {tool.name: self._offer(tool) for tool in tools}

    @property
    def id(self) -> str:
        return "tools"

    async def get_tools(self, ctx: RunContext[Any]) -> dict[str, ToolsetTool[Any]]:
        return self._offered

    async def call_tool(
        self, name: str, tool_args: dict[str, Any], ctx: RunContext[Any], tool: ToolsetTool[Any]
    ) -> str:
        started = time.perf_counter()
        failed = False
        try:
            result = await self._invoke(self._tools[name], tool_args)
        except ToolError as error:
            result, failed = f"Error: {error}", True
        result = self._cut(self._progress.redact(result))
        took = time.perf_counter() - started
        returned = self._progress.returned(ctx.tool_call_id or "", name, result, took, failed=failed)
        if returned is not None:
            await self._emit(returned)
        return result

    async def _invoke(self, tool: AgentTool, arguments: dict[str, Any]) -> str:
        """The result as text. Raises ToolError, whatever the tool raises."""
        if NO_OBJECT in arguments:
            raise ToolError("The arguments are no JSON object")
        if not tool.allowed_for(self._caller):
            raise ToolError("This caller's key may not use that tool")
        seconds = self._progress.limits.tool_seconds
        try:
            async with asyncio.timeout(seconds) as limit:
                result = await tool.invoke(ToolContext(self._caller, tool.collections), arguments)
        except TimeoutError:
            words = f"The tool did not answer within {seconds:g} seconds" if limit.expired() else "The tool timed out"
            raise ToolError(words) from None
        except ToolError:
            raise
        except AppError as error:
            raise ToolError(error.message) from None
        except Exception as error:
            # what it says may hold anything, so it goes to the log and not to the model
            log.exception("The tool %s failed", tool.name)
            raise ToolError(f"The tool failed ({type(error).__name__})") from None
        return result if isinstance(result, str) else json.dumps(result, ensure_ascii=False, default=str)

    def _cut(self, result: str) -> str:
        most = self._progress.limits.result_characters
        if len(result) <= most:
            return result
        return f"{result[:most]}\n[cut: these are the first {most} of {len(result)} characters]"

    def _offer(self, tool: AgentTool) -> ToolsetTool[Any]:
        definition = ToolDefinition(
            name=tool.name,
            description=tool.description,
            parameters_json_schema=dict(tool.parameters),
            kind="unapproved" if tool.approval else "function",
        )
        return ToolsetTool(toolset=self, tool_def=definition, max_retries=NO_BOUND, args_validator=_AnyArguments())


class _AnyArguments:
    """Takes what the model wrote: the tool itself checks it, so that every fault is reported in the same way."""

    def validate_json(self, input: str | bytes | bytearray, **options: Any) -> dict[str, Any]:
        try:
            value = read_json_text((input if isinstance(input, str) else bytes(input).decode()) or "{}")
        except ValueError:
            value = None
        return self.validate_python(value)

    def validate_python(self, input: Any, **options: Any) -> dict[str, Any]:
        return dict(input) if isinstance(input, Mapping) else {NO_OBJECT: True}


def function_schemas(tools: Sequence[AgentTool]) -> tuple[JsonObject, ...]:
    """The tools in the shape of OpenAI's chat API."""
    return tuple(
        {
            "type": "function",
            "function": {"name": tool.name, "description": tool.description, "parameters": dict(tool.parameters)},
        }
        for tool in tools
    )


pydantic_ai.BANNER_ENABLED = False
OUTPUT_RETRIES = 2
# our own bounds are kept in progress.py, in our own words
UNLIMITED = UsageLimits(request_limit=None)

Output = str | DeferredToolRequests
Loop = Agent[None, Output]


@dataclass(slots=True)
class Conversation:
    """Where a run stands: what was said so far, and what its call asked for. A paused run's is kept as text."""

    messages: list[ModelMessage]
    overrides: Overrides = field(default_factory=Overrides)

    def written(self) -> str:
        messages = ModelMessagesTypeAdapter.dump_json(self.messages).decode()
        return json.dumps({"overrides": asdict(self.overrides), "messages": messages})

    @classmethod
    def read(cls, state: str) -> "Conversation":
        kept = json.loads(state)
        overrides = kept["overrides"] | {"stop": tuple(kept["overrides"]["stop"])}
        return cls(ModelMessagesTypeAdapter.validate_json(kept["messages"]), Overrides(**overrides))


class AgentLoop:
    """An agent's loop, one for all its runs: making it costs more than a run does."""

    def __init__(self, name: str, agent: AgentConfig) -> None:
        self._agent = agent
        self._loop: Loop = Agent(
            output_type=[str, DeferredToolRequests],
            name=name,
            retries={"tools": NO_BOUND, "output": OUTPUT_RETRIES},
        )
        if agent.output_schema is not None:
            checks = SchemaCheck(agent.output_schema)

            @self._loop.output_validator
            def check(output: Output) -> Output:
                return _checked(output, checks) if isinstance(output, str) else output

    def begin(self, messages: Sequence[Message], overrides: Overrides) -> Conversation:
        """A new conversation with the agent."""
        return Conversation(history_of(self._agent.instructions, messages), overrides)

    def resume(self, state: str) -> Conversation:
        """The conversation of a run that was paused."""
        return Conversation.read(state)

    async def run(
        self,
        tools: Sequence[AgentTool],
        chat: ChatModel,
        caller: Caller,
        progress: Progress,
        emit: Emit,
        conversation: Conversation,
    ) -> RunEnded:
        """Run to an answer or to a pause, a new run or one that goes on; raises errors of the tree."""
        agent, overrides = self._agent, conversation.overrides
        model = PortModel(Asking(chat, agent, caller, progress, emit, overrides, function_schemas(tools)))
        results = _results(progress.verdicts) if progress.verdicts else None
        try:
            result = await self._loop.run(
                message_history=conversation.messages,
                deferred_tool_results=results,
                model=model,
                toolsets=[RunToolset(tools, caller, progress, emit)],
                usage_limits=UNLIMITED,
                infer_name=False,
            )
        except AgentRunError as error:
            raise UpstreamError(
                "The model's answers are not such that the agent could go on", details={"cause": type(error).__name__}
            ) from error
        output = result.output
        if isinstance(output, DeferredToolRequests):
            conversation.messages = result.all_messages()
            waiting = progress.pause(conversation.written())
            await emit(ApprovalRequired(waiting))
            return RunEnded("approval_required", "", progress.run.model)
        output = progress.redact(output)
        if agent.output_schema is not None:
            await emit(TextDelta(output))
        progress.done(output)
        return RunEnded(progress.run.steps[-1]["finish_reason"], output, progress.run.model)


def history_of(instructions: str, messages: Sequence[Message]) -> list[ModelMessage]:
    """A conversation as pydantic-ai keeps it; the agent's instructions come first."""
    history: list[ModelMessage] = []
    parts: list[ModelRequestPart] = [SystemPromptPart(instructions)] if instructions else []
    for message in messages:
        text = str(message.content)
        if message.role == "assistant":
            if parts:
                history.append(ModelRequest(parts=parts))
                parts = []
            history.append(ModelResponse(parts=[TextPart(text)]))
        else:
            parts.append(UserPromptPart(text) if message.role == "user" else SystemPromptPart(text))
    history.append(ModelRequest(parts=parts))
    return history


def _results(verdicts: Mapping[str, Verdict]) -> DeferredToolResults:
    approvals: dict[str, Any] = {
        id: ToolApproved() if verdict.approved else ToolDenied(_denial(verdict.reason))
        for id, verdict in verdicts.items()
    }
    return DeferredToolResults(approvals=approvals)


def _denial(reason: str) -> str:
    return f"This call was denied: {reason}" if reason else "This call was denied"


def _checked(output: str, checks: SchemaCheck) -> str:
    try:
        value = json.loads(output)
    except (ValueError, RecursionError):
        raise ModelRetry("Answer with JSON and nothing else") from None
    faults = checks.faults(value)
    if faults:
        raise ModelRetry(f"The JSON does not fit its schema: {'; '.join(faults[:3])}")
    return output
