"""Skips what needs the embedding model where it is not installed."""

import pytest

from apps.local.embedding.minilm import missing_requirements


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    missing = missing_requirements()
    if missing:
        skip = pytest.mark.skip(reason=f"needs requirements-local.txt: {', '.join(missing)} not installed")
        for item in items:
            if item.get_closest_marker("local"):
                item.add_marker(skip)
