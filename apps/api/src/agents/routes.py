"""Agents: who there is, their runs, and the decisions that runs wait for."""

from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from apps.agents.agents import Agents
from apps.agents.config import AGENT_PREFIX
from apps.api.src.agents.answers import agent_json, run_answer, run_json, waiting_answer
from apps.api.src.agents.schemas import (
    DECIDE,
    DECIDE_EACH,
    LONGEST_REASON,
    READ,
    RUN,
    AgentAnswer,
    AgentList,
    DecisionsBody,
    RunAnswer,
    RunBody,
    RunList,
    run_body,
    run_responses,
)
from apps.api.src.auth.authentication import allow_addressed, caller_of
from apps.api.src.http.openapi import error_responses
from apps.api.src.limits.limiter import RateLimits
from apps.api.src.routes.openai_routes import Stream
from apps.api.src.wiring.services import Services
from apps.core.agent_runs import AgentRun
from apps.core.callers import Caller
from apps.core.errors import Conflict, InvalidValue, ModelUnavailable
from apps.core.fields import Between
from apps.core.settings import Settings

RUN_ROUTE, APPROVE_ROUTE, DENY_ROUTE = "/agents/{name}/run", "/agents/runs/{id}/approve", "/agents/runs/{id}/deny"
DECISIONS_ROUTE = "/agents/runs/{id}/decisions"
Limit = Annotated[int, Between(1, 200), Query(description="The most to list")]
Before = Annotated[float | None, Query(description="Unix time: runs that began before it")]
Reason = Annotated[str, Query(max_length=LONGEST_REASON, description="What the model is told of it")]


def agents_of(services: Services) -> Agents:
    """Raises ModelUnavailable where there are none."""
    if services.agents is None:
        raise ModelUnavailable("There are no agents here")
    return services.agents


def agent_router(services: Services, settings: Settings, limits: RateLimits) -> APIRouter:
    router = APIRouter(route_class=limits.route_class("agents", settings.rate_limit_agents), tags=["agents"])
    _add_reading(router, services, settings)
    _add_running(router, services, settings)
    _add_deciding(router, services)
    return router


def _add_reading(router: APIRouter, services: Services, settings: Settings) -> None:
    @router.get("/agents", responses=error_responses(*READ))
    async def agents(request: Request) -> AgentList:
        """The agents that the caller may ask, with their tools."""
        agents, caller = agents_of(services), caller_of(request)
        cards = [agents.card(name) for name in agents.names() if caller.may_use(AGENT_PREFIX + name)]
        return AgentList(agents=[AgentAnswer(**agent_json(card, settings.default_model)) for card in cards])

    @router.get("/agents/runs", responses=error_responses(*READ, InvalidValue))
    async def runs(request: Request, limit: Limit = 50, before: Before = None) -> RunList:
        """The tenant's runs of agents that the caller's key is for, the newest first.

        `before` is the `next` of the page before; a page may have fewer runs than `limit`.
        """
        caller = caller_of(request)
        found = await agents_of(services).recent(caller, limit, before)
        shown = [RunAnswer(**run_json(run)) for run in found if caller.may_use(AGENT_PREFIX + run.agent)]
        return RunList(runs=shown, next=found[-1].begun_at if len(found) == limit else None)

    @router.get("/agents/runs/{id}", responses=error_responses(*READ, InvalidValue))
    async def run(request: Request, id: str) -> RunAnswer:
        """A run of the caller's tenant: what it did, what it used, how it ended."""
        return RunAnswer(**run_json(await _allowed_run(agents_of(services), id, caller_of(request))))

    @router.delete("/agents/runs/{id}", responses=error_responses(*READ, InvalidValue, Conflict))
    async def cancel(request: Request, id: str) -> RunAnswer:
        """End a run that is under way, with its tools, or one that waits for an approval."""
        caller, agents = caller_of(request), agents_of(services)
        await _allowed_run(agents, id, caller)
        return RunAnswer(**run_json(await agents.cancel(id, caller)))


def _add_running(router: APIRouter, services: Services, settings: Settings) -> None:
    async def run_agent(request: Request, name: str, body: RunBody, stream: Stream = False) -> Response:
        """Ask an agent: it calls its tools until it has an answer, or reaches its limits."""
        caller, model = caller_of(request), AGENT_PREFIX + name
        allow_addressed(caller, model)
        if body.model not in (None, model):
            raise InvalidValue("An agent has its own model", field="model")
        messages = body.conversation()
        agents = agents_of(services)
        session = agents.begin(name, caller, messages, body.overrides())
        prompt_characters = sum(len(str(message.content)) for message in messages)
        return await run_answer(
            request,
            agents,
            session,
            services.meter,
            caller,
            RUN_ROUTE,
            stream=stream,
            prompt_characters=prompt_characters,
        )

    run_agent.__annotations__["body"] = run_body(settings)
    responses = run_responses(*RUN)
    router.add_api_route(RUN_ROUTE, run_agent, methods=["POST"], response_model=RunAnswer, responses=responses)


def _add_deciding(router: APIRouter, services: Services) -> None:
    @router.post(APPROVE_ROUTE, response_model=RunAnswer, responses=run_responses(*DECIDE))
    async def approve(request: Request, id: str, stream: Stream = False) -> Response:
        """Make all calls that the run still waits with, and go on with it; the answer is the rest of the run."""
        caller, agents = caller_of(request), agents_of(services)
        await _allowed_run(agents, id, caller)
        session = await agents.decide(id, caller, approved=True)
        return await run_answer(request, agents, session, services.meter, caller, APPROVE_ROUTE, stream=stream)

    @router.post(DENY_ROUTE, response_model=RunAnswer, responses=run_responses(*DECIDE))
    async def deny(request: Request, id: str, reason: Reason = "", stream: Stream = False) -> Response:
        """Go on without the calls that the run still waits with: the model reads that they were denied."""
        caller, agents = caller_of(request), agents_of(services)
        await _allowed_run(agents, id, caller)
        session = await agents.decide(id, caller, approved=False, reason=reason)
        return await run_answer(request, agents, session, services.meter, caller, DENY_ROUTE, stream=stream)

    @router.post(DECISIONS_ROUTE, response_model=RunAnswer, responses=run_responses(*DECIDE_EACH))
    async def decide(request: Request, id: str, body: DecisionsBody, stream: Stream = False) -> Response:
        """Approve some of the calls that the run waits with and deny others; with the last one it goes on.

        Until then the answer is the run, which waits, with those that are left in `pending`.
        """
        caller, agents, decisions = caller_of(request), agents_of(services), body.by_call()
        await _allowed_run(agents, id, caller)
        decided = await agents.decide_on(id, caller, decisions)
        if isinstance(decided, AgentRun):
            return waiting_answer(request, decided, stream=stream)
        return await run_answer(request, agents, decided, services.meter, caller, DECISIONS_ROUTE, stream=stream)


async def _allowed_run(agents: Agents, id: str, caller: Caller) -> AgentRun:
    """A run of the caller's tenant. Raises NotFound, and Forbidden where the caller's key is not for its agent."""
    run = await agents.run(id, caller)
    allow_addressed(caller, AGENT_PREFIX + run.agent)
    return run
