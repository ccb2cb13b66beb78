"""A library on a folder of its own; skips what needs LanceDB where it is not installed."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from apps.rag.index.database import missing_requirements
from apps.rag.library import Library
from apps.rag.records import Limits
from apps.rag.tests.hashing_embedder import HashingEmbedder
from apps.rag.tests.libraries import LIMITS
from apps.tests.support.parsing import Parser, ParserHere

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


@pytest.fixture
def parser() -> Parser:
    """With the limits of a service; test_parsing.py and the API's tests read in the parsing process."""
    return ParserHere(Limits())
