"""The statements behind `retention.py`: rows of the ledger become sums of their day.

Imported when a database is open, since it needs SQLAlchemy.
"""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from sqlalchemy import RowMapping, delete, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from apps.operations.tables import calls, daily_usage
from apps.operations.usage import GROUPS, SUMS
from apps.operations.usage_store import COUNTED, GROUPED

KEYS = tuple(column.name for column in daily_usage.primary_key)
VALUES = tuple(column.name for column in daily_usage.c if not column.primary_key)
# the names of usage, and those of the table's columns in the same order
NAMES = dict(zip((*GROUPS, *SUMS), (*KEYS, *VALUES), strict=True))


async def fold(connection: AsyncConnection, before: str, most: int) -> int:
    """Replace at most so many rows of days ``before`` this one by their sums; how many those were.

    The work of one transaction. What is summed is what the deletion gave back, so that no row can be counted twice or
    be lost, whoever else does the same.
    """
    old = select(calls.c.id).where(calls.c.day < before).order_by(calls.c.day).limit(most)
    # rows that another process has in hand are left to it
    ids = (await connection.execute(old.with_for_update(skip_locked=True))).scalars().all()
    if not ids:
        return 0
    told = [(GROUPED | COUNTED)[name].label(column) for name, column in NAMES.items()]
    gone = await connection.execute(delete(calls).where(calls.c.id.in_(ids)).returning(*told))
    await _add(connection, _summed(gone.mappings()))
    return len(ids)


def _summed(rows: Iterable[RowMapping]) -> list[dict[str, Any]]:
    """In one order everywhere, so that two transactions never wait for each other."""
    sums: dict[tuple[str, ...], list[int]] = defaultdict(lambda: [0] * len(VALUES))
    for row in rows:
        so_far = sums[tuple(row[name] or "" for name in KEYS)]
        for at, name in enumerate(VALUES):
            so_far[at] += row[name]
    return [dict(zip((*KEYS, *VALUES), (*key, *values), strict=True)) for key, values in sorted(sums.items())]


async def _add(connection: AsyncConnection, sums: list[dict[str, Any]]) -> None:
    kind: Any = postgresql if connection.dialect.name == "postgresql" else sqlite
    new = kind.insert(daily_usage)
    more = {name: daily_usage.c[name] + new.excluded[name] for name in VALUES}
    await connection.execute(new.on_conflict_do_update(index_elements=KEYS, set_=more), sums)
