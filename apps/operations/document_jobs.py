"""Rows of the queue of documents to ingest, and of their uploads, in PostgreSQL. Imported with SQLAlchemy.

Knows no document.

A queue is one folder or store of objects: machines that share it have one queue, others in the same database have
theirs. Times are the database's, so that the clocks of machines need not agree.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import (
    ColumnElement,
    and_,
    case,
    delete,
    exists,
    func,
    insert,
    literal,
    not_,
    or_,
    select,
    tuple_,
    update,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncConnection

from apps.operations.ledger_rows import DAY
from apps.operations.tables import rag_files, rag_jobs, rag_turns, rag_uploads

Row = dict[str, Any]
OPEN = ("queued", "running")
ADDING = "genai-project documents "
ABANDONED = 10
Held = tuple[int, str, int]
"""A claim: the file's id, the worker, and the try, since a worker may lose a file and claim it again."""


class JobStatements:
    """Rows in, rows out; each method is a part of one transaction. ``clock`` stands in for the database's."""

    def __init__(self, connection: AsyncConnection, queue: str, clock: Callable[[], float] | None = None) -> None:
        self._connection = connection
        self._queue = queue
        self._clock = clock

    async def now(self) -> float:
        if self._clock is not None:
            return self._clock()
        return float(
            (await self._connection.execute(select(func.extract("epoch", func.clock_timestamp())))).scalar_one()
        )

    async def add_in_turn(self) -> None:
        """One submission to the queue at a time, to the end of the transaction: limits are exact, ids in order."""
        number = func.hashtextextended(ADDING + self._queue, 0)
        await self._connection.execute(select(func.pg_advisory_xact_lock(number)))

    async def waiting(self, tenant: str) -> tuple[int, int, int, int]:
        """Files and bytes that wait, of all tenants and of one."""
        size = func.coalesce(func.sum(rag_files.c.bytes), 0)
        own = case((rag_files.c.tenant == tenant, 1), else_=0)
        own_size = func.coalesce(func.sum(own * rag_files.c.bytes), 0)
        found = select(func.count(), size, func.coalesce(func.sum(own), 0), own_size).where(self._is_open())
        files, total, own_files, own_bytes = (await self._connection.execute(found)).one()
        return int(files), int(total), int(own_files), int(own_bytes)

    async def add(self, job: Row, files: Sequence[Row]) -> bool:
        """Whether there was no such job yet: the files of one that is there stay as they are."""
        into = postgresql.insert(rag_jobs).values(**job, queue=self._queue)
        added = await self._connection.execute(into.on_conflict_do_nothing())
        if added.rowcount != 1:
            return False
        rows = [{**file, "job": job["id"], "queue": self._queue} for file in files]
        if rows:
            await self._connection.execute(insert(rag_files), rows)
        return True

    async def job(self, tenant: str, job: str) -> tuple[Row, list[Row]] | None:
        where = (rag_jobs.c.id == job) & (rag_jobs.c.tenant == tenant) & (rag_jobs.c.queue == self._queue)
        found = (await self._connection.execute(select(rag_jobs).where(where))).mappings().first()
        if found is None:
            return None
        files = await self._connection.execute(select(rag_files).where(rag_files.c.job == job).order_by(rag_files.c.id))
        return dict(found), [dict(row) for row in files.mappings()]

    async def claim(self, worker: str, lease: float, longest_wait: float) -> Row | None:
        """The next file, as it was before; its lease is the worker's now.

        The oldest file of each name first (its later version must win), tenants in turn, what killed a worker last. One
        that another transaction is claiming is passed over.
        """
        now = await self.now()
        other = rag_files.alias()
        same = [other.c[name] == rag_files.c[name] for name in ("queue", "tenant", "collection", "name")]
        earlier = exists(select(literal(1)).where(other.c.status.in_(OPEN), other.c.id < rag_files.c.id, *same))
        turn = and_(rag_turns.c.queue == rag_files.c.queue, rag_turns.c.tenant == rag_files.c.tenant)
        # what is due later than anything can be was due before the clock was set back
        due = or_(rag_files.c.due <= now, rag_files.c.due > now + 2 * max(lease, longest_wait))
        chosen = (
            select(rag_files)
            .select_from(rag_files.outerjoin(rag_turns, turn))
            .where(self._is_open(), due, not_(earlier))
            .order_by(rag_files.c.attempts, func.coalesce(rag_turns.c.taken, 0), rag_files.c.id)
            .limit(1)
            .with_for_update(skip_locked=True, of=rag_files)
        )
        row = (await self._connection.execute(chosen)).mappings().first()
        if row is None:
            return None
        changes = {"status": "running", "worker": worker, "due": now + lease, "attempts": row["attempts"] + 1}
        changes["started"] = now if row["started"] is None else row["started"]
        await self._connection.execute(update(rag_files).where(rag_files.c.id == row["id"]).values(**changes))
        await self._take_turn(row["tenant"], now)
        return dict(row)

    async def _take_turn(self, tenant: str, now: float) -> None:
        into = postgresql.insert(rag_turns).values(queue=self._queue, tenant=tenant, taken=now)
        keys = [rag_turns.c.queue, rag_turns.c.tenant]
        await self._connection.execute(into.on_conflict_do_update(index_elements=keys, set_={"taken": now}))

    async def renew(self, worker: str, ids: Sequence[int], lease: float) -> None:
        mine = (rag_files.c.worker == worker) & (rag_files.c.status == "running") & rag_files.c.id.in_(ids)
        await self._connection.execute(update(rag_files).where(mine).values(due=await self.now() + lease))

    async def change(
        self, held: Held, values: Mapping[str, Any], *, due_in: float | None = None, ends: bool = False
    ) -> bool:
        """Set ``values`` where the lease is still that of this claim; whether it is. What ``ends`` needs no upload."""
        now, more = await self.now(), dict[str, Any]()
        if due_in is not None:
            more["due"] = now + due_in
        if ends:
            more |= {"finished": now, "percent": 100.0}
        changed = update(rag_files).where(self._is_mine(held)).values(**values, **more).returning(rag_files.c.spooled)
        spooled = (await self._connection.execute(changed)).scalars().all()
        if ends:
            # at once with the end: a process that dies now would leave it behind
            await self.drop_uploads(spooled)
        return len(spooled) == 1

    async def progress(self, held: Held, values: Mapping[str, Any]) -> bool:
        """Raise numbers to ``values``, where the lease is still that of this claim; none goes back."""
        raised = {name: _greater(rag_files.c[name], value) for name, value in values.items()}
        changed = update(rag_files).where(self._is_mine(held)).values(**raised)
        return (await self._connection.execute(changed)).rowcount == 1

    async def release(self, worker: str) -> None:
        mine = (rag_files.c.worker == worker) & (rag_files.c.status == "running")
        values = {"status": "queued", "worker": None, "due": 0.0, "attempts": rag_files.c.attempts - 1}
        await self._connection.execute(update(rag_files).where(mine).values(**values))

    async def cancel(self, tenant: str, collection: str, error: str, document: str | None) -> list[str]:
        """Fail what waits or runs; the names of its uploads."""
        where = [self._is_open(), rag_files.c.tenant == tenant, rag_files.c.collection == collection]
        if document is not None:
            where.append(rag_files.c.document == document)
        values = {"status": "failed", "percent": 100.0, "worker": None, "error": error, "finished": await self.now()}
        failed = update(rag_files).where(*where).values(**values).returning(rag_files.c.spooled)
        return list((await self._connection.execute(failed)).scalars())

    async def open_files(self, tenant: str, collection: str) -> int:
        where = (rag_files.c.tenant == tenant) & (rag_files.c.collection == collection)
        return int((await self._connection.execute(select(func.count()).where(self._is_open(), where))).scalar_one())

    async def forget(self, seconds: float, most: int) -> int:
        """Delete jobs that ended so long ago, at most so many; how many they were.

        Those of any queue that began ten times as long ago go too: the folder whose queue it was is there no more.
        """
        now = await self.now()
        before = now - seconds
        unfinished = or_(rag_files.c.finished.is_(None), rag_files.c.finished > before)
        kept = exists(select(literal(1)).where(rag_files.c.job == rag_jobs.c.id, unfinished))
        old = and_(rag_jobs.c.queue == self._queue, rag_jobs.c.created < before, not_(kept))
        abandoned = rag_jobs.c.created < now - abandonment(seconds)
        # what another machine is deleting now is left to it
        chosen = select(rag_jobs.c.id).where(or_(abandoned, old)).limit(most)
        chosen = chosen.with_for_update(skip_locked=True, of=rag_jobs)
        ids = (await self._connection.execute(chosen)).scalars().all()
        if ids:
            await self._connection.execute(delete(rag_jobs).where(rag_jobs.c.id.in_(ids)))
        return len(ids)

    async def open_spooled(self) -> set[str]:
        """The names of the uploads that files need."""
        return set((await self._connection.execute(select(rag_files.c.spooled).where(self._is_open()))).scalars())

    async def keep_part(self, spooled: str, part: int, content: bytes) -> None:
        """The same if repeated."""
        row = {"spooled": spooled, "part": part, "content": content, "queue": self._queue, "created": await self.now()}
        await self._connection.execute(postgresql.insert(rag_uploads).values(**row).on_conflict_do_nothing())

    async def part(self, spooled: str, part: int) -> bytes | None:
        where = (rag_uploads.c.spooled == spooled) & (rag_uploads.c.part == part)
        return (await self._connection.execute(select(rag_uploads.c.content).where(where))).scalar_one_or_none()

    async def drop_uploads(self, spooled: Sequence[str]) -> None:
        await self._connection.execute(delete(rag_uploads).where(rag_uploads.c.spooled.in_(spooled)))

    async def sweep_uploads(self, seconds: float, most: int) -> int:
        """Drop parts that no open file needs, at most so many; how many they were.

        A process died while it took them in, so long ago that it is no more at it.
        """
        needed = exists(select(literal(1)).where(rag_files.c.spooled == rag_uploads.c.spooled, self._is_open()))
        old = (rag_uploads.c.queue == self._queue) & (rag_uploads.c.created < await self.now() - seconds)
        return await self._drop_parts(old & not_(needed), most)

    async def drop_abandoned_uploads(self, seconds: float, most: int) -> int:
        """Drop parts of any queue, at most so many, that are as old as the jobs which `forget` takes of any queue."""
        return await self._drop_parts(rag_uploads.c.created < await self.now() - abandonment(seconds), most)

    async def _drop_parts(self, where: ColumnElement[bool], most: int) -> int:
        key = (rag_uploads.c.spooled, rag_uploads.c.part)
        chosen = select(*key).where(where).limit(most).with_for_update(skip_locked=True, of=rag_uploads)
        found = [tuple(row) for row in await self._connection.execute(chosen)]
        if found:
            await self._connection.execute(delete(rag_uploads).where(tuple_(*key).in_(found)))
        return len(found)

    def _is_open(self) -> ColumnElement[bool]:
        return and_(rag_files.c.queue == self._queue, rag_files.c.status.in_(OPEN))

    def _is_mine(self, held: Held) -> ColumnElement[bool]:
        id, worker, attempts = held
        mine = (rag_files.c.id == id) & (rag_files.c.worker == worker) & (rag_files.c.attempts == attempts)
        return mine & (rag_files.c.status == "running")


def abandonment(seconds: float) -> float:
    """The age at which anything goes, where what has ended goes after ``seconds``."""
    return ABANDONED * max(seconds, DAY)


def _greater(column: ColumnElement[Any], value: float) -> ColumnElement[Any]:
    return case((column < value, value), else_=column)
