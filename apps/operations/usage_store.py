"""What a row of the ledger counts as in sums of usage: said once, for sums of rows and for those of deleted ones.

The statements behind `usage.py`: each one sums the ledger's rows, and what was kept of those that are deleted.

One statement sees one state of both tables, so that what moves from one to the other meanwhile is counted once.
"""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Select, Subquery, case, func, literal_column, select, union_all
from sqlalchemy.ext.asyncio import AsyncConnection

from apps.operations.ledger_rows import BILLION
from apps.operations.tables import calls, daily_usage
from apps.operations.usage import SUMS, Row, UsageQuestion

CACHED = ("hit", "semantic", "replay")
C, D = calls.c, daily_usage.c
# written out, since PostgreSQL takes two parameters of one value for two expressions
NOTHING: Any = literal_column("''")
ONE: Any = literal_column("1")
ZERO: Any = literal_column("0")

GROUPED: dict[str, Any] = {
    "day": C.day,
    "tenant": C.tenant,
    "key": C.key_id,
    # a call that failed early was answered by nobody: it stands under the name that was asked for
    "model": func.coalesce(func.nullif(C.model, NOTHING), C.asked),
    "route": C.route,
}
COUNTED: dict[str, Any] = {
    "calls": ONE,
    "failed": case((C.outcome != "ok", ONE), else_=ZERO),
    "cache_hits": case((C.cache.in_(CACHED), ONE), else_=ZERO),
    "prompt_tokens": func.coalesce(C.prompt_tokens, ZERO),
    "completion_tokens": func.coalesce(C.completion_tokens, ZERO),
    "cached_tokens": C.cached_tokens,
    "cost_usd": func.coalesce(C.cost, ZERO),
    "saved_usd": C.saved,
}

DAILY_GROUPED: dict[str, Any] = {
    "day": D.day,
    "tenant": D.tenant,
    "key": func.nullif(D.key_id, NOTHING),
    "model": D.model,
    "route": D.route,
}
DAILY_COUNTED: dict[str, Any] = {
    "calls": D.calls,
    "failed": D.failed,
    "cache_hits": D.cache_hits,
    "prompt_tokens": D.prompt_tokens,
    "completion_tokens": D.completion_tokens,
    "cached_tokens": D.cached_tokens,
    "cost_usd": D.cost,
    "saved_usd": D.saved,
}


Expressions = Mapping[str, Any]


async def page(connection: AsyncConnection, asked: UsageQuestion) -> list[Row]:
    """One row more than the limit, where there is one."""
    found = _both(asked, [*asked.group_by])
    by = [found.c[name] for name in asked.group_by]
    statement = select(*by, *_sums(found)).group_by(*by).order_by(*by)
    rows = await connection.execute(statement.limit(asked.limit + 1).offset(asked.offset))
    return [_row(dict(row)) for row in rows.mappings()]


async def total(connection: AsyncConnection, asked: UsageQuestion) -> Row:
    found = await connection.execute(select(*_sums(_both(asked, []))))
    return _row(dict(found.mappings().one()))


def _both(asked: UsageQuestion, by: list[str]) -> Subquery:
    """Sums of each table; grouped in each, since SQLite would put all rows of the two together first."""
    parts = ((GROUPED, COUNTED), (DAILY_GROUPED, DAILY_COUNTED))
    return union_all(*(_summed(asked, by, *part) for part in parts)).subquery("found")


def _summed(asked: UsageQuestion, by: list[str], grouped: Expressions, counted: Expressions) -> Select[Any]:
    groups = [grouped[name].label(name) for name in by]
    sums = [func.sum(counted[name]).label(name) for name in SUMS]
    statement = select(*groups, *sums).where(grouped["day"] >= asked.first, grouped["day"] <= asked.last)
    for name, value in asked.only.items():
        statement = statement.where(grouped[name] == value)
    return statement.group_by(*(grouped[name] for name in by))


def _sums(found: Subquery) -> list[Any]:
    return [func.sum(found.c[name]).label(name) for name in SUMS]


def _row(row: Row) -> Row:
    """Numbers as numbers: PostgreSQL sums to decimals, and money is kept in billionths."""
    for name in SUMS:
        number = int(row[name] or 0)
        row[name] = number / BILLION if name.endswith("_usd") else number
    return row
