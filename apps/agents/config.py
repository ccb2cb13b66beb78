"""What an agent is declared as: in Python by these classes, or in the file of agents, which is read into them."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from apps.core.config_file import read_config, validated, whole

Seconds = Annotated[float, Field(gt=0, le=3600, allow_inf_nan=False)]
Variable = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
AgentName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
ServerName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9][a-zA-Z0-9_-]{0,30}$")]
AGENT_PREFIX = "agent/"
ALLOWED = re.compile(r"\*(:\d{1,5})?|(\*\.)?[a-z0-9]([a-z0-9.-]*[a-z0-9])?(:\d{1,5})?|\[[0-9a-f:.]+\](:\d{1,5})?")


@dataclass(frozen=True, slots=True)
class Overrides:
    """What one call asks for in place of the agent's own settings; None and nothing: the agent's count."""

    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()


class AgentsConfigError(Exception):
    """The declarations are wrong; the message lists every fault on a line of its own."""


class _Strict(BaseModel):
    # built when a file is read: importing the app builds none of them
    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)


class LimitsConfig(_Strict):
    """The bounds of one run. ``steps`` are calls of the model; ``tokens`` and ``cost`` (US dollars) their sums.

    ``tool_rounds`` is how many steps may call tools: after them the model is asked without any, so that it must
    answer. ``result_characters`` is what the model gets of a tool's result; a mark says what was cut.
    """

    steps: int = Field(10, ge=1, le=100)
    tool_rounds: int | None = Field(None, ge=1, le=100)
    seconds: Seconds = 300
    tool_seconds: Seconds = 30
    tokens: int = Field(200_000, ge=1)
    cost: float | None = Field(None, ge=0, allow_inf_nan=False)
    result_characters: int = Field(8_000, ge=100, le=1_000_000)
    answer_tokens: int = Field(1_000, ge=1, le=16_384, description="max_tokens of each call of the model")


class ToolConfig(_Strict):
    """A tool of an agent: a name of the registered ones, or ``server/tool`` of an MCP server, or ``server/*``.

    ``approval`` pauses the run before each call. ``collections`` are those that `search` may look into; none: all of
    the caller's.
    """

    tool: str = Field(min_length=1, max_length=200)
    approval: bool = False
    collections: tuple[str, ...] = ()


class AgentConfig(_Strict):
    """One agent. ``model`` is any name that calls can route to, ``local`` the local model, none DEFAULT_MODEL.

    ``first_step: tool`` has the model begin with a call of a tool, which small models do not do by themselves.
    """

    description: str = Field("", max_length=1000)
    model: str | None = Field(None, min_length=1, max_length=200)
    instructions: str = Field("", max_length=100_000)
    tools: tuple[ToolConfig, ...] = ()
    first_step: Literal["auto", "tool"] = "auto"
    parallel_tool_calls: bool = True
    temperature: float | None = Field(None, ge=0, le=2)
    stop: tuple[Annotated[str, Field(min_length=1, max_length=100)], ...] = Field((), max_length=4)
    output_schema: dict[str, Any] | None = None
    limits: LimitsConfig = Field(default_factory=LimitsConfig)

    @field_validator("tools", mode="before")
    @classmethod
    def _names_are_tools(cls, tools: Any) -> Any:
        if not isinstance(tools, list | tuple):
            return tools
        return tuple({"tool": tool} if isinstance(tool, str) else tool for tool in tools)

    @model_validator(mode="after")
    def _can_work(self) -> "AgentConfig":
        if self.model is not None and self.model.startswith(AGENT_PREFIX):
            raise ValueError("an agent cannot be an agent's model")
        if self.first_step == "tool" and not self.tools:
            raise ValueError("first_step: tool needs tools")
        return self


class McpServerConfig(_Strict):
    """An MCP server: a ``command`` to speak to over stdio, or the ``url`` of a streamable HTTP one.

    ``tools`` is the allow-list: no other tool of the server can be called. ``env`` names variables of this process
    that the command gets beside the harmless ones; ``headers_env`` maps headers to variables that hold their values.
    """

    command: tuple[str, ...] = ()
    url: str = Field("", pattern=r"^(https?://[^/\s]+.*)?$")
    env: tuple[Variable, ...] = ()
    headers_env: dict[str, Variable] = Field(default_factory=dict)
    tools: tuple[Annotated[str, Field(min_length=1, max_length=128)], ...] = ()
    connect_seconds: Seconds = 10
    call_seconds: Seconds = 30

    @model_validator(mode="after")
    def _is_one_kind(self) -> "McpServerConfig":
        if bool(self.command) == bool(self.url):
            raise ValueError("either command or url is required, and not both")
        return self


class FetchConfig(_Strict):
    """``allow`` lists hosts (``docs.python.org``, ``*.example.com``, ``example.com:8443``); ``*`` is every public one.

    Empty: nothing can be fetched. Private addresses are refused whatever the list says.
    """

    allow: tuple[str, ...] = ()
    seconds: Seconds = 10
    bytes: int = Field(1_000_000, ge=1_000, le=50_000_000)

    @field_validator("allow")
    @classmethod
    def _are_hosts(cls, allow: tuple[str, ...]) -> tuple[str, ...]:
        lowered = tuple(entry.lower() for entry in allow)
        for entry in lowered:
            if not ALLOWED.fullmatch(entry):
                raise ValueError(f"{entry} is no host: write example.com, *.example.com or example.com:8443")
        return lowered


class AgentsConfig(_Strict):
    """The whole file."""

    fetch: FetchConfig = Field(default_factory=FetchConfig)
    mcp_servers: dict[ServerName, McpServerConfig] = Field(default_factory=dict)
    agents: dict[AgentName, AgentConfig] = Field(default_factory=dict)


def load_agents_config(path: Path, tools: Iterable[str]) -> AgentsConfig:
    """Read and check the file, whole; ``tools`` are the names that agents may use beside those of MCP servers.

    Raises AgentsConfigError; values are not repeated, they may be secrets.
    """
    config, faults = validated(read_config(path, AgentsConfigError), AgentsConfig)
    if config is not None:
        faults = dangling_tools(config, tools)
    return whole(path, config, faults, AgentsConfigError)


def dangling_tools(config: AgentsConfig, tools: Iterable[str]) -> list[str]:
    """Tools of agents that no server offers, and ones that are named twice."""
    known = set(tools)
    for server, declared in config.mcp_servers.items():
        known.update(f"{server}/{tool}" for tool in (*declared.tools, "*"))
    faults = []
    for name, agent in config.agents.items():
        names = [tool.tool for tool in agent.tools]
        for i, tool in enumerate(names):
            if tool not in known:
                faults.append(f"agents.{name}.tools.{i}: no tool is named {tool}")
            elif tool in names[:i]:
                faults.append(f"agents.{name}.tools.{i}: {tool} stands there twice")
    return faults
