"""The statements behind `usage.py`."""

from typing import Any

from sqlalchemy import Select, case, func, literal_column, select
from sqlalchemy.ext.asyncio import AsyncConnection

from apps.operations.ledger_rows import BILLION
from apps.operations.tables import calls
from apps.operations.usage import SUMS, Row, UsageQuestion

CACHED = ("hit", "semantic", "replay")
C = calls.c
# written out, since PostgreSQL takes two parameters of one value for two expressions
NOTHING: Any = literal_column("''")
GROUPED: dict[str, Any] = {
    "day": C.day,
    "tenant": C.tenant,
    "key": C.key_id,
    # a call that failed early was answered by nobody: it stands under the name that was asked for
    "model": func.coalesce(func.nullif(C.model, NOTHING), C.asked),
    "route": C.route,
}
SUMMED: dict[str, Any] = {
    "calls": func.count(),
    "failed": func.sum(case((C.outcome != "ok", 1), else_=0)),
    "cache_hits": func.sum(case((C.cache.in_(CACHED), 1), else_=0)),
    "prompt_tokens": func.sum(func.coalesce(C.prompt_tokens, 0)),
    "completion_tokens": func.sum(func.coalesce(C.completion_tokens, 0)),
    "cached_tokens": func.sum(C.cached_tokens),
    "cost_usd": func.sum(func.coalesce(C.cost, 0)),
    "saved_usd": func.sum(C.saved),
}


async def page(connection: AsyncConnection, asked: UsageQuestion) -> list[Row]:
    """One row more than the limit, where there is one."""
    groups = [GROUPED[name].label(name) for name in asked.group_by]
    sums = [SUMMED[name].label(name) for name in SUMS]
    statement = _of(asked, select(*groups, *sums))
    by = [GROUPED[name] for name in asked.group_by]
    found = await connection.execute(statement.group_by(*by).order_by(*by).limit(asked.limit + 1).offset(asked.offset))
    return [_row(dict(row)) for row in found.mappings()]


async def total(connection: AsyncConnection, asked: UsageQuestion) -> Row:
    found = await connection.execute(_of(asked, select(*(SUMMED[name].label(name) for name in SUMS))))
    return _row(dict(found.mappings().one()))


def _of(asked: UsageQuestion, statement: Select[Any]) -> Select[Any]:
    statement = statement.where(C.day >= asked.first, C.day <= asked.last)
    for name, value in asked.only.items():
        statement = statement.where(GROUPED[name] == value)
    return statement


def _row(row: Row) -> Row:
    """Numbers as numbers: PostgreSQL sums to decimals, and money is kept in billionths."""
    for name in SUMS:
        number = int(row[name] or 0)
        row[name] = number / BILLION if name.endswith("_usd") else number
    return row
