"""Answers on the wire: their headers, their one end, pings, and clients that stop reading."""

import asyncio
import json
import selectors
from collections.abc import AsyncGenerator, Iterator
from typing import Any

import httpx2
import pytest
from starlette.types import Message

from apps.api.src.application import create_app
from apps.api.src.generate import framing_for
from apps.api.src.wiring.gateway import build_gateway
from apps.api.src.wiring.services import Services
from apps.core.calls import Usage
from apps.core.deltas import Delta
from apps.core.errors import UpstreamError
from apps.core.messages import ChatRequest
from apps.models.scripted import ScriptedModel, Step
from apps.tests.support.reading import read_events
from apps.tests.support.serving import serving_models, settings

BODY = {"prompt": "hi"}
FASTER = 50


def script(*steps: Step) -> ScriptedModel:
    return ScriptedModel(lambda _: steps)


WHOLE = (Delta("a ", model="mö del"), Delta("b"), Delta(finish_reason="length", usage=Usage(3, 2)))


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving_models(local=script(*WHOLE)) as base:
        yield base


def test_a_whole_answer(url: str, http: httpx2.Client) -> None:
    answer = http.post(f"{url}/local/generate", json=BODY)
    assert answer.json() == {"response": "a b"}
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["X-Model"] == "m__del"


def test_a_streamed_answer(url: str, http: httpx2.Client) -> None:
    answer = http.post(f"{url}/local/generate?stream=true", json=BODY)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["Cache-Control"] == "no-cache"
    assert answer.headers["X-Accel-Buffering"] == "no"
    assert answer.headers["X-Model"] == "m__del"
    streamed = read_events(answer.content)
    assert streamed.deltas == ["a ", "b"]
    kind, end = streamed.end
    assert (kind, end["finish_reason"], end["model"]) == ("done", "length", "mö del")
    assert end["usage"]["total_tokens"] == 5


def test_a_bare_answer(url: str, http: httpx2.Client) -> None:
    answer = http.post(f"{url}/local/generate?stream=true", json=BODY, headers={"Accept": "text/plain"})
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.text == "a b"


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("", "text/event-stream"),
        ("*/*", "text/event-stream"),
        ("text/event-stream", "text/event-stream"),
        ("application/json", "text/event-stream"),
        ("text/plain", "text/plain; charset=utf-8"),
        ("Text/Plain;q=0.5", "text/plain; charset=utf-8"),
        ("text/plain, text/event-stream", "text/event-stream"),
        ("application/json, text/plain", "text/plain; charset=utf-8"),
    ],
)
def test_accept_chooses_the_framing(accept: str, kind: str) -> None:
    assert framing_for(accept).media_type == kind


def test_deltas_leave_the_moment_they_exist(http: httpx2.Client) -> None:
    with (
        serving_models(local=script(Delta("now"), 5.0, Delta(finish_reason="stop"))) as url,
        http.stream("POST", f"{url}/local/generate?stream=true", json=BODY, timeout=2) as answer,
    ):
        assert next(answer.iter_bytes()) == b"data: now\n\n"


@pytest.mark.parametrize("steps", [(), (Delta(""),)])
@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_without_text_and_end_is_a_502(steps: tuple[Step, ...], stream: bool, http: httpx2.Client) -> None:
    with serving_models(local=script(*steps)) as url:
        answer = http.post(f"{url}/local/generate", params={"stream": stream}, json=BODY)
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "UPSTREAM_ERROR")


@pytest.mark.parametrize("stream", [False, True])
def test_an_empty_but_whole_answer_is_one(stream: bool, http: httpx2.Client) -> None:
    with serving_models(local=script(Delta(finish_reason="stop"))) as url:
        answer = http.post(f"{url}/local/generate", params={"stream": stream}, json=BODY)
    assert answer.status_code == 200
    if stream:
        assert read_events(answer.content).end[0] == "done"
    else:
        assert answer.json() == {"response": ""}


class FastSelector(selectors.DefaultSelector):
    """Waits as long as the fast loop's clock says."""

    def select(self, timeout: float | None = None) -> Any:
        return super().select(timeout / FASTER if timeout else timeout)


class FastLoop(asyncio.SelectorEventLoop):
    """A loop whose clock runs FASTER times as fast, so that minutes of silence are a second of the test's."""

    def __init__(self) -> None:
        super().__init__(FastSelector())

    def time(self) -> float:
        return super().time() * FASTER


async def called(model: ScriptedModel, sent: "asyncio.Queue[Message]", *, stall_after: int | None = None) -> None:
    """POST /local/generate?stream=true on the whole app, without a socket; a client may stop reading."""
    configured = settings(auth="off")  # whose time is the wall's
    app = create_app(configured, Services(model, model, build_gateway(configured, model)))
    incoming: asyncio.Queue[Message] = asyncio.Queue()
    incoming.put_nowait({"type": "http.request", "body": json.dumps(BODY).encode(), "more_body": False})
    scope: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": "/local/generate",
        "raw_path": b"/local/generate",
        "root_path": "",
        "query_string": b"stream=true",
        "headers": [(b"content-type", b"application/json")],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
    }

    async def send(message: Message) -> None:
        if stall_after is not None and sent.qsize() >= stall_after:
            await asyncio.Event().wait()
        sent.put_nowait(message)

    await app(scope, incoming.get, send)


def on_a_fast_clock(model: ScriptedModel, **how: Any) -> bytes:
    """The bytes that were sent until the app returned."""
    sent: asyncio.Queue[Message] = asyncio.Queue()
    with asyncio.Runner(loop_factory=FastLoop) as runner:
        runner.run(called(model, sent, **how))
    return b"".join(sent.get_nowait().get("body", b"") for _ in range(sent.qsize()))


def test_a_silent_model_is_a_stream_of_pings() -> None:
    """How many come, and when: test_stream_writing, whose clock no busy machine holds up."""
    data = on_a_fast_clock(script(Delta("a"), 40.0, Delta("b"), 5.0, Delta(finish_reason="stop")))
    before, _, _ = data.partition(b"data: b\n\n")
    assert b": ping\n\n" in before
    assert before.replace(b": ping\n\n", b"") == b"data: a\n\n"
    assert read_events(data).end[0] == "done"


def test_before_the_first_delta_there_is_no_ping_since_there_is_no_status() -> None:
    data = on_a_fast_clock(script(40.0, UpstreamError("no")))
    assert json.loads(data)["error"]["code"] == "UPSTREAM_ERROR"


def test_a_client_that_stopped_reading_for_a_minute_is_given_up() -> None:
    class Many(ScriptedModel):
        async def stream(self, request: ChatRequest) -> AsyncGenerator[Delta, None]:
            self.open += 1
            try:
                while True:
                    yield Delta("word ")
            finally:
                self.open -= 1

    model = Many(lambda _: ())
    data = on_a_fast_clock(model, stall_after=4)
    assert data.count(b"data: word") == 3
    assert model.open == 0
