"""Odd names in paths: a clear refusal on every route that has one, never an internal error and never a path."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from apps.tests.support.rag_serving import serving_documents

NAMES = {
    "dots": "%2e%2e",
    "a path": "%2E%2E%2Fetc%2Fpasswd",
    "a slash": "a%2Fb",
    "a backslash": "a%5Cb",
    "U+0000": "a%00b",
    "a line break": "a%0d%0aX-Odd:%20y",
    "letters": "%C3%A9",
    "right to left": "%E2%80%AE%D7%90",
    "emoji": "%F0%9F%91%8D",
    "no UTF-8": "%FF%FE",
    "a surrogate": "%ED%A0%80",
    "a quote": "a'%22b",
    "a percent sign": "%25zz",
    "10,000 letters": "x" * 10_000,
}
ROUTES: tuple[tuple[str, str, Any], ...] = (
    ("GET", "/rag/collections/{}", None),
    ("DELETE", "/rag/collections/{}", None),
    ("POST", "/rag/collections/{}/query", {"query": "x"}),
    ("POST", "/rag/collections/{}/generate", {"prompt": "x"}),
    ("POST", "/rag/collections/{}/documents", {"name": "a.md", "text": "x"}),
    ("POST", "/rag/shared/{}/documents", {"name": "a.md", "text": "x"}),
    ("GET", "/rag/collections/a/documents/{}", None),
    ("DELETE", "/rag/collections/a/documents/{}", None),
    ("GET", "/rag/collections/a/passages/{}", None),
    ("GET", "/rag/jobs/{}", None),
    ("GET", "/v1/models/{}", None),
)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    folder = tmp_path_factory.mktemp("names")
    with serving_documents(folder) as url:
        yield url, folder


@pytest.mark.local
@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_a_name_that_is_none_is_refused_and_makes_nothing(
    name: str, served: tuple[str, Path], http: httpx2.Client
) -> None:
    url, folder = served
    for method, template, body in ROUTES:
        answer = http.request(method, httpx2.URL(url + template.format(name)), json=body)
        assert answer.status_code in (404, 405, 422), (method, template, answer.status_code, answer.text[:200])
    spool = folder / "rag" / "spool"
    assert not spool.exists() or list(spool.iterdir()) == []
