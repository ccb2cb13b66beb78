"""The statements of the ledger, its sums and the budgets; and those of all tables. Imported with SQLAlchemy."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import chain, repeat
from operator import itemgetter
from typing import Any

from sqlalchemy import (
    Dialect,
    RowMapping,
    Select,
    Subquery,
    Table,
    bindparam,
    case,
    delete,
    func,
    literal,
    literal_column,
    select,
    true,
    union_all,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from apps.core.calls import REUSED
from apps.operations.document_jobs import JobStatements
from apps.operations.ledger_rows import BILLION, GROUPS, SUMS, Charge, Entry, Row, UsageQuestion, UsageReport
from apps.operations.tables import KeyStatements, RunStatements, budgets, calls, daily_usage, reservations

C, D = calls.c, daily_usage.c
# written out, since PostgreSQL takes two parameters of one value for two expressions
NOTHING: Any = literal_column("''")
ONE: Any = literal_column("1")
ZERO: Any = literal_column("0")

GROUPED: dict[str, Any] = {
    "day": C.day,
    "tenant": C.tenant,
    "key": C.key_id,
    # a call that failed early has no model that answered: it counts under the requested name
    "model": func.coalesce(func.nullif(C.model, NOTHING), C.asked),
    "route": C.route,
}
COUNTED: dict[str, Any] = {
    "calls": ONE,
    "failed": case((C.outcome != "ok", ONE), else_=ZERO),
    "cache_hits": case((C.cache.in_(sorted(REUSED)), ONE), else_=ZERO),
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


def _both(question: UsageQuestion, by: list[str]) -> Subquery:
    """Sums of each table; grouped in each, since SQLite would put all rows of the two together first."""
    parts = ((GROUPED, COUNTED), (DAILY_GROUPED, DAILY_COUNTED))
    return union_all(*(_summed(question, by, *part) for part in parts)).subquery("found")


def _summed(question: UsageQuestion, by: list[str], grouped: Expressions, counted: Expressions) -> Select[Any]:
    groups = [grouped[name].label(name) for name in by]
    sums = [func.sum(counted[name]).label(name) for name in SUMS]
    statement = select(*groups, *sums).where(grouped["day"] >= question.first, grouped["day"] <= question.last)
    for name, value in question.only.items():
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


Sums = dict[tuple[str, str], int]
EXPIRED_AT_ONCE = 500
COLUMNS = tuple(calls.c.keys())
_in_order = itemgetter(*COLUMNS)
# times the columns within the 32,766 values that a statement may have; a power of two
SQLITE_ROWS = 512


def _insert(dialect: Dialect, table: Table) -> Any:
    """An insert that passes over what is there."""
    kind: Any = postgresql if dialect.name == "postgresql" else sqlite
    return kind.insert(table).on_conflict_do_nothing()


@lru_cache(maxsize=16)
def _insert_many(count: int) -> str:
    row = f"({', '.join('?' * len(COLUMNS))})"
    rows = ", ".join([row] * count)
    return f"INSERT INTO calls ({', '.join(COLUMNS)}) VALUES {rows} ON CONFLICT DO NOTHING"  # noqa: S608 - our own names


def _keys(*sums: Sums) -> Iterable[tuple[str, str]]:
    return set().union(*sums)


KEYS = tuple(column.name for column in daily_usage.primary_key)
VALUES = tuple(column.name for column in daily_usage.c if not column.primary_key)
# the names of usage, and those of the table's columns in the same order
NAMES = dict(zip((*GROUPS, *SUMS), (*KEYS, *VALUES), strict=True))


def _sums_by_day(rows: Iterable[RowMapping]) -> list[dict[str, Any]]:
    """In one order everywhere, so that two transactions never wait for each other."""
    sums: dict[tuple[str, ...], list[int]] = defaultdict(lambda: [0] * len(VALUES))
    for row in rows:
        so_far = sums[tuple(row[name] or "" for name in KEYS)]
        for at, name in enumerate(VALUES):
            so_far[at] += row[name]
    return [dict(zip((*KEYS, *VALUES), (*key, *values), strict=True)) for key, values in sorted(sums.items())]


class LedgerStatements:
    """Each public method is the work of one transaction, and may be retried."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def report(self, question: UsageQuestion) -> UsageReport:
        rows = await self.page(question)
        return UsageReport(rows[: question.limit], await self.total(question), len(rows) > question.limit)

    async def page(self, question: UsageQuestion) -> list[Row]:
        """One row more than the limit, where there is one."""
        found = _both(question, [*question.group_by])
        by = [found.c[name] for name in question.group_by]
        statement = select(*by, *_sums(found)).group_by(*by).order_by(*by)
        rows = await self._connection.execute(statement.limit(question.limit + 1).offset(question.offset))
        return [_row(dict(row)) for row in rows.mappings()]

    async def total(self, question: UsageQuestion) -> Row:
        found = await self._connection.execute(select(*_sums(_both(question, []))))
        return _row(dict(found.mappings().one()))

    async def put(self, entries: Sequence[Entry]) -> None:
        """Write the rows that are not there yet, charge for those alone, and give back what was reserved for them."""
        free = [entry.row for entry in entries if entry.charge is None]
        if free:
            await self._write(free)
        charges = {entry.id: entry.charge for entry in entries if entry.charge is not None}
        if not charges:
            return
        rows = [entry.row for entry in entries if entry.charge is not None]
        new = await self._connection.execute(_insert(self._connection.dialect, calls).returning(calls.c.id), rows)
        spent: Sums = defaultdict(int)
        for id in new.scalars():
            spent[charges[id].key_id, charges[id].period] += charges[id].amount
        await self._settle(spent, await self._release(list(charges)))

    async def reserve(self, id: str, charge: Charge, limit: int, expires_at: float) -> tuple[int, int] | None:
        """Reserve the charge where anything is left of ``limit``. Else the billionths that are spent and reserved."""
        if not await self._take(charge, limit):
            state = await self._state(charge)
            if state is not None and sum(state) >= limit:
                return state
            # the period has not begun, or another call has begun it just now
            await self._begin_period(charge)
            if not await self._take(charge, limit):
                return await self._state(charge)
        row = {"id": id, "key_id": charge.key_id, "period": charge.period}
        await self._connection.execute(reservations.insert().values(**row, amount=charge.amount, expires_at=expires_at))
        return None

    async def go_on(self, id: str, charge: Charge, limit: int, expires_at: float) -> tuple[int, int] | None:
        """Let a call go on that has cost ``charge`` so far; what it has not reserved of that is reserved now.

        Else the billionths that are spent, its own cost among them, and what others have reserved.
        """
        # the reservation before the budget, as everywhere; its row is this call's, and the expiring process waits
        reservation = select(reservations.c.amount).where(reservations.c.id == id).with_for_update()
        own = (await self._connection.execute(reservation)).scalar()
        held = int(own or 0)
        spent, reserved = await self._state(charge) or (0, 0)
        over = (spent + charge.amount, reserved - held)
        if over[0] >= limit:
            return over
        more = Charge(charge.key_id, charge.period, charge.amount - held)
        if more.amount <= 0:
            return None
        if own is None:
            return await self.reserve(id, charge, limit, expires_at)
        if not await self._take(more, limit):
            return over
        await self._connection.execute(update(reservations).where(reservations.c.id == id).values(amount=charge.amount))
        return None

    async def renew_and_expire(self, held: Sequence[str], expires_at: float) -> int:
        """Renew the reservations that are held, and give back those that are expired; how many calls those were."""
        for at in range(0, len(held), EXPIRED_AT_ONCE):
            await self.renew(held[at : at + EXPIRED_AT_ONCE], expires_at)
        return await self.forget_expired()

    async def renew(self, ids: Sequence[str], expires_at: float) -> None:
        await self._connection.execute(
            update(reservations).where(reservations.c.id.in_(ids)).values(expires_at=expires_at)
        )

    async def forget_expired(self) -> int:
        """Give back what dead processes had reserved; how many calls that were."""
        # rows that another transaction has in hand are left to it
        expired = select(reservations.c.id).where(reservations.c.expires_at < time.time())
        ids = (
            (await self._connection.execute(expired.limit(EXPIRED_AT_ONCE).with_for_update(skip_locked=True)))
            .scalars()
            .all()
        )
        if not ids:
            return 0
        await self._settle({}, await self._release(ids))
        return len(ids)

    async def _write(self, rows: Sequence[dict[str, Any]]) -> None:
        """Rows that nothing else depends on, as fast as they can be written."""
        if self._connection.dialect.name != "sqlite":
            await self._connection.execute(_insert(self._connection.dialect, calls), rows)
            return
        # one statement for many: between two, the driver's thread waits for a turn that a busy event loop rarely gives
        for at in range(0, len(rows), SQLITE_ROWS):
            part = rows[at : at + SQLITE_ROWS]
            # a row that stands twice is passed over; so there are ten statements to keep prepared, and not hundreds
            count = 1 << (len(part) - 1).bit_length()
            padded = chain(part, repeat(part[-1], count - len(part)))
            values = tuple(chain.from_iterable(map(_in_order, padded)))
            await self._connection.exec_driver_sql(_insert_many(count), values)

    async def _take(self, charge: Charge, limit: int) -> bool:
        """One statement, so that no other process can come between the look and the reservation."""
        table = budgets.c
        taken = await self._connection.execute(
            update(budgets)
            .where(table.key_id == charge.key_id, table.period == charge.period, table.spent + table.reserved < limit)
            .values(reserved=table.reserved + charge.amount)
        )
        return taken.rowcount == 1

    async def _begin_period(self, charge: Charge) -> None:
        """The row of a key's period; what the key has cost in it already, under no budget or another, counts."""
        # rows, and the sums that old ones were replaced by
        costs = union_all(
            *(
                select(table.c.cost).where(table.c.key_id == charge.key_id, table.c.day.startswith(charge.period))
                for table in (calls, daily_usage)
            )
        ).subquery()
        so_far = select(
            literal(charge.key_id), literal(charge.period), func.coalesce(func.sum(costs.c.cost), 0), literal(0)
        ).where(true())  # without a WHERE, SQLite takes ON CONFLICT for a join's ON
        await self._connection.execute(
            _insert(self._connection.dialect, budgets).from_select(list(budgets.c.keys()), so_far)
        )

    async def standing(self, charge: Charge) -> tuple[int, int]:
        """Billionths spent and reserved in the charge's period; the ledger's sum where the period has not begun."""
        return await self._state(charge) or (0, 0)

    async def _state(self, charge: Charge) -> tuple[int, int] | None:
        """What is spent and reserved; None where the period has not begun."""
        table = budgets.c
        found = await self._connection.execute(
            select(table.spent, table.reserved).where(table.key_id == charge.key_id, table.period == charge.period)
        )
        row = found.one_or_none()
        return None if row is None else (int(row[0]), int(row[1]))

    async def _release(self, ids: Sequence[str]) -> Sums:
        """Delete reservations; what they held."""
        gone = await self._connection.execute(
            delete(reservations)
            .where(reservations.c.id.in_(ids))
            .returning(reservations.c.key_id, reservations.c.period, reservations.c.amount)
        )
        held: Sums = defaultdict(int)
        for key_id, period, amount in gone:
            held[key_id, period] += amount
        return held

    async def _settle(self, spent: Sums, released: Sums) -> None:
        """In one order everywhere, so that two transactions never wait for each other."""
        changes = [
            {
                "of_key": key,
                "of_period": period,
                "more": spent.get((key, period), 0),
                "less": released.get((key, period), 0),
            }
            for key, period in sorted(_keys(spent, released))
        ]
        if changes:
            await self._connection.execute(
                update(budgets)
                .where(budgets.c.key_id == bindparam("of_key"), budgets.c.period == bindparam("of_period"))
                .values(spent=budgets.c.spent + bindparam("more"), reserved=budgets.c.reserved - bindparam("less")),
                changes,
            )

    async def fold(self, before: str, most: int) -> int:
        """Replace at most so many rows of days ``before`` this one by their sums; how many those were.

        What is summed is what the deletion gave back, so that no row can be counted twice or be lost, whatever other
        processes do.
        """
        old = select(calls.c.id).where(calls.c.day < before).order_by(calls.c.day).limit(most)
        # rows that another process has in hand are left to it
        ids = (await self._connection.execute(old.with_for_update(skip_locked=True))).scalars().all()
        if not ids:
            return 0
        summed = [(GROUPED | COUNTED)[name].label(column) for name, column in NAMES.items()]
        gone = await self._connection.execute(delete(calls).where(calls.c.id.in_(ids)).returning(*summed))
        await self._add(_sums_by_day(gone.mappings()))
        return len(ids)

    async def _add(self, sums: list[dict[str, Any]]) -> None:
        kind: Any = postgresql if self._connection.dialect.name == "postgresql" else sqlite
        new = kind.insert(daily_usage)
        more = {name: daily_usage.c[name] + new.excluded[name] for name in VALUES}
        await self._connection.execute(new.on_conflict_do_update(index_elements=KEYS, set_=more), sums)


class Statements:
    """All of them, in one transaction."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection
        self.ledger = LedgerStatements(connection)
        self.keys = KeyStatements(connection)
        self.runs = RunStatements(connection)

    def documents(self, queue: str, clock: Callable[[], float] | None = None) -> JobStatements:
        """Those of one queue; ``clock`` stands in for the database's."""
        return JobStatements(self._connection, queue, clock)
