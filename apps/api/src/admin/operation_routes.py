"""Usage, and the routing file, for operators.

Usage is for a key's owner too, as JSON or as CSV (RFC 4180), a page at a time; the CSV is safe to open in a
spreadsheet: no cell of it is taken for a formula. The routing file is checked before it is read again: the one at work,
or one that is posted.
"""

import asyncio
import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import JSONResponse, Response

from apps.api.src.auth.authentication import caller_of
from apps.api.src.http.openapi import BODY_ERRORS, Responses, error_responses
from apps.api.src.http.request import JsonRoute
from apps.api.src.limits.limiter import RateLimits
from apps.api.src.wiring.services import Services
from apps.core.errors import Forbidden, InvalidValue, ModelUnavailable, Overloaded, RateLimitExceeded
from apps.core.fields import Between, Schema
from apps.core.settings import Settings
from apps.gateway.routing.config import GatewayConfigError, gateway_config_of, load_gateway_config
from apps.operations.ledger import usage
from apps.operations.ledger_rows import GROUPS, SUMS, UsageQuestion, UsageReport

LONGEST_FILE = 65_536
"""Characters: YAML is read by the letter."""
POSTED = Path("routing file")


class RoutingFile(BaseModel):
    """What to check; left out, the file of GATEWAY_CONFIG as it is on the disk now."""

    model_config = ConfigDict(strict=True, extra="ignore")

    yaml: str | None = Field(None, description="The text of a routing file", max_length=LONGEST_FILE)


class CheckedFile(Schema):
    """``faults`` never repeat a value of the file: it may be a secret."""

    ok: bool
    faults: list[str] = Field(description="One line each; empty where the file may be put in force")
    models: list[str] = Field(description="The names that calls could use")
    providers: list[str]


def admin_routing_router(settings: Settings) -> APIRouter:
    router = APIRouter(prefix="/admin/routing", route_class=JsonRoute, tags=["operations"])

    @router.post("/check", responses=error_responses(*BODY_ERRORS))
    async def check(request: Request, file: RoutingFile) -> CheckedFile:
        """Say what is wrong with a routing file, whole, and change nothing."""
        if not caller_of(request).admin:
            raise Forbidden("This needs an admin key")
        # YAML of a stranger takes its time
        return await asyncio.to_thread(_checked, file.yaml, settings.gateway_config)

    return router


def _checked(text: str | None, own: Path | None) -> CheckedFile:
    if text is None and own is None:
        raise InvalidValue("There is no routing file here: GATEWAY_CONFIG names none", field="yaml")
    path = POSTED if own is None or text is not None else own
    try:
        config = load_gateway_config(path) if text is None else gateway_config_of(text, path)
    except GatewayConfigError as error:
        faults = [line.removeprefix(f"{path}: ") for line in str(error).splitlines()]
        return CheckedFile(ok=False, faults=faults, models=[], providers=[])
    return CheckedFile(ok=True, faults=[], models=list(config.models), providers=list(config.providers))


FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


def as_csv(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """With a line of names first."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(columns)
    writer.writerows([_cell(row[name]) for name in columns] for row in rows)
    return text.getvalue()


def _cell(value: Any) -> Any:
    """Numbers are ours; texts may be a caller's."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.9f}"
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value


OWN_GROUPS = ("day", "key", "model", "route")
MOST_DAYS = 400
MOST_ROWS = 1000
EXAMPLE_SUMS = {"calls": 3, "failed": 0, "cache_hits": 1, "prompt_tokens": 27, "completion_tokens": 60}
EXAMPLE_SUMS |= {"cached_tokens": 0, "cost_usd": 0.00004, "saved_usd": 0.00002}  # type: ignore[dict-item]


class UsageQuery(BaseModel):
    """The parameters of both routes."""

    model_config = ConfigDict(populate_by_name=True)

    first: date | None = Field(None, alias="from", description="First day, in UTC; default: the first of this month")
    last: date | None = Field(None, alias="to", description="Last day, in UTC; default: today")
    group_by: str = Field("", max_length=100, description="What to tell apart, separated by commas")
    format: Literal["json", "csv"] | None = Field(None, description="csv is also what `Accept: text/csv` gives")
    limit: Annotated[int, Between(1, MOST_ROWS)] = Field(100, description="Rows of a page")
    offset: Annotated[int, Between(0, 1_000_000_000)] = Field(0, description="Rows of the pages before")

    def question(self, known: tuple[str, ...], default: str, only: Mapping[str, str]) -> UsageQuestion:
        """Raises InvalidValue."""
        today = datetime.now(UTC).date()
        last = self.last or today
        first = self.first or min(today.replace(day=1), last)
        if not 0 <= (last - first).days < MOST_DAYS:
            raise InvalidValue(f"From must be before to, by less than {MOST_DAYS} days", field="from")
        groups = [name.strip() for name in (self.group_by or default).split(",") if name.strip()]
        if not groups or len(set(groups)) < len(groups) or not set(groups) <= set(known):
            details = {"allowed": list(known)}
            raise InvalidValue(f"Group_by must be some of {', '.join(known)}", field="group_by", details=details)
        return UsageQuestion(first.isoformat(), last.isoformat(), groups, only, self.limit, self.offset)


class AllUsageQuery(UsageQuery):
    """The operator's, who may narrow it down."""

    tenant: str | None = Field(None, max_length=100)
    key: str | None = Field(None, max_length=100, description="A key's id")
    model: str | None = Field(None, max_length=200)
    route: str | None = Field(None, max_length=100)

    def only(self) -> dict[str, str]:
        filters = {"tenant": self.tenant, "key": self.key, "model": self.model, "route": self.route}
        return {name: value for name, value in filters.items() if value is not None}


def usage_router(services: Services, settings: Settings, limits: RateLimits) -> APIRouter:
    router = APIRouter(route_class=limits.route_class("v1", settings.rate_limit_v1), tags=["operations"])

    @router.get("/v1/usage", responses=_answers(["day", "model"]))
    async def own_usage(request: Request, query: Annotated[UsageQuery, Query()]) -> Response:
        """What the calls of this key's tenant used, by day and model: calls, tokens, cost, and what caches saved."""
        only = {"tenant": caller_of(request).tenant}
        return await _answer(request, services, query, query.question(OWN_GROUPS, "day,model", only))

    return router


def admin_usage_router(services: Services, settings: Settings, limits: RateLimits) -> APIRouter:
    router = APIRouter(route_class=limits.route_class("admin", settings.rate_limit_v1), tags=["operations"])

    @router.get("/admin/usage", responses=_answers(["day", "tenant"]))
    async def all_usage(request: Request, query: Annotated[AllUsageQuery, Query()]) -> Response:
        """The same of everybody, by tenant, key, model, route and day."""
        if not caller_of(request).admin:
            raise Forbidden("This needs an admin key")
        return await _answer(request, services, query, query.question(GROUPS, "day,tenant", query.only()))

    return router


async def _answer(request: Request, services: Services, query: UsageQuery, question: UsageQuestion) -> Response:
    if services.database is None:
        raise ModelUnavailable("This service keeps no ledger")
    report = await usage(services.database, question)
    headers = {"Cache-Control": "no-store", "Vary": "Accept"}
    if report.more:
        following = request.url.include_query_params(offset=question.offset + question.limit)
        headers["Link"] = f'<{following.path}?{following.query}>; rel="next"'
    if query.format == "csv" or (query.format is None and "text/csv" in request.headers.get("accept", "")):
        headers["Content-Disposition"] = f'attachment; filename="usage-{question.first}-{question.last}.csv"'
        return Response(as_csv([*question.group_by, *SUMS], report.rows), 200, headers, "text/csv; charset=utf-8")
    return JSONResponse(_body(question, report), 200, headers)


def _body(question: UsageQuestion, report: UsageReport) -> dict[str, Any]:
    return {
        "object": "usage",
        "from": question.first,
        "to": question.last,
        "group_by": list(question.group_by),
        "data": list(report.rows),
        "total": report.total,
        "next_offset": question.offset + question.limit if report.more else None,
    }


def _answers(groups: list[str]) -> Responses:
    values = {"day": "2026-11-25", "model": "gpt-4o-mini", "tenant": "key:3f9a1c20b7d4e658"}
    row = {**{name: values[name] for name in groups}, **EXAMPLE_SUMS}
    question = UsageQuestion("2026-11-01", "2026-11-30", groups)
    example = _body(question, UsageReport([row], EXAMPLE_SUMS, more=False))
    return {
        200: {
            "description": "Sums of the ledger, a moment old; `Link` leads to the next page",
            "content": {
                "application/json": {"schema": {"type": "object"}, "example": example},
                "text/csv": {"schema": {"type": "string"}, "example": as_csv([*groups, *SUMS], [row])},
            },
        },
        **error_responses(InvalidValue, Forbidden, RateLimitExceeded, Overloaded),
    }
