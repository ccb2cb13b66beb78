"""An MCP server over streamable HTTP: stateless, JSON answers, and events where progress is asked for.

What its tools, resources and prompts are is handed in, for each caller anew.

The only place of the server's side that knows the mcp package, which is imported with the first request.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from apps.agents.tools import Arguments
from apps.core.callers import Caller
from apps.core.errors import AppError, InternalError, MissingRequiredField, NotFound, quoted
from apps.core.messages import JsonObject
from apps.core.process import import_aside
from apps.core.version import NAME

if TYPE_CHECKING:
    from mcp.server import ServerRequestContext
    from mcp.server.lowlevel import Server
    from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
    from mcp_types import (
        CallToolRequestParams,
        CallToolResult,
        GetPromptRequestParams,
        GetPromptResult,
        ListPromptsResult,
        ListResourcesResult,
        ListResourceTemplatesResult,
        ListToolsResult,
        PaginatedRequestParams,
        ReadResourceRequestParams,
        ReadResourceResult,
    )

LARGEST_BODY = 64 * 1024 * 1024
CLOSE_SECONDS = 5.0

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
# how far a call has come, in pieces of its answer, and what it does
Progress = Callable[[float, str], Awaitable[None]]
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Told:
    """What a tool answers: text for the model, and the same as JSON for programs."""

    text: str
    structured: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class ServedTool:
    """``call`` raises errors of the tree; they are told as the protocol tells a tool's failure."""

    name: str
    description: str
    parameters: JsonObject
    call: Callable[[Scope, Arguments, Progress], Awaitable[Told]]


@dataclass(frozen=True, slots=True)
class ServedResource:
    """One entry of a list of resources; ``kind`` is its media type."""

    uri: str
    name: str
    description: str
    kind: str


@dataclass(frozen=True, slots=True)
class ReadResource:
    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class ServedPrompt:
    """``arguments`` are all required: names and what they are; ``write`` makes the user's message of them."""

    name: str
    description: str
    arguments: Mapping[str, str]
    write: Callable[[Mapping[str, str]], str]


class ServedResources(Protocol):
    """What clients can read, and the prompts over it. Raises errors of the tree."""

    @property
    def templates(self) -> Mapping[str, str]:
        """Templates of addresses, and what lies there."""

    async def listed(self, scope: Scope, cursor: str) -> tuple[Sequence[ServedResource], str]:
        """A page from ``cursor`` on, and the cursor of the next one; both are empty at their ends."""

    async def read(self, scope: Scope, uri: str) -> ReadResource: ...

    def prompts(self, caller: Caller) -> Sequence[ServedPrompt]: ...


class McpEndpoint:
    """``tools_for`` says what a caller may use; ``caller_of`` finds him in the scope of the request."""

    def __init__(
        self,
        tools_for: Callable[[Caller], Sequence[ServedTool]],
        caller_of: Callable[[Scope], Caller],
        version: str,
        resources: ServedResources,
    ) -> None:
        self._resources = resources
        self._tools_for = tools_for
        self._caller_of = caller_of
        self._version = version
        self._closing = asyncio.Event()
        self._managers: asyncio.Future[tuple[StreamableHTTPSessionManager, StreamableHTTPSessionManager]] | None = None
        self._holder: asyncio.Task[None] | None = None

    async def handle(self, scope: Scope, receive: Receive, send: Send, *, streamed: bool = False) -> None:
        """One request, whose body has a limit and whose caller is known; ``streamed`` answers with events."""
        if self._managers is None:
            self._managers = asyncio.get_running_loop().create_future()
            self._holder = asyncio.create_task(self._hold(self._managers), name="mcp-server")
        managers = await asyncio.shield(self._managers)
        await managers[streamed].handle_request(scope, receive, send)

    async def aclose(self) -> None:
        self._closing.set()
        if self._holder is not None:
            _, running = await asyncio.wait([self._holder], timeout=CLOSE_SECONDS)
            for task in running:
                task.cancel()

    async def _hold(
        self, ready: "asyncio.Future[tuple[StreamableHTTPSessionManager, StreamableHTTPSessionManager]]"
    ) -> None:
        """Keep the package's tasks in one of ours: they have to end where they began."""
        await import_aside(import_mcp_server)
        from mcp.server.streamable_http_manager import StreamableHTTPSessionManager

        whole, streamed = (
            StreamableHTTPSessionManager(
                self._server(), json_response=json, stateless=True, max_request_body_size=LARGEST_BODY
            )
            for json in (True, False)
        )
        async with whole.run(), streamed.run():
            ready.set_result((whole, streamed))
            await self._closing.wait()

    def _server(self) -> "Server[Any]":
        from mcp.server.lowlevel import Server
        from mcp_types import (
            GetPromptResult,
            ListPromptsResult,
            ListResourcesResult,
            ListResourceTemplatesResult,
            ListToolsResult,
            Prompt,
            PromptArgument,
            PromptMessage,
            ReadResourceResult,
            Resource,
            ResourceTemplate,
            TextContent,
            TextResourceContents,
            Tool,
        )

        async def list_tools(
            context: "ServerRequestContext[Any]", params: "PaginatedRequestParams | None"
        ) -> "ListToolsResult":
            tools = self._tools_for(self._caller_of(_scope(context)))
            return ListToolsResult(
                tools=[
                    Tool(name=tool.name, description=tool.description, input_schema=dict(tool.parameters))
                    for tool in tools
                ]
            )

        async def call_tool(context: "ServerRequestContext[Any]", params: "CallToolRequestParams") -> "CallToolResult":
            async def progress(done: float, what: str) -> None:
                await context.session.report_progress(done, None, what)

            return await self._call(_scope(context), params.name, params.arguments or {}, progress)

        async def list_resources(
            context: "ServerRequestContext[Any]", params: "PaginatedRequestParams | None"
        ) -> "ListResourcesResult":
            with _protocol_errors():
                page, following = await self._resources.listed(_scope(context), (params and params.cursor) or "")
            return ListResourcesResult(
                resources=[
                    Resource(uri=one.uri, name=one.name, description=one.description, mime_type=one.kind)
                    for one in page
                ],
                next_cursor=following or None,
            )

        async def list_templates(
            context: "ServerRequestContext[Any]", params: "PaginatedRequestParams | None"
        ) -> "ListResourceTemplatesResult":
            templates = [
                ResourceTemplate(name=words, uri_template=uri, description=words, mime_type="text/plain")
                for uri, words in self._resources.templates.items()
            ]
            return ListResourceTemplatesResult(resource_templates=templates)

        async def read_resource(
            context: "ServerRequestContext[Any]", params: "ReadResourceRequestParams"
        ) -> "ReadResourceResult":
            with _protocol_errors():
                read = await self._resources.read(_scope(context), str(params.uri))
            content = TextResourceContents(uri=params.uri, mime_type=read.kind, text=read.text)
            return ReadResourceResult(contents=[content])

        async def list_prompts(
            context: "ServerRequestContext[Any]", params: "PaginatedRequestParams | None"
        ) -> "ListPromptsResult":
            prompts = [
                Prompt(
                    name=one.name,
                    description=one.description,
                    arguments=[
                        PromptArgument(name=name, description=words, required=True)
                        for name, words in one.arguments.items()
                    ],
                )
                for one in self._resources.prompts(self._caller_of(_scope(context)))
            ]
            return ListPromptsResult(prompts=prompts)

        async def get_prompt(
            context: "ServerRequestContext[Any]", params: "GetPromptRequestParams"
        ) -> "GetPromptResult":
            prompts = {one.name: one for one in self._resources.prompts(self._caller_of(_scope(context)))}
            given = params.arguments or {}
            with _protocol_errors():
                if params.name not in prompts:
                    raise NotFound(f"No prompt is named {quoted(params.name)}", details={"available": list(prompts)})
                chosen = prompts[params.name]
                missing = [name for name in chosen.arguments if not given.get(name)]
                if missing:
                    raise MissingRequiredField(f"{missing[0].capitalize()} is required", field=missing[0])
            said = TextContent(type="text", text=chosen.write(given))
            return GetPromptResult(description=chosen.description, messages=[PromptMessage(role="user", content=said)])

        return Server(
            NAME,
            version=self._version,
            on_list_tools=list_tools,
            on_call_tool=call_tool,
            on_list_resources=list_resources,
            on_list_resource_templates=list_templates,
            on_read_resource=read_resource,
            on_list_prompts=list_prompts,
            on_get_prompt=get_prompt,
        )

    async def _call(self, scope: Scope, name: str, arguments: Arguments, progress: Progress) -> "CallToolResult":
        tools = {tool.name: tool for tool in self._tools_for(self._caller_of(scope))}
        try:
            if name not in tools:
                raise NotFound(f"No tool is named {quoted(name)}", details={"available": list(tools)})
            return _result(await tools[name].call(scope, arguments, progress), failed=False)
        except AppError as error:
            return _result(Told(f"{error.code}: {error.message}", error.envelope()), failed=True)
        except Exception:
            log.exception("The MCP tool %s failed", name if name in tools else "?")
            crash = InternalError("Internal server error")
            return _result(Told(f"{crash.code}: {crash.message}", crash.envelope()), failed=True)


def import_mcp_server() -> None:
    """What serves /mcp."""
    import mcp.server.lowlevel
    import mcp.server.streamable_http_manager
    import mcp_types

    del mcp, mcp_types


@contextmanager
def _protocol_errors() -> Iterator[None]:
    """An error of the tree as the protocol tells it where a result has no place for one."""
    from mcp import MCPError
    from mcp_types import INVALID_PARAMS

    try:
        yield
    except AppError as error:
        raise MCPError(INVALID_PARAMS, f"{error.code}: {error.message}", error.envelope()) from None


def _scope(context: "ServerRequestContext[Any]") -> Scope:
    if context.request is None:
        raise RuntimeError("this server is asked over HTTP only")
    scope: Scope = context.request.scope
    return scope


def _result(told: Told, *, failed: bool) -> "CallToolResult":
    from mcp_types import CallToolResult, TextContent

    structured = None if told.structured is None else dict(told.structured)
    return CallToolResult(
        content=[TextContent(type="text", text=told.text)], structured_content=structured, is_error=failed
    )
