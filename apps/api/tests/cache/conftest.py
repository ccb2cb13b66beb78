"""A service with a response cache in front of the mock upstream."""

from collections.abc import Iterator

import pytest

from apps.tests.support.caching import Cached, caching
from eval.mock_upstream import MockUpstream


@pytest.fixture
def cached(mock: MockUpstream) -> Iterator[Cached]:
    mock.reset()
    with caching(openai_base_url=mock.base_url) as running:
        yield running
