"""The app, put together: what it needs comes in as arguments, so that tests and production build the same one."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline
from starlette.routing import BaseRoute

from apps.agents.mcp_port import Served
from apps.api.src import exceptions
from apps.api.src.admin.key_routes import admin_key_router
from apps.api.src.admin.operation_routes import admin_routing_router, admin_usage_router, usage_router
from apps.api.src.agents.routes import agent_router
from apps.api.src.anthropic.documentation import document_anthropic
from apps.api.src.anthropic.routes import anthropic_router
from apps.api.src.auth.authentication import Authentication, Authenticator, FleetAuthentication, RefusedKeys, caller_in
from apps.api.src.console.routes import account_router, console_router
from apps.api.src.health.routes import capacity_router, health_router, metrics_router, ready_router
from apps.api.src.http.connections import STATE_KEY, ConnectionLimits, Connections
from apps.api.src.http.docs_page import (
    docs_router,
    document_security,
    fold_shared_collections,
    name_ready_model,
    share_errors,
    tell_summaries,
)
from apps.api.src.http.middleware import BodyLimit, BrowserCors, ClientAddress, CrashGuard, HotPaths, RequestScope
from apps.api.src.http.openapi import whole_examples
from apps.api.src.http.peers import HandOver, Peers
from apps.api.src.http.shutdown import Shutdown
from apps.api.src.limits.limiter import RateLimits
from apps.api.src.mcp.routes import McpEndpoint, mcp_router
from apps.api.src.mcp.served import ServedDocuments, ServedTools
from apps.api.src.observability.tracing import OFF
from apps.api.src.ollama.documentation import document_ollama
from apps.api.src.ollama.routes import ollama_router
from apps.api.src.rag.documentation import document_rag
from apps.api.src.rag.routes import rag_answer_router, rag_ingest_router, rag_router
from apps.api.src.routes.local_routes import local_router
from apps.api.src.routes.openai_routes import openai_router
from apps.api.src.v1.background import BackgroundResponses
from apps.api.src.v1.cached import Recordings
from apps.api.src.v1.documentation import document_v1
from apps.api.src.v1.models import embedding_tokens_router
from apps.api.src.v1.passage import passage_router
from apps.api.src.v1.rerank import rerank_router
from apps.api.src.v1.routes import v1_lookup_router, v1_router
from apps.api.src.wiring.fleet import model_settings
from apps.api.src.wiring.services import Services, reloading
from apps.api.src.wiring.stores import build_accounts
from apps.core.process import NAME, VERSION
from apps.core.settings import Settings

DESCRIPTION = """One HTTP contract in front of cloud models and a local model on a plain CPU.

Every error, on every route, has the same envelope: `{"error": {"code", "message", "status", "field", "details"}}`;
under `/v1` with OpenAI's fields beside them. A line below an operation is one status with what leads to it; the bodies
stand once, in the document's `components.responses`.

A stream (`?stream=true`, or `"stream": true` under `/v1`) is server-sent events: pieces of text, and then exactly one
end, `done` or `error` (`[DONE]` or an `error` chunk under `/v1`). One without an end was cut off.
"""
UNLIMITED = (
    "This server has no limits of its own: heads, slow clients and connections are unbounded. Put a proxy that has them"
    " before it, start it by `python -m apps.api.src.main`, or name the class that has them:"
    " --http apps.api.src.http.protocol:Protocol"
)
TAGS = [
    {"name": "generate", "description": "The cloud model: one prompt in, an answer or a stream of it out."},
    {"name": "local", "description": "The local model on this machine's CPU: no key, no network."},
    {"name": "v1", "description": "OpenAI's API over every model, for any client of it."},
    {"name": "anthropic", "description": "Anthropic's messages over the same models."},
    {"name": "ollama", "description": "Ollama's API over the same models."},
    {
        "name": "documents",
        "description": "Collections of documents: taken in, searched, answered from with citations. "
        "Each route is there under `/rag/shared` in the place of `/rag/collections`, too: collections that every "
        "caller reads and administrators write.",
    },
    {"name": "agents", "description": "Agents with tools and approvals, and the MCP server."},
    {"name": "keys", "description": "Keys of callers; needs an admin key."},
    {"name": "operations", "description": "Health, readiness, metrics, usage."},
]
# in which gateways learn that a process of their fleet drains, before it stops to listen
ANNOUNCE_SECONDS = 1.0
EXPOSED = ["X-Model", "X-Request-ID", "Server-Timing", "Retry-After"]
EXPOSED += ["X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset", "RateLimit", "RateLimit-Policy"]
EXPOSED += ["X-Provider", "X-Attempts", "X-Cache", "X-Queue-Ms", "X-First-Token-Ms"]
EXPOSED += ["X-Run-ID", "X-Prompt-Tokens", "X-Completion-Tokens", "X-Cost-USD", "Age", "X-Cache-Score"]

log = logging.getLogger(__name__)

NO_PAGES: dict[str, Any] = {"openapi_url": None, "docs_url": None, "redoc_url": None}


def create_app(
    settings: Settings, services: Services, *, server_rewrites_client: bool = False, limited: bool = True
) -> FastAPI:
    """Build the app; nothing runs before its lifespan starts.

    ``server_rewrites_client``: uvicorn runs with its own trust in X-Forwarded-For (see ClientAddress).
    ``limited``: the server that runs it has the limits of `http/connections.py`; where not, the start says so.
    """
    serves_fleet = settings.serve_role == "model"
    if serves_fleet:
        settings = model_settings(settings)
    shutdown = Shutdown(settings.shutdown_grace, ANNOUNCE_SECONDS if serves_fleet else 0.0)
    accounts = services.accounts or build_accounts(settings, None)
    services = replace(services, accounts=accounts)
    connections = Connections(ConnectionLimits.of(settings))
    services.metrics.observe(connections)
    mcp = McpEndpoint(
        Served(
            ServedTools(services, settings, accounts.limits).for_caller,
            caller_in,
            VERSION,
            ServedDocuments(services, settings, accounts.limits),
        )
    )

    background = BackgroundResponses(services.gateway.stored_responses, services.keys)
    services.metrics.observe(background)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
        if not limited:
            log.warning(UNLIMITED)
        with (
            shutdown.listening(),
            reloading(services.gateway, services.agents),
            services.metrics.loop_lag.measured(),
            connections.watched(),
        ):
            with services.metrics.loop_lag.starting():
                await services.start()
            try:
                yield {STATE_KEY: connections}
            finally:
                await mcp.aclose()
                await background.aclose()
                await services.aclose()

    # a process that only gateways ask has no pages
    make, pages = (FastAPI, NO_PAGES) if serves_fleet else (FastAPIOffline, {})
    app = make(
        title=NAME,
        version=VERSION,
        description=DESCRIPTION,
        openapi_tags=TAGS,
        lifespan=lifespan,
        redirect_slashes=False,
        telemetry=OFF if services.tracing is None else services.tracing.config,
        **pages,
    )
    app.state.settings = settings
    app.state.services = services
    app.state.shutdown = shutdown
    app.state.recordings = Recordings()
    app.state.background = background
    exceptions.install(app)
    limits = accounts.limits
    routes = _fleet_routes(services, settings, limits) if serves_fleet else _routes(services, settings, limits, mcp)
    app.router.routes[:0] = routes
    if not serves_fleet:
        app.router.routes[len(routes) : len(routes)] = docs_router(app).routes
        _complete_page(app, services)
    app.add_middleware(HotPaths, routes=routes)
    if serves_fleet:
        app.add_middleware(FleetAuthentication, secret=settings.fleet_secret.get_secret_value())
    elif settings.auth != "off":
        app.add_middleware(Authentication, authenticator=_authenticator(settings, services))
    _add_middleware(app, settings, shutdown, server_rewrites_client)
    fixed = frozenset(path for route in app.routes if "{" not in (path := getattr(route, "path", "{")))
    app.add_middleware(RequestScope, shutdown=shutdown, metrics=services.metrics, fixed=fixed)
    peers = Peers.of(settings.api_peers, settings.api_workers)
    if peers is not None:
        app.add_middleware(HandOver, peers=peers, max_bytes=settings.max_body_bytes)
    return app


def _authenticator(settings: Settings, services: Services) -> Authenticator:
    if services.keys is None:
        raise RuntimeError("without AUTH=off, the services need keys")
    refused = RefusedKeys(settings.rate_limit_auth if settings.rate_limit_enabled else None)
    open_while_empty = settings.auth == "auto" and settings.env == "development" and services.tokens is None
    return Authenticator(services.keys, services.tokens, refused, open_while_empty=open_while_empty)


def _complete_page(app: FastAPI, services: Services) -> None:
    """Have the OpenAPI page say what FastAPI cannot know of it, when it is first asked for.

    Its examples name the model that answers now: the page is made anew where that has changed.
    """
    generate = app.openapi
    made_for: tuple[str, bool] | None = None

    def openapi() -> dict[str, Any]:
        nonlocal made_for
        answering = services.local.readiness().name, services.cloud.readiness().state != "not_configured"
        if app.openapi_schema is None or made_for != answering:
            app.openapi_schema = None
            page = document_ollama(document_anthropic(document_v1(generate())))
            page = tell_summaries(fold_shared_collections(document_security(document_rag(page))))
            app.openapi_schema = share_errors(whole_examples(name_ready_model(page, *answering)))
            made_for = answering
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _fleet_routes(services: Services, settings: Settings, limits: RateLimits) -> list[BaseRoute]:
    """Of a process that serves models alone."""
    routers = (
        v1_router(services, settings, limits),
        capacity_router(services),
        v1_lookup_router(services, settings, limits),
        rerank_router(services, settings, limits),
        embedding_tokens_router(services),
        health_router(services, settings, limits),
        ready_router(services),
        metrics_router(services),
    )
    return [route for router in routers for route in router.routes]


def _routes(services: Services, settings: Settings, limits: RateLimits, mcp: McpEndpoint) -> list[BaseRoute]:
    """The gateway's first, which have the most traffic; one list, since nested routers are matched anew each time."""
    routers = (
        v1_router(services, settings, limits),
        anthropic_router(services, settings, limits),
        ollama_router(services, settings, limits),
        capacity_router(services),
        v1_lookup_router(services, settings, limits),
        rerank_router(services, settings, limits),
        passage_router(services, settings, limits),
        openai_router(services, settings, limits),
        local_router(services, settings, limits),
        rag_answer_router(services, settings, limits),
        rag_ingest_router(services, settings, limits),
        rag_router(services, settings, limits),
        agent_router(services, settings, limits),
        mcp_router(mcp, settings, limits),
        health_router(services, settings, limits),
        ready_router(services),
        usage_router(services, settings, limits),
        metrics_router(services),
        admin_key_router(services),
        admin_routing_router(settings),
        admin_usage_router(services, settings, limits),
        account_router(services),
        console_router(on=settings.console == "on"),
    )
    return [route for router in routers for route in router.routes]


def _add_middleware(app: FastAPI, settings: Settings, shutdown: Shutdown, server_rewrites_client: bool) -> None:
    """From the innermost layer but one to the outermost but one."""
    app.add_middleware(CrashGuard, tracebacks=settings.debug)
    app.add_middleware(
        BodyLimit,
        max_bytes=settings.max_body_bytes,
        max_upload_bytes=settings.rag_max_upload_bytes,
        max_passage_bytes=settings.passage_max_bytes,
    )
    origins = ["*"] if settings.env == "development" else settings.allowed_origins
    if origins:
        app.add_middleware(
            BrowserCors,
            allow_origins=origins,
            allow_credentials="*" not in origins,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["*"],
            expose_headers=EXPOSED,
        )
    if settings.forwarded_allow_ips or server_rewrites_client:
        app.add_middleware(ClientAddress, trusted=settings.forwarded_allow_ips, server_rewrites=server_rewrites_client)
