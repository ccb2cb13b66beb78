"""Every answer has its request's id and time, and every request a line in the access log."""

import re
from collections.abc import Sequence
from typing import Any

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from apps.api.src.application import create_app
from apps.api.src.auth.authentication import SCOPE_KEY
from apps.api.src.http.middleware import RequestScope
from apps.api.src.http.shutdown import Shutdown
from apps.api.src.observability.metrics import Metrics
from apps.api.src.wiring.gateway import build_gateway
from apps.api.src.wiring.services import on_record
from apps.core.callers import Caller
from apps.models.scripted import ScriptedModel, saying
from apps.tests.support.reading import exchange, post
from apps.tests.support.serving import serving, serving_models, settings
from apps.tests.support.waiting import until

BODY = {"prompt": "hi"}


@pytest.fixture(scope="module")
def url() -> object:
    with serving_models(max_body_bytes=1024) as base:
        yield base


@pytest.mark.parametrize("name", ["a", "A-b_9", "x" * 128, "-", "0" * 32])
def test_a_plain_id_is_taken(name: str, url: str, http: httpx2.Client) -> None:
    assert http.get(f"{url}/health", headers={"X-Request-ID": name}).headers["X-Request-ID"] == name


@pytest.mark.parametrize("name", [b"", b"x" * 129, b"a b", b"a/b", b"a;b", b"<a>", b"\xc3\xa9", b"a\tb", b"a.b"])
def test_any_other_is_replaced(name: bytes, url: str) -> None:
    request = post("/generate", b'{"prompt": "hi"}').replace(b"Host: x", b"Host: x\r\nX-Request-ID: " + name)
    answer = exchange(url, request)
    assert answer.status_code == 200
    assert re.fullmatch(r"[0-9a-f]{32}", answer.headers["X-Request-ID"])


def test_ids_that_are_made_differ(url: str, http: httpx2.Client) -> None:
    assert len({http.get(f"{url}/health").headers["X-Request-ID"] for _ in range(20)}) == 20


@pytest.mark.parametrize("path", ["/generate", "/generate?stream=true", "/local/generate", "/nowhere", "/ready"])
def test_every_answer_has_both_headers(path: str, url: str, http: httpx2.Client) -> None:
    for answer in (http.post(url + path, json=BODY), http.get(url + path), http.post(url + path, content=b"x" * 2000)):
        assert answer.headers["X-Request-ID"]
        assert re.fullmatch(r"app;dur=\d+\.\d", answer.headers["Server-Timing"])


async def test_a_request_without_headers_is_not_under_way_for_ever() -> None:
    metrics = Metrics()
    scope = RequestScope(Starlette(), Shutdown(0), metrics, frozenset())

    async def receive() -> Message:
        raise AssertionError

    async def send(message: Message) -> None:
        raise AssertionError

    with pytest.raises(KeyError):
        await scope({"type": "http", "path": "/x"}, receive, send)
    assert metrics.loop_lag._requests == 0


def lines_of(caplog: pytest.LogCaptureFixture, ids: Sequence[str]) -> list[Any]:
    """Of the requests with these ids, once all are there: a line is written when its answer is out."""
    found = [record.msg for record in caplog.records if getattr(record.msg, "request_id", None) in ids]
    return found if len(found) >= len(ids) else []


def test_each_request_is_one_line_with_its_id(url: str, http: httpx2.Client, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="apps.access")
    answers = [http.post(f"{url}/generate?x=secret", json=BODY), http.get(f"{url}/no/such%0d%0aroute")]
    ids = [answer.headers["X-Request-ID"] for answer in answers]
    assert until(lambda: lines_of(caplog, ids))
    lines = [re.sub(r"[\d.]+ms", "", str(line)) for line in lines_of(caplog, ids)]
    assert lines == ["POST /generate 200 ", "GET /no/such%0d%0aroute 404 "]


class Known:
    """Stands where keys are looked up: everybody is this caller."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope[SCOPE_KEY] = Caller("tenant", key_id="key-7")
        await self._app(scope, receive, send)


def test_a_line_says_whose_key_it_was_and_what_the_model_did(
    http: httpx2.Client, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="apps.access")
    configured, model = settings(auth="off"), ScriptedModel(saying("hello"))
    app = create_app(configured, on_record(configured, model, model, build_gateway(configured, model)))
    app.add_middleware(Known)
    with serving(app) as base:
        answers = [http.post(f"{base}/generate", json=BODY), http.get(f"{base}/v1/models/secret")]
        ids = [answer.headers["X-Request-ID"] for answer in answers]
        assert until(lambda: lines_of(caplog, ids))
    lines = lines_of(caplog, ids)
    assert [line.key_id for line in lines] == ["key-7", "key-7"]
    assert dict(lines[0].call_fields())["model"] == "scripted"
    assert [line.path for line in lines] == ["/generate", "/v1/models/{id:path}"]
