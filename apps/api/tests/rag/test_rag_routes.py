"""Documents over HTTP: taken in as files or JSON, listed, inspected and deleted; and every error an envelope."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from apps.tests.support.rag_serving import LEAVE, TRAVEL, ingested, serving_documents, waited
from apps.tests.support.reading import envelope

JSON_DOCUMENT = {"name": "a.txt", "text": "one"}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving_documents(tmp_path_factory.mktemp("data"), rag_max_upload_bytes=3_000_000) as base:
        yield base


@pytest.fixture(scope="module")
def filled(url: str) -> str:
    """A collection that no test changes."""
    with httpx2.Client(timeout=90) as http:
        job = ingested(http, f"{url}/rag/collections/filled", LEAVE, TRAVEL)
    assert job["status"] == "done", job
    return f"{url}/rag/collections/filled"


def test_a_submission_is_accepted_at_once_and_its_job_tells_the_rest(url: str, http: httpx2.Client) -> None:
    answer = http.post(f"{url}/rag/collections/jobs/documents", json=[LEAVE, TRAVEL])
    assert answer.status_code == 202
    body = answer.json()
    assert body["accepted"] == ["leave.md", "travel.md"]
    assert answer.headers["location"] == f"/rag/jobs/{body['job']}"
    job = waited(http, url + "/rag/", body["job"])
    assert (job["status"], job["percent"], job["collection"]) == ("done", 100.0, "jobs")
    assert [file["status"] for file in job["files"]] == ["done", "done"]
    assert job["passages"] == 2


def test_many_files_of_a_form_with_metadata_for_all(url: str, http: httpx2.Client) -> None:
    files = [("files", (f"part{i}.txt", f"The {word} part.".encode())) for i, word in enumerate(["first", "second"])]
    answer = http.post(
        f"{url}/rag/collections/form/documents", files=files, data={"metadata": json.dumps({"team": "red"})}
    )
    assert answer.status_code == 202, answer.text
    assert waited(http, url + "/rag/", answer.json()["job"])["status"] == "done"
    documents = http.get(f"{url}/rag/collections/form/documents").json()["documents"]
    assert sorted(document["name"] for document in documents) == ["part0.txt", "part1.txt"]
    assert all(document["metadata"] == {"team": "red"} for document in documents)


def test_progress_is_streamed_and_ends_exactly_once(url: str, http: httpx2.Client) -> None:
    text = "\n\n".join(f"Paragraph {i} says something about leave." for i in range(300))
    job = http.post(f"{url}/rag/collections/stream/documents", json={"name": "long.txt", "text": text}).json()["job"]
    answer = http.get(f"{url}/rag/jobs/{job}", headers={"Accept": "text/event-stream"})
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = [block.split("\n", 1) for block in answer.text.strip().split("\n\n")]
    kinds = [kind for kind, _ in events]
    assert kinds[-1] == "event: done"
    assert set(kinds[:-1]) <= {"event: progress"}
    assert json.loads(events[-1][1].removeprefix("data: "))["percent"] == 100.0


def test_the_stream_of_a_job_that_failed_ends_with_the_files_error(url: str, http: httpx2.Client) -> None:
    answer = http.post(f"{url}/rag/collections/broken/documents", files={"files": ("a.pdf", b"%PDF-1.7 nothing")})
    job = answer.json()["job"]
    told = http.get(f"{url}/rag/jobs/{job}?stream=true").text.strip().split("\n\n")
    kind, data = told[-1].split("\n", 1)
    assert kind == "event: error"
    error = json.loads(data.removeprefix("data: "))["error"]
    assert (error["status"], error["details"]["job"]["status"]) == (422, "failed")
    assert error["message"].startswith("a.pdf: ")


def test_collections_and_documents_can_be_listed_inspected_and_deleted(url: str, http: httpx2.Client) -> None:
    collection = f"{url}/rag/collections/shelf"
    ingested(http, collection, LEAVE, TRAVEL)
    told = http.get(collection).json()
    assert (told["documents"], told["passages"], told["model"]) == (2, 2, "rag/shelf")
    assert "shelf" in [one["name"] for one in http.get(f"{url}/rag/collections").json()["collections"]]
    first = http.get(f"{collection}/documents?limit=1").json()
    second = http.get(f"{collection}/documents?limit=1&after={first['next']}").json()
    ids = [first["documents"][0]["id"], second["documents"][0]["id"]]
    document = http.get(f"{collection}/documents/{ids[0]}").json()
    assert document["id"] == ids[0]
    [passage] = http.get(f"{collection}/documents/{ids[0]}/passages").json()["passages"]
    assert passage["document"] == ids[0]
    assert http.delete(f"{collection}/documents/{ids[0]}").status_code == 204
    assert envelope(http.get(f"{collection}/documents/{ids[0]}"))["code"] == "NOT_FOUND"
    assert http.delete(collection).status_code == 204
    assert envelope(http.get(collection))["code"] == "NOT_FOUND"


def test_a_query_finds_passages_and_filters_them(filled: str, http: httpx2.Client) -> None:
    best = http.post(f"{filled}/query", json={"query": "days of leave", "top_k": 1}).json()["passages"]
    assert [(passage["name"], passage["heading"]) for passage in best] == [("leave.md", ["Leave"])]
    assert best[0]["text"].endswith("in a year.")
    filtered = http.post(f"{filled}/query", json={"query": "days of leave", "filter": {"year": 2025}}).json()
    assert [passage["name"] for passage in filtered["passages"]] == ["travel.md"]


@pytest.mark.parametrize(
    ("path", "body", "code", "field"),
    [
        ("query", {}, "MISSING_REQUIRED_FIELD", "query"),
        ("query", {"query": " "}, "INVALID_VALUE", "query"),
        ("query", {"query": "x" * 1001}, "INVALID_VALUE", "query"),
        ("query", {"query": "x", "top_k": 0}, "INVALID_VALUE", "top_k"),
        ("query", {"query": "x", "top_k": "3"}, "INVALID_TYPE", "top_k"),
        ("query", {"query": "x", "filter": {"year": {"$near": 1}}}, "INVALID_VALUE", "filter"),
        ("generate", {"prompt": "x", "temperature": 3}, "INVALID_VALUE", "temperature"),
        ("generate", {"prompt": "x", "top_k": 101}, "INVALID_VALUE", "top_k"),
        ("documents", {"text": "x"}, "MISSING_REQUIRED_FIELD", "name"),
        ("documents", [JSON_DOCUMENT, {"name": "b.txt", "text": 1}], "INVALID_TYPE", "1.text"),
        ("documents", [], "INVALID_VALUE", "documents"),
        ("documents", {"name": "a.txt", "text": ""}, "INVALID_VALUE", "text"),
        ("documents", {**JSON_DOCUMENT, "name": "../../etc/passwd"}, "INVALID_VALUE", "name"),
        ("documents", {**JSON_DOCUMENT, "metadata": {"a": []}}, "INVALID_TYPE", "metadata.a"),
    ],
)
def test_a_wrong_body_is_named_by_its_field(
    path: str, body: Any, code: str, field: str, filled: str, http: httpx2.Client
) -> None:
    error = envelope(http.post(f"{filled}/{path}", json=body))
    assert (error["code"], error["field"]) == (code, field)


def test_a_form_without_files_says_so(filled: str, http: httpx2.Client) -> None:
    error = envelope(http.post(f"{filled}/documents", files={"metadata": (None, "{}")}))
    assert (error["code"], error["field"]) == ("MISSING_REQUIRED_FIELD", "files")


FILE = ("a.txt", b"text")


@pytest.mark.parametrize(
    ("parts", "code", "field", "message"),
    [
        ([("file", FILE)], "INVALID_VALUE", "files", "file is not known here: a form has files, and may have metadata"),
        (
            [("files", FILE), ("metdata", (None, "{}"))],
            "INVALID_VALUE",
            "files",
            "metdata is not known here: a form has files, and may have metadata",
        ),
        ([("files", (None, "text"))], "MISSING_REQUIRED_FIELD", "files", None),
        ([("files", FILE), ("files", ("b.txt", b""))], "INVALID_VALUE", "files", "The file is empty"),
        ([("files", ("../b.txt", b"x"))], "INVALID_VALUE", "files", "A file's name is a label, not a path"),
        ([("files", FILE), ("metadata", ("meta.json", b"{}"))], "INVALID_TYPE", "metadata", None),
        ([("files", FILE), ("metadata", (None, "{"))], "INVALID_JSON", "metadata", "Metadata must be a JSON object"),
        ([("files", FILE), ("metadata", (None, "[]"))], "INVALID_TYPE", "metadata", "Metadata must be an object"),
    ],
)
def test_a_wrong_part_of_a_form_is_told_what_a_form_has(
    parts: Any, code: str, field: str, message: str | None, url: str, http: httpx2.Client
) -> None:
    error = envelope(http.post(f"{url}/rag/collections/parts/documents", files=parts))
    assert (error["code"], error["field"]) == (code, field)
    assert message in (None, error["message"])
    assert envelope(http.get(f"{url}/rag/collections/parts"))["code"] == "NOT_FOUND"


@pytest.mark.parametrize("content_type", ["multipart/form-data", "multipart/form-data; boundary=x"])
def test_a_form_that_is_none_is_an_invalid_value(content_type: str, filled: str, http: httpx2.Client) -> None:
    answer = http.post(f"{filled}/documents", content=b"nothing", headers={"Content-Type": content_type})
    assert envelope(answer)["code"] == "INVALID_VALUE"


def test_other_content_types_are_refused_and_forms_everywhere_else(filled: str, http: httpx2.Client) -> None:
    answer = http.post(f"{filled}/documents", content=b"text", headers={"Content-Type": "text/plain"})
    assert "multipart/form-data" in envelope(answer)["message"]
    assert answer.status_code == 415
    assert http.post(f"{filled}/query", files={"files": ("a.txt", b"x")}).status_code == 415


def test_a_form_may_be_larger_than_other_bodies_and_no_larger_than_its_own_limit(
    url: str, filled: str, http: httpx2.Client
) -> None:
    large = b"word " * 400_000
    answer = http.post(f"{url}/rag/collections/large/documents", files={"files": ("large.txt", large)})
    assert answer.status_code == 202
    too_large = envelope(http.post(f"{filled}/documents", files={"files": ("larger.txt", large * 2)}))
    assert (too_large["code"], too_large["details"]) == ("PAYLOAD_TOO_LARGE", {"max_bytes": 3_000_000})
    as_json = envelope(http.post(f"{filled}/documents", json={"name": "a.txt", "text": "x" * 1_100_000}))
    assert (as_json["code"], as_json["details"]) == ("PAYLOAD_TOO_LARGE", {"max_bytes": 1_048_576})
    elsewhere = http.post(f"{filled}/query", files={"files": ("large.txt", large)})
    assert elsewhere.status_code == 413


def test_a_form_without_a_length_is_counted_while_it_is_read(filled: str, http: httpx2.Client) -> None:
    def chunks() -> Iterator[bytes]:
        yield b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.txt"\r\n\r\n'
        for _ in range(40):
            yield b"y" * 100_000

    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    answer = http.post(f"{filled}/documents", content=chunks(), headers=headers)
    assert envelope(answer)["code"] == "PAYLOAD_TOO_LARGE"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/rag/collections/nothing"),
        ("DELETE", "/rag/collections/nothing"),
        ("GET", "/rag/collections/nothing/documents"),
        ("GET", f"/rag/collections/filled/documents/{'0' * 64}"),
        ("GET", f"/rag/collections/filled/documents/{'0' * 64}/passages"),
        ("DELETE", f"/rag/collections/filled/documents/{'0' * 64}"),
        ("GET", "/rag/jobs/nothing"),
        ("GET", "/rag/jobs/nothing?stream=true"),
        ("GET", "/rag/shared/filled"),
    ],
)
def test_what_is_not_there_is_not_found(method: str, path: str, url: str, filled: str, http: httpx2.Client) -> None:
    assert envelope(http.request(method, url + path))["code"] == "NOT_FOUND"


def test_all_calls_of_rag_share_one_limit(tmp_path: Path, http: httpx2.Client) -> None:
    with serving_documents(tmp_path, rate_limit_enabled=True, rate_limit_rag="2/minute") as base:
        assert http.get(f"{base}/rag/collections").headers["x-ratelimit-remaining"] == "1"
        assert http.get(f"{base}/rag/jobs/x").status_code == 404
        error = envelope(http.post(f"{base}/rag/collections/a/query", json={"query": "x"}))
        assert (error["code"], error["message"]) == ("RATE_LIMIT_EXCEEDED", "Rate limit exceeded: 2 per 1 minute")
