"""A service with a response cache in front of the mock upstream."""

from collections.abc import Iterator

import pytest

from apps.tests.support.caching import Cached, caching
from eval.mock_upstream import MockUpstream


@pytest.fixture(scope="module")
def shared(mock: MockUpstream) -> Iterator[Cached]:
    with caching(openai_base_url=mock.base_url) as running:
        yield running


@pytest.fixture
def cached(shared: Cached, mock: MockUpstream) -> Cached:
    mock.reset()
    shared.renew()
    return shared
