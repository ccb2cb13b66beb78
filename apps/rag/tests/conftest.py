"""A library on a folder of its own; skips what needs LanceDB where it is not installed."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from apps.rag.index.database import missing_requirements
from apps.rag.library import Library
from apps.rag.parsing.sandbox import Sandbox
from apps.rag.records import Limits
from apps.rag.tests.hashing_embedder import HashingEmbedder
from apps.rag.tests.libraries import LIMITS

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    missing = missing_requirements()
    if missing:
        skip = pytest.mark.skip(reason=f"needs requirements-local.txt: {', '.join(missing)} not installed")
        for item in items:
            if item.path.is_relative_to(HERE) and item.get_closest_marker("local"):
                item.add_marker(skip)


@pytest.fixture
async def library(tmp_path: Path) -> AsyncIterator[Library]:
    """Started, with an honest small embedder."""
    made = Library(tmp_path, HashingEmbedder(), limits=LIMITS)
    await made.start()
    yield made
    await made.aclose()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sandbox() -> AsyncIterator[Sandbox]:
    """A parsing process with the limits of a service, for a file whose tests share a loop."""
    made = Sandbox(Limits(), None)
    yield made
    await made.aclose()
