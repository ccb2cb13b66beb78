"""An MCP server over streamable HTTP: stateless, JSON answers, and events where progress is asked for.

What its tools, resources and prompts are is handed in, for each caller anew. The only adapter of the server's side of
the mcp package; it is imported with the first request (api/src/mcp/routes.py).
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mcp import MCPError
from mcp.server import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp_types import (
    INVALID_PARAMS,
    CallToolRequestParams,
    CallToolResult,
    GetPromptRequestParams,
    GetPromptResult,
    ListPromptsResult,
    ListResourcesResult,
    ListResourceTemplatesResult,
    ListToolsResult,
    PaginatedRequestParams,
    Prompt,
    PromptArgument,
    PromptMessage,
    ReadResourceRequestParams,
    ReadResourceResult,
    Resource,
    ResourceTemplate,
    TextContent,
    TextResourceContents,
    Tool,
)

from apps.agents.mcp_port import ENDED_BY, Progress, Scope, Served, ToolAnswer
from apps.agents.tools import Arguments
from apps.core.errors import AppError, InternalError, MissingRequiredField, NotFound, quoted
from apps.core.process import NAME
from apps.models.metering import cut_off_with

LARGEST_BODY = 64 * 1024 * 1024

log = logging.getLogger(__name__)


class ProtocolServer:
    """The protocol's handlers over what is served."""

    def __init__(self, served: Served) -> None:
        self._served = served

    def manager(self, *, streamed: bool) -> StreamableHTTPSessionManager:
        """``streamed`` answers with events, else with JSON."""
        return StreamableHTTPSessionManager(
            self._server(), json_response=not streamed, stateless=True, max_request_body_size=LARGEST_BODY
        )

    def _server(self) -> Server[Any]:
        async def list_tools(
            context: ServerRequestContext[Any], params: PaginatedRequestParams | None
        ) -> ListToolsResult:
            tools = self._served.tools_for(self._served.caller_of(_scope(context)))
            return ListToolsResult(
                tools=[
                    Tool(name=tool.name, description=tool.description, input_schema=dict(tool.parameters))
                    for tool in tools
                ]
            )

        async def call_tool(context: ServerRequestContext[Any], params: CallToolRequestParams) -> CallToolResult:
            async def progress(done: float, what: str) -> None:
                await context.session.report_progress(done, None, what)

            return await self._call(_scope(context), params.name, params.arguments or {}, progress)

        async def list_resources(
            context: ServerRequestContext[Any], params: PaginatedRequestParams | None
        ) -> ListResourcesResult:
            with _protocol_errors():
                page, following = await self._served.resources.listed(_scope(context), (params and params.cursor) or "")
            return ListResourcesResult(
                resources=[
                    Resource(uri=one.uri, name=one.name, description=one.description, mime_type=one.kind)
                    for one in page
                ],
                next_cursor=following or None,
            )

        async def list_templates(
            context: ServerRequestContext[Any], params: PaginatedRequestParams | None
        ) -> ListResourceTemplatesResult:
            templates = [
                ResourceTemplate(name=words, uri_template=uri, description=words, mime_type="text/plain")
                for uri, words in self._served.resources.templates.items()
            ]
            return ListResourceTemplatesResult(resource_templates=templates)

        async def read_resource(
            context: ServerRequestContext[Any], params: ReadResourceRequestParams
        ) -> ReadResourceResult:
            with _protocol_errors():
                read = await self._served.resources.read(_scope(context), str(params.uri))
            content = TextResourceContents(uri=params.uri, mime_type=read.kind, text=read.text)
            return ReadResourceResult(contents=[content])

        async def list_prompts(
            context: ServerRequestContext[Any], params: PaginatedRequestParams | None
        ) -> ListPromptsResult:
            prompts = [
                Prompt(
                    name=one.name,
                    description=one.description,
                    arguments=[
                        PromptArgument(name=name, description=words, required=True)
                        for name, words in one.arguments.items()
                    ],
                )
                for one in self._served.resources.prompts(self._served.caller_of(_scope(context)))
            ]
            return ListPromptsResult(prompts=prompts)

        async def get_prompt(context: ServerRequestContext[Any], params: GetPromptRequestParams) -> GetPromptResult:
            prompts = {one.name: one for one in self._served.resources.prompts(self._served.caller_of(_scope(context)))}
            given = params.arguments or {}
            with _protocol_errors():
                if params.name not in prompts:
                    raise NotFound(f"No prompt is named {quoted(params.name)}", details={"available": list(prompts)})
                chosen = prompts[params.name]
                missing = [name for name in chosen.arguments if not given.get(name)]
                if missing:
                    raise MissingRequiredField(f"{missing[0].capitalize()} is required", field=missing[0])
            content = TextContent(type="text", text=chosen.write(given))
            return GetPromptResult(
                description=chosen.description, messages=[PromptMessage(role="user", content=content)]
            )

        return Server(
            NAME,
            version=self._served.version,
            on_list_tools=list_tools,
            on_call_tool=call_tool,
            on_list_resources=list_resources,
            on_list_resource_templates=list_templates,
            on_read_resource=read_resource,
            on_list_prompts=list_prompts,
            on_get_prompt=get_prompt,
        )

    async def _call(self, scope: Scope, name: str, arguments: Arguments, progress: Progress) -> CallToolResult:
        tools = {tool.name: tool for tool in self._served.tools_for(self._served.caller_of(scope))}
        try:
            if name not in tools:
                raise NotFound(f"No tool is named {quoted(name)}", details={"available": list(tools)})
            call = tools[name].call(scope, arguments, progress)
            return _result(await cut_off_with(call, lambda _: scope.get(ENDED_BY)), failed=False)
        except AppError as error:
            return _result(ToolAnswer(f"{error.code}: {error.message}", error.envelope()), failed=True)
        except Exception:
            log.exception("The MCP tool %s failed", name if name in tools else "?")
            crash = InternalError("Internal server error")
            return _result(ToolAnswer(f"{crash.code}: {crash.message}", crash.envelope()), failed=True)


@contextmanager
def _protocol_errors() -> Iterator[None]:
    """An error of the tree as the protocol tells it where a result has no place for one."""
    try:
        yield
    except AppError as error:
        raise MCPError(INVALID_PARAMS, f"{error.code}: {error.message}", error.envelope()) from None


def _scope(context: ServerRequestContext[Any]) -> Scope:
    if context.request is None:
        raise RuntimeError("this server is asked over HTTP only")
    scope: Scope = context.request.scope
    return scope


def _result(answer: ToolAnswer, *, failed: bool) -> CallToolResult:
    structured = None if answer.structured is None else dict(answer.structured)
    return CallToolResult(
        content=[TextContent(type="text", text=answer.text)], structured_content=structured, is_error=failed
    )
