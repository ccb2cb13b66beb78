"""Whatever goes wrong leaves as the envelope, and says nothing that is nobody's business."""

from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from apps.core.deltas import Delta
from apps.core.errors import AppError, error_classes
from apps.models.scripted import ScriptedModel
from apps.tests.support.faults import FAULTS
from apps.tests.support.processes import COMMANDS, running
from apps.tests.support.reading import checked, envelope, exchange, read_events
from apps.tests.support.serving import serving_models
from apps.tests.support.waiting import until
from eval.mock_upstream import MockUpstream

BODY = {"prompt": "hi"}
KEY, PASSWORD = "sk-marked-key", "marked-password"


def crashing(*before: Delta) -> ScriptedModel:
    return ScriptedModel(lambda _: [*before, RuntimeError(f"at http://u:{PASSWORD}@host/ with {KEY}")])


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("before", [(), (Delta("half"),)])
def test_a_crash_in_a_model_is_an_internal_error(stream: bool, before: tuple[Delta, ...], http: httpx2.Client) -> None:
    model = crashing(*before)
    with serving_models(local=model) as url:
        answer = http.post(f"{url}/local/generate", params={"stream": stream}, json=BODY)
        assert http.get(f"{url}/health").status_code == 200
    if stream and before:
        streamed = read_events(answer.content)
        assert (answer.status_code, streamed.text, streamed.end[0]) == (200, "half", "error")
        error = checked(streamed.end[1], 500)
    else:
        error = envelope(answer)
    assert (error["code"], error["message"], error["details"]) == ("INTERNAL_ERROR", "Internal server error", {})
    assert not any(secret in answer.text for secret in (KEY, PASSWORD, "Traceback", "RuntimeError"))
    assert model.open == 0


@pytest.mark.parametrize("debug", [True, False])
@pytest.mark.parametrize("before", [(), (Delta("half"),)])
def test_a_traceback_goes_to_the_log_only_while_debugging(
    debug: bool, before: tuple[Delta, ...], http: httpx2.Client, caplog: pytest.LogCaptureFixture
) -> None:
    with serving_models(local=crashing(*before), debug=debug) as url:
        http.post(f"{url}/local/generate?stream=true", json=BODY)
    crashes = [record for record in caplog.records if record.levelname == "ERROR"]
    assert [record.exc_info is not None for record in crashes] == [debug]
    assert "Crash" in crashes[0].getMessage()


@pytest.mark.parametrize("kind", COMMANDS)
@pytest.mark.long
def test_no_fault_tells_a_secret_in_an_answer_or_in_the_log(
    kind: str, mock: MockUpstream, http: httpx2.Client, tmp_path: Path
) -> None:
    upstream = mock.base_url.replace("//", f"//marked-user:{PASSWORD}@")
    said = ""
    marked = {"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": upstream, "LOG_LEVEL": "debug", "DEBUG": "true"}
    with running(tmp_path, kind, READ_TIMEOUT="0.2", RETRY_ATTEMPTS="1", **marked) as service:
        for model in [fault.model for fault in FAULTS] + ["gpt-4o-mini"]:
            for stream in (False, True):
                answer = http.post(f"{service.url}/generate", params={"stream": stream}, json={**BODY, "model": model})
                said += f"{answer.headers}{answer.text}"
        said += http.get(f"{service.url}/ready").text
        calls = 2 * (len(FAULTS) + 1)
        assert until(lambda: service.log.read_text().count("POST /generate") == calls)
    log = service.log.read_text()
    for secret in (KEY, PASSWORD, f"127.0.0.1:{mock.port}"):
        assert secret not in said
        assert secret not in log


def error(kind: type[AppError]) -> AppError:
    return kind("because", field="prompt", details={"a": 1}, headers={"X-Why": "so"}, retry_after=1.2)


@pytest.fixture(scope="module")
def raising() -> Iterator[str]:
    """A service whose model raises the error that the prompt names."""
    kinds = {kind.code: kind for kind in error_classes()}
    with serving_models(local=ScriptedModel(lambda request: [error(kinds[str(request.messages[0].content)])])) as base:
        yield base


@pytest.mark.parametrize("kind", error_classes(), ids=lambda kind: kind.code)
@pytest.mark.parametrize("stream", [False, True])
def test_every_error_that_a_model_raises_is_its_envelope(
    kind: type[AppError], stream: bool, raising: str, http: httpx2.Client
) -> None:
    answer = http.post(f"{raising}/local/generate", params={"stream": stream}, json={"prompt": kind.code})
    assert answer.json() == error(kind).envelope()
    assert envelope(answer)["status"] == kind.status
    assert (answer.headers["Retry-After"], answer.headers["X-Why"]) == ("2", "so")


ROUTES = {
    "/health": "GET",
    "/healthz": "GET",
    "/ready": "GET",
    "/generate": "POST",
    "/local/generate": "POST",
    "/docs": "GET",
    "/redoc": "GET",
    "/openapi.json": "GET",
    "/static-offline-docs/swagger-ui.css": "GET",
}
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving_models() as base:
        yield base


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize("method", METHODS)
def test_a_method_that_a_route_has_not_is_405_with_allow(method: str, path: str, url: str, http: httpx2.Client) -> None:
    answer = http.request(method, url + path)
    if answer.status_code != 405:
        assert method == ROUTES[path] or (method == "HEAD" and answer.status_code == 200)
        return
    assert ROUTES[path] in answer.headers["Allow"]
    if method != "HEAD":
        assert envelope(answer)["code"] == "METHOD_NOT_ALLOWED"


@pytest.mark.parametrize(
    "path",
    [
        "/nowhere",
        "/healthz/",
        "/generate/",
        "/GENERATE",
        "/local",
        "/%2e%2e/etc/passwd",
        "/static-offline-docs/none",
        "/static-offline-docs/..%2f..%2fcore.py",
        "/health%00",
        "/%ff",
        "//health",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_route_that_is_not_there_is_404(method: str, path: str, url: str, http: httpx2.Client) -> None:
    answer = exchange(url, f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n".encode())
    error = envelope(answer)
    assert (error["code"], error["status"]) in {("NOT_FOUND", 404), ("METHOD_NOT_ALLOWED", 405)}
    assert method == "POST" or error["status"] == 404


def test_bytes_that_are_no_http_are_refused_by_the_server_and_it_lives_on(url: str, http: httpx2.Client) -> None:
    assert exchange(url, b"nonsense\r\n\r\n").status_code == 400
    assert http.get(f"{url}/health").status_code == 200
