"""What a caller may do, and how the service is: `/v1/me` and `/v1/summary`."""

import time
from typing import Any

from fastapi import APIRouter, Request
from pydantic import Field

from apps.api.src.auth.caller import caller_of
from apps.api.src.http.openapi import error_responses
from apps.api.src.wiring.services import Services
from apps.core.callers import ANONYMOUS
from apps.core.errors import StoreUnavailable
from apps.core.fields import Schema
from apps.core.process import VERSION


class BudgetLeft(Schema):
    """US dollars of the current period."""

    limit_usd: float
    period: str
    spent_usd: float
    reserved_usd: float = Field(description="Held by calls under way")
    left_usd: float


class Me(Schema):
    """The caller, as the service knows it."""

    authenticated: bool = Field(description="false while no key is asked for")
    tenant: str
    key_id: str | None
    name: str
    admin: bool
    models: list[str] = Field(description="Patterns of model names")
    routes: list[str] = Field(description="Patterns of paths")
    rpm: int | None
    tpm: int | None
    budget: BudgetLeft | None


class Summary(Schema):
    """Numbers of this process: counters since its start, gauges as of now, histograms as sum and count."""

    at: float = Field(description="Unix time")
    version: str
    values: dict[str, list[dict[str, Any]]] = Field(description="By metric: its labels and its value")


def account_router(services: Services) -> APIRouter:
    router = APIRouter(tags=["operations"])

    @router.get("/v1/me", responses=error_responses(StoreUnavailable))
    async def me(request: Request) -> Me:
        """Show what the caller's key may do, and what is left of its budget."""
        caller = caller_of(request)
        budget = None
        accounts = services.accounts
        if caller.budget is not None and caller.key_id is not None and accounts is not None and accounts.budgets:
            spent, reserved = await accounts.budgets.standing(caller)
            left = max(0.0, caller.budget.usd - spent - reserved)
            budget = BudgetLeft(
                limit_usd=caller.budget.usd,
                period=caller.budget.period,
                spent_usd=spent,
                reserved_usd=reserved,
                left_usd=left,
            )
        return Me(
            authenticated=caller is not ANONYMOUS,
            tenant=caller.tenant,
            key_id=caller.key_id,
            name=caller.name,
            admin=caller.admin,
            models=list(caller.models),
            routes=list(caller.routes),
            rpm=caller.requests_per_minute,
            tpm=caller.tokens_per_minute,
            budget=budget,
        )

    @router.get("/v1/summary")
    async def summary() -> Summary:
        """Show the service's numbers as JSON: the metrics of Prometheus without their buckets."""
        return Summary(at=time.time(), version=VERSION, values=services.metrics.summary())

    return router
