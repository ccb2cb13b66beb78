"""The bodies and answers of /agents, and what the OpenAPI page says beyond them: errors and streams."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model
from pydantic.config import JsonDict

from apps.agents.config import Overrides
from apps.agents.progress import Verdict, by_call
from apps.api.src.generate import CLOUD_MAX_TOKENS, LONGEST_NAME
from apps.api.src.http.openapi import BODY_ERRORS, Responses, error_responses
from apps.core import errors
from apps.core.agent_runs import RunStatus
from apps.core.errors import InvalidValue, MissingRequiredField
from apps.core.fields import Between, CodePoints, Schema
from apps.core.messages import Message, user_message
from apps.core.settings import Settings

EXAMPLE: JsonDict = {"prompt": "What is 1234 * 5678?"}
DECISIONS_EXAMPLE: JsonDict = {
    "decisions": [{"id": "call_1", "approved": True}, {"id": "call_2", "approved": False, "reason": "too much"}]
}
MOST_MESSAGES = 200
LONGEST_REASON = 500
LONGEST_MESSAGE = 200_000


class RunMessage(Schema):
    """One turn of a conversation."""

    model_config = ConfigDict(strict=True, extra="ignore")

    role: Literal["system", "user", "assistant"]
    content: Annotated[str, CodePoints(LONGEST_MESSAGE)]


class RunBody(BaseModel):
    """What POST /agents/{name}/run takes. Types are strict; unknown fields are ignored."""

    model_config = ConfigDict(strict=True, extra="ignore", json_schema_extra={"examples": [EXAMPLE]})

    prompt: str | None = None
    messages: list[RunMessage] | None = Field(
        None, description="A conversation in place of the prompt; it ends with a message of the user"
    )
    temperature: Annotated[float, Between(0, 2)] | None = Field(None, description="Left out, the agent's own")
    top_p: Annotated[float, Between(0, 1)] | None = Field(None, description="Left out, the model's own")
    max_tokens: Annotated[int, Between(1, CLOUD_MAX_TOKENS)] | None = Field(
        None, description="Of each answer of the model; never more than the agent's own limit"
    )
    model: Annotated[str, CodePoints(LONGEST_NAME)] | None = Field(None, description="Only `agent/<its own name>`")

    def conversation(self) -> tuple[Message, ...]:
        """Raises an error of the contract's table where there is none, or there are two."""
        if self.messages is None:
            if self.prompt is None:
                raise MissingRequiredField("Prompt is required", field="prompt")
            return user_message(self.prompt)
        if self.prompt is not None:
            raise InvalidValue("Either prompt or messages, not both", field="messages")
        if not 0 < len(self.messages) <= MOST_MESSAGES:
            details = {"min": 1, "max": MOST_MESSAGES, "received": len(self.messages)}
            raise InvalidValue(f"Messages must be 1 to {MOST_MESSAGES}", field="messages", details=details)
        return tuple(Message(message.role, message.content) for message in self.messages)

    def overrides(self) -> Overrides:
        return Overrides(self.temperature, self.top_p, self.max_tokens)


def run_body(settings: Settings) -> type[RunBody]:
    """The longest prompt is a setting, so the class is made at start."""
    prompt = Annotated[str, CodePoints(settings.max_prompt_chars)] | None
    described = Field(None, description="What to answer, in Unicode code points; required without messages")
    return create_model("AgentRunRequest", __base__=RunBody, prompt=(prompt, described))


class Decision(Schema):
    """About one call that a run waits with."""

    model_config = ConfigDict(strict=True, extra="ignore")

    id: str = Field(description="The call's, as in `pending` and in `approval_required`")
    approved: bool
    reason: str = Field("", max_length=LONGEST_REASON, description="What the model is told of a call that is denied")


class DecisionsBody(BaseModel):
    """What POST /agents/runs/{id}/decisions takes: all of it counts, or nothing."""

    model_config = ConfigDict(strict=True, extra="ignore", json_schema_extra={"examples": [DECISIONS_EXAMPLE]})

    decisions: list[Decision] = Field(description="At least one; a call that is left out waits on")

    def by_call(self) -> dict[str, Verdict]:
        """Raises InvalidValue where there is none, or two are about one call."""
        return by_call((one.id, Verdict(one.approved, one.reason)) for one in self.decisions)


class ToolAnswer(Schema):
    name: str
    description: str
    approval: bool = Field(description="Each call waits until it is approved or denied")


class AgentAnswer(Schema):
    """An agent, as it is declared."""

    name: str
    model: str = Field(description="Its name on /v1/chat/completions")
    description: str
    answers_by: str = Field(description="The model that it asks")
    tools: list[ToolAnswer]
    limits: dict[str, Any]
    output_schema: dict[str, Any] | None


class AgentList(Schema):
    agents: list[AgentAnswer]


class RunUsage(Schema):
    """Sums over all calls of the model; `cost` in US dollars, null where no price is known."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    cached_tokens: int
    cost: float | None


class RunAnswer(Schema):
    """A run: as the answer of one that has ended or pauses, and as its record."""

    run: str = Field(description="Its id")
    agent: str
    status: RunStatus
    finish_reason: str | None = Field(description="stop, length, approval_required; null while it runs or failed")
    answer: str
    output: Any = Field(description="The answer as JSON, where the agent has an output schema")
    model: str | None = Field(description="The model that answered")
    steps: list[dict[str, Any]] = Field(description="Calls of the model, of tools, and decisions, in order")
    pending: list[dict[str, Any]] = Field(description="The calls that wait for an approval")
    decided: list[dict[str, Any]] = Field(description="The calls that are decided, while the run waits for the others")
    usage: RunUsage
    begun_at: float = Field(description="Unix time")
    ended_at: float | None
    key_id: str | None = Field(description="Of the key that began it")
    outcome: str = Field(description="ok, the code of the error, or what cut it off: CLIENT_GONE, SHUT_DOWN")
    error: dict[str, Any] | None


class RunList(Schema):
    """Runs, the newest first."""

    runs: list[RunAnswer]
    next: float | None = Field(None, description="The `before` of the next page; null on the last one")


READ = (
    errors.Unauthorized,
    errors.Forbidden,
    errors.NotFound,
    errors.RateLimitExceeded,
    errors.ModelUnavailable,
)
RUN = (
    *BODY_ERRORS,
    errors.Conflict,
    errors.RateLimitExceeded,
    errors.UpstreamError,
    errors.ModelUnavailable,
    errors.Overloaded,
    errors.Timeout,
)
DECIDE = (*READ, errors.InvalidValue, errors.Conflict, errors.UpstreamError, errors.Overloaded, errors.Timeout)
DECIDE_EACH = RUN
KINDS = ["message", "delta", "tool_call", "tool_result", "approval_required", "done", "error"]
STREAM = (
    'event: tool_call\ndata: {"id": "call_1", "tool": "calculator", "arguments": {"expression": "1234 * 5678"}}\n\n'
    'event: tool_result\ndata: {"id": "call_1", "tool": "calculator", "result": "7006652", "failed": false, '
    '"seconds": 0.0002}\n\n'
    "data: The answer is\n\ndata:  7006652.\n\n"
    'event: done\ndata: {"finish_reason": "stop", "model": "m", "usage": {"prompt_tokens": 190, '
    '"completion_tokens": 31, "total_tokens": 221, "cached_tokens": 0, "cost": null}, "run": "9f86", "status": '
    '"done", "answer": "The answer is 7006652."}\n\n'
)
EVENT: dict[str, Any] = {
    "type": "object",
    "required": ["data"],
    "properties": {
        "event": {"type": "string", "enum": KINDS},
        "data": {"type": "string", "description": "Text of a delta; JSON in every event that is not a message"},
    },
}
RUN_EXAMPLE: dict[str, Any] = {
    "run": "9f86d081884c7d659a2feaa0c55ad015",
    "agent": "calculator",
    "status": "done",
    "finish_reason": "stop",
    "answer": "The answer is 7006652.",
    "output": None,
    "model": "SmolLM2-135M-Instruct",
    "steps": [
        {
            "kind": "model",
            "model": "SmolLM2-135M-Instruct",
            "text": "",
            "finish_reason": "tool_calls",
            "prompt_tokens": 190,
            "completion_tokens": 31,
            "seconds": 0.31,
        },
        {
            "kind": "tool",
            "id": "call_1",
            "tool": "calculator",
            "arguments": {"expression": "1234 * 5678"},
            "result": "7006652",
            "failed": False,
            "seconds": 0.0002,
        },
    ],
    "pending": [],
    "decided": [],
    "usage": {
        "prompt_tokens": 190,
        "completion_tokens": 31,
        "total_tokens": 221,
        "cached_tokens": 0,
        "cost": None,
    },
    "begun_at": 1763900000.0,
    "ended_at": 1763900000.5,
    "key_id": None,
    "outcome": "ok",
    "error": None,
}


def run_responses(*kinds: type[errors.AppError]) -> Responses:
    """The responses of a route that runs an agent: both forms of an answer, and its errors."""
    return {
        200: {
            "description": "JSON, or with `stream=true` server-sent events (bare text with `Accept: text/plain`)",
            "headers": {
                "X-Run-ID": {"description": "The run's id", "schema": {"type": "string"}},
                "X-Model": {"description": "The model that really answered", "schema": {"type": "string"}},
            },
            "content": {
                "application/json": {"example": RUN_EXAMPLE},
                "text/event-stream": {"itemSchema": EVENT, "example": STREAM},
            },
        },
        **error_responses(*kinds),
    }
