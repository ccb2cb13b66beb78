"""One browser for all tests of the console."""

from collections.abc import Iterator

import pytest

from apps.tests.support.browser import BINARY, Browser, chromium


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if BINARY is None:
        pytest.skip("no Chromium is installed (Debian: apt-get install chromium)")
    with chromium(tmp_path_factory.mktemp("browser")) as started:
        yield started
