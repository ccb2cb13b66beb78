"""Servers whose limits a test meets."""

from collections.abc import Iterator

import pytest

from apps.models.scripted import ScriptedModel, saying
from apps.tests.support.serving import serving_models
from apps.tests.support.small_server import SMALL, TIMES


@pytest.fixture(scope="module")
def hurried() -> Iterator[str]:
    """A server with small limits of sizes and times."""
    with serving_models(cloud=ScriptedModel(saying("ok")), **SMALL) as base:
        yield base


@pytest.fixture(scope="module")
def patient() -> Iterator[str]:
    """The same sizes, and no clock that a test could meet."""
    with serving_models(cloud=ScriptedModel(saying("ok")), **SMALL | dict.fromkeys(TIMES, 60)) as base:
        yield base
