"""Ingestion while its database is away for a moment: what it was at is free again, though its process lives on."""

import asyncio
import secrets
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from apps.core.errors import InvalidValue, StoreUnavailable
from apps.operations.database import Database
from apps.rag.index.database import missing_requirements
from apps.rag.ingestion import Ingestion
from apps.rag.job_queue import Claim, NewFile
from apps.rag.records import Limits
from apps.rag.shared_jobs import DatabaseJobs, QueueDatabase
from apps.rag.storage import put_together
from apps.rag.uploads import Identity, LocalUploads, Spool
from apps.tests.support.postgres_server import PostgresServer
from apps.tests.support.word_models import WordEmbedder

pytestmark = pytest.mark.skipif(bool(missing_requirements()), reason="needs requirements-local.txt")

LIMITS = Limits(lease_seconds=0.3)


@pytest.fixture
def url(postgres: PostgresServer) -> str:
    """A queue of machines is in PostgreSQL, and nowhere else."""
    return postgres.create(f"queue_{secrets.token_hex(4)}")


class Outages(DatabaseJobs):
    """A queue whose database goes away once, with the answer of a claim or while a claim is in hand."""

    lost: str = ""
    claims = 0
    refused = 0

    async def claim(self, worker: str) -> Claim | None:
        claim = await super().claim(worker)
        self.claims += claim is not None
        if claim is not None and self.claims == 1 and self.lost == "answer":
            raise StoreUnavailable
        return claim

    async def give_back(self, claim: Claim, wait: float) -> bool:
        if claim.attempts == 1:
            self.refused += 1
            raise StoreUnavailable
        return await super().give_back(claim, wait)


class LostUploads(LocalUploads):
    """They cannot be read the first time; then there is nothing to read."""

    def __init__(self, spool: Spool) -> None:
        super().__init__(spool)
        self.errors: list[Exception] = []

    @asynccontextmanager
    async def opened(self, spooled: str) -> AsyncGenerator[Path, None]:
        raise self.errors.pop(0)
        yield self.spool.path(spooled)


@pytest.mark.parametrize("lost", ["claim", "answer"])
async def test_a_file_that_an_outage_took_from_its_worker_is_tried_again(
    database: Database, tmp_path: Path, lost: str
) -> None:
    uploads = LostUploads(Spool(tmp_path / "spool", 2**20))
    refusal = InvalidValue("It was tried again")
    uploads.errors = [StoreUnavailable(), refusal] if lost == "claim" else [refusal]
    jobs = Outages(QueueDatabase(database, Identity("s3://bucket/rag")), LIMITS, uploads, tmp_path / "none")
    jobs.lost = lost
    parts = put_together(tmp_path, "", WordEmbedder(), None, LIMITS)
    files: Sequence[NewFile] = [NewFile("a", "0" * 64, {}, 1, "spooled")]
    job = await jobs.add("ann", "docs", files)
    ingestion = Ingestion(replace(parts, jobs=jobs, uploads=uploads))
    ingestion.start()
    try:
        async with asyncio.timeout(60):
            while not (state := await jobs.job("ann", job)).finished:  # noqa: ASYNC110 - the table tells no one
                await asyncio.sleep(0.02)
    finally:
        await ingestion.aclose()
        await parts.database.aclose()
        await parts.jobs.aclose()
    [file] = state.files
    assert file.error is not None and file.error["message"] == "It was tried again"
    assert (jobs.claims, jobs.refused) == (2, int(lost == "claim"))
