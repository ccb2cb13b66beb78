"""An agent's tools as a toolset of pydantic-ai: each call within its bounds, each failure told to the model as data."""

import asyncio
import json
import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic_ai import RunContext
from pydantic_ai.tools import ToolDefinition
from pydantic_ai.toolsets import AbstractToolset, ToolsetTool

from apps.agents.progress import Emit, Progress
from apps.agents.tools import AgentTool, ToolContext, ToolError
from apps.core.callers import Caller
from apps.core.errors import AppError
from apps.core.messages import JsonObject
from apps.core.strict_json import read_json_text

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
    """Takes what the model wrote: the tool itself checks it, so that every fault is told in the same way."""

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
