"""The statements of API keys, on one connection. Imported when a database is open, since it needs SQLAlchemy."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import RowMapping, exists, select
from sqlalchemy.ext.asyncio import AsyncConnection

from apps.operations.tables import api_keys, key_changes

Row = Mapping[str, Any]


class KeyStatements:
    """Rows in, rows out; each method is the work of one transaction. What changes a key counts the change."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def insert(self, values: Row) -> tuple[Row, int]:
        """The new row, and the number of the change."""
        rows = await self._connection.execute(api_keys.insert().values(dict(values)).returning(*api_keys.c))
        return _row(rows.mappings().one()), await self._count_change()

    async def update(self, id: str, values: Row) -> tuple[Row | None, int]:
        """The row of a live key with these values, and the number of the change; None where no live key has the id."""
        live = (api_keys.c.id == id) & api_keys.c.revoked_at.is_(None)
        rows = await self._connection.execute(api_keys.update().where(live).values(dict(values)).returning(*api_keys.c))
        row = rows.mappings().one_or_none()
        return (None, 0) if row is None else (_row(row), await self._count_change())

    async def all(self) -> Sequence[Row]:
        """The oldest first."""
        rows = await self._connection.execute(api_keys.select().order_by(api_keys.c.created_at, api_keys.c.id))
        return [_row(row) for row in rows.mappings()]

    async def find(self, digest: bytes, now: float) -> tuple[Row | None, tuple[int, bool]]:
        """The live key with this digest, and `state`."""
        # revoked and expired ones are left out here, so that they cost what an unknown one does
        expires, revoked = api_keys.c.expires_at, api_keys.c.revoked_at
        live = revoked.is_(None) & (expires.is_(None) | (expires > now))
        rows = await self._connection.execute(api_keys.select().where(api_keys.c.digest == digest, live))
        row = rows.mappings().one_or_none()
        return None if row is None else _row(row), await self.state()

    async def state(self) -> tuple[int, bool]:
        """The number of the last change, and whether any key was ever made."""
        statement = select(key_changes.c.number, exists(select(api_keys.c.id)))
        number, exist = (await self._connection.execute(statement)).one()
        return number, bool(exist)

    async def _count_change(self) -> int:
        raised = key_changes.update().values(number=key_changes.c.number + 1).returning(key_changes.c.number)
        return int((await self._connection.execute(raised)).scalar_one())


def _row(row: RowMapping) -> Row:
    return {str(name): value for name, value in row.items()}
