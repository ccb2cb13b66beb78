"""The loop of one run: pydantic-ai's, over our port, told as events. Importing it takes half a second."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import pydantic_ai
from pydantic_ai import Agent, DeferredToolRequests, DeferredToolResults, ModelRetry, ToolApproved, ToolDenied
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
from pydantic_ai.usage import UsageLimits

from apps.agents.config import AgentConfig, Overrides
from apps.agents.decisions import Verdict
from apps.agents.port_model import Asking, PortModel
from apps.agents.progress import ApprovalRequired, Emit, Progress, RunEnded, TextDelta
from apps.agents.schema_check import SchemaCheck
from apps.agents.tools import AgentTool
from apps.agents.toolset import NO_BOUND, RunToolset, function_schemas
from apps.core.callers import Caller
from apps.core.errors import UpstreamError
from apps.core.messages import Message
from apps.core.ports import ChatModel

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


def make_loop(name: str, agent: AgentConfig) -> Loop:
    """One an agent: making it costs more than a run does."""
    loop: Loop = Agent(
        output_type=[str, DeferredToolRequests],
        name=name,
        retries={"tools": NO_BOUND, "output": OUTPUT_RETRIES},
    )
    if agent.output_schema is not None:
        checks = SchemaCheck(agent.output_schema)

        @loop.output_validator
        def check(output: Output) -> Output:
            return _checked(output, checks) if isinstance(output, str) else output

    return loop


async def run_loop(
    loop: Loop,
    agent: AgentConfig,
    tools: Sequence[AgentTool],
    chat: ChatModel,
    caller: Caller,
    progress: Progress,
    emit: Emit,
    conversation: Conversation,
) -> RunEnded:
    """Run to an answer or to a pause, a new run or one that goes on; raises errors of the tree."""
    model = PortModel(Asking(chat, agent, caller, progress, emit, conversation.overrides, function_schemas(tools)))
    results = _results(progress.verdicts) if progress.verdicts else None
    try:
        result = await loop.run(
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
