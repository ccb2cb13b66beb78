"""Documents on a disk that is full or cannot be written: 507, nothing half-kept, and all well again by itself."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from apps.tests.support.processes import running
from apps.tests.support.rag_serving import LEAVE, serving_documents, waited
from apps.tests.support.reading import envelope
from apps.tests.support.routing import ASK
from apps.tests.support.small_disk import fill
from apps.tests.support.small_disk import small_disk as disk
from apps.tests.support.waiting import until
from eval.mock_upstream import MockUpstream, mock_upstream

NOTES = "/rag/collections/notes/documents"
FORM = {"files": ("leave.md", b"# Leave\n\n30 days", "text/markdown")}


@pytest.mark.local
def test_an_upload_that_the_disk_refuses_is_507_and_nothing_of_it_is_kept(tmp_path: Path, http: httpx2.Client) -> None:
    with serving_documents(tmp_path) as url:
        spool = tmp_path / "rag" / "spool"
        spool.parent.mkdir(exist_ok=True)
        spool.write_text("a file where the folder of uploads should be")
        for sent in ({"json": LEAVE}, {"files": FORM}):
            body: dict[str, Any] = sent
            answer = http.post(url + NOTES, **body)
            error = envelope(answer)
            assert (answer.status_code, error["code"]) == (507, "INSUFFICIENT_STORAGE")
            assert answer.headers["retry-after"] == "60"
        assert http.get(f"{url}/rag/collections/notes").status_code == 404
        spool.unlink()
        assert http.post(url + NOTES, json=LEAVE).status_code == 202


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with disk(tmp_path / "disk", 24) as place:
        yield place


@pytest.fixture
def mock() -> Iterator[MockUpstream]:
    with mock_upstream() as upstream:
        yield upstream


@pytest.mark.long
@pytest.mark.local
def test_a_service_on_a_full_disk_answers_refuses_what_it_cannot_keep_and_recovers(
    tmp_path: Path, small_disk: Path, mock: MockUpstream, http: httpx2.Client
) -> None:
    settings = {"DATA_DIR": str(small_disk / "data"), "CACHE_STORAGE": f"disk://{small_disk / 'cache'}"}
    settings |= {"OPENAI_BASE_URL": mock.base_url, "AUTH": "off", "DATABASE_TIMEOUT": "5"}
    chat = {"model": "gpt-4o-mini", "max_tokens": 20, "temperature": 0, **ASK}
    with running(tmp_path, **settings) as service:
        url = service.url

        def ask(seed: int) -> int:
            return http.post(f"{url}/v1/chat/completions", json={**chat, "seed": seed}).status_code

        def calls() -> int:
            page = http.get(f"{url}/v1/usage")
            return int(page.json()["total"]["calls"]) if page.status_code == 200 else -1

        first = http.post(url + NOTES, json=LEAVE)
        assert first.status_code == 202
        assert waited(http, url + NOTES, first.json()["job"])["status"] == "done"
        assert ask(0) == 200
        ballast = fill(small_disk)
        assert [ask(seed) for seed in range(1, 40)] == [200] * 39
        large = {"files": ("large.txt", b"words " * 200_000, "text/plain")}
        refused = http.post(url + NOTES, files=large)
        assert (refused.status_code, envelope(refused)["code"]) == (507, "INSUFFICIENT_STORAGE")
        assert http.get(f"{url}/health").status_code == 200
        assert http.post(f"{url}/rag/collections/notes/query", json={"query": "leave"}).status_code == 200
        assert list((small_disk / "data" / "rag" / "spool").iterdir()) == []
        ballast.unlink()
        again = http.post(url + NOTES, json={**LEAVE, "text": "# Leave\n\n40 days."})
        assert again.status_code == 202
        assert waited(http, url + NOTES, again.json()["job"])["status"] == "done"
        assert until(lambda: calls() >= 40), calls()
        service.end()
