"""What the tests of the API share: a mock upstream, and a client that follows nothing and waits long."""

from collections.abc import Iterator

import httpx2
import pytest

from apps.tests.overheard import hearing_client
from eval.mock_upstream import MockUpstream, mock_upstream


@pytest.fixture(scope="module")
def mock() -> Iterator[MockUpstream]:
    with mock_upstream(tokens=6) as running:
        yield running


@pytest.fixture
def http() -> Iterator[httpx2.Client]:
    with hearing_client(timeout=90) as client:
        yield client
