"""Skips what needs the embedding model where it is not installed."""

import pytest

from apps.local.encoders.embedder import missing_for_minilm


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    missing = missing_for_minilm()
    if missing:
        skip = pytest.mark.skip(reason=f"needs requirements-local.txt: {', '.join(missing)} not installed")
        for item in items:
            if item.get_closest_marker("local"):
                item.add_marker(skip)
