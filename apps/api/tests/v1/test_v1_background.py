"""Responses in the background: polled, followed, cancelled, and refused before they begin."""

import asyncio
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter

from apps.api.src.application import create_app
from apps.api.src.v1.background import BackgroundResponse, BackgroundResponses
from apps.api.src.v1.execution import Execution, new_record
from apps.api.src.v1.relay import in_background
from apps.api.src.wiring.gateway import build_gateway
from apps.api.src.wiring.services import on_record
from apps.core.callers import ANONYMOUS, Caller
from apps.core.calls import CANCELLED, SHUT_DOWN, Usage
from apps.core.deltas import Delta
from apps.core.errors import Overloaded, RateLimitExceeded, StoreUnavailable
from apps.core.messages import ChatRequest
from apps.gateway.gateway import Gateway
from apps.gateway.openai_api.stored_responses import StoredResponses
from apps.gateway.protocol import WireCall
from apps.models.event_stream import EventStreamDecoder, json_event
from apps.models.metering import Meter
from apps.models.scripted import ScriptedModel, Step, saying
from apps.operations.database import Database
from apps.operations.key_store import KeyRing, KeyStore
from apps.tests.support.caching import Books
from apps.tests.support.clock import Clock
from apps.tests.support.keys import bearer, make_keys, with_store
from apps.tests.support.raw_upstream import EVENTS, raw_upstream
from apps.tests.support.routing import HEALTHY, name, provider, routing_file
from apps.tests.support.scraping import scrape
from apps.tests.support.serving import serving, serving_models, settings
from apps.tests.support.waiting import until
from eval.mock_upstream import MockUpstream

EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
SECONDS = 60
DELTA = {"type": "response.output_text.delta", "item_id": "msg_1", "delta": "Hel"}
ENDED = ("completed", "incomplete", "failed", "cancelled")


class Gate:
    """A script whose answers stand still behind their first word until ``opened`` is set."""

    def __init__(self) -> None:
        self.opened = threading.Event()

    def __call__(self, request: ChatRequest) -> Iterator[Step]:
        yield Delta("Hel", model="tiny")
        while not self.opened.is_set():
            yield 0.01
        yield Delta("lo")
        yield Delta("", (), "length" if request.max_tokens == 2 else "stop", Usage(5, 2), "tiny")


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def model(gate: Gate) -> ScriptedModel:
    return ScriptedModel(gate, name="tiny")  # type: ignore[arg-type]


@pytest.fixture
def url(model: ScriptedModel, gate: Gate) -> Iterator[str]:
    with serving_models(local=model) as url:
        yield f"{url}/v1"


@pytest.fixture
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=url, api_key="unused", max_retries=0, timeout=SECONDS) as client:
        yield client


def found(value: Callable[[], Any]) -> Any:
    """What ``value`` gives, once it is something."""
    last: list[Any] = []
    assert until(lambda: last.append(value()) or last[-1])  # type: ignore[func-returns-value]
    return last[-1]


def in_status(client: openai.OpenAI, id: str, *statuses: str) -> Any:
    def response() -> Any:
        made = client.responses.retrieve(id)
        return made if made.status in statuses else None

    return found(response)


def begin(client: openai.OpenAI, **more: Any) -> Any:
    return client.responses.create(model="tiny", input="hi", background=True, **more)


def test_a_response_is_queued_made_and_kept(client: openai.OpenAI, gate: Gate, model: ScriptedModel) -> None:
    queued = begin(client, instructions="Be brief", metadata={"a": "b"})
    assert (queued.status, queued.background, queued.output) == ("queued", True, [])
    assert (queued.instructions, queued.metadata, queued.completed_at) == ("Be brief", {"a": "b"}, None)
    under_way = in_status(client, queued.id, "in_progress")
    assert under_way.output == [] and under_way.created_at == queued.created_at
    (asked,) = client.responses.input_items.list(queued.id)
    assert asked.type == "message" and asked.content[0].to_dict()["text"] == "hi"
    # nothing goes on from what is not whole
    with pytest.raises(openai.BadRequestError) as early:
        client.responses.create(model="tiny", input="on", previous_response_id=queued.id)
    assert early.value.code == "previous_response_not_found"
    gate.opened.set()
    done = in_status(client, queued.id, *ENDED)
    assert (done.status, done.output_text, done.id, done.background) == ("completed", "Hello", queued.id, True)
    assert done.usage.total_tokens == 7 and done.to_dict()["store"] is True
    on = client.responses.create(model="tiny", input="on", previous_response_id=queued.id)
    assert on.output_text == "Hello"
    assert [message.content for message in model.requests[-1].messages] == ["hi", "Hello", "on"]
    # what is over cannot be cancelled any more, and is told as it is
    assert client.responses.cancel(queued.id).to_dict() == done.to_dict()
    client.responses.delete(queued.id)
    for ask in (client.responses.retrieve, client.responses.cancel):
        with pytest.raises(openai.NotFoundError):
            ask(queued.id)
    with pytest.raises(openai.BadRequestError):
        client.responses.create(model="tiny", input="on", previous_response_id=queued.id)


def test_one_goes_on_from_another_and_ends_at_its_limit(client: openai.OpenAI, gate: Gate) -> None:
    gate.opened.set()
    first = client.responses.create(model="tiny", input="one")
    second = begin(client, previous_response_id=first.id, max_output_tokens=2)
    done = in_status(client, second.id, *ENDED)
    assert (done.status, done.previous_response_id) == ("incomplete", first.id)
    assert done.incomplete_details.reason == "max_output_tokens"
    items: Any = list(client.responses.input_items.list(second.id, order="asc"))
    assert [item.content[0].to_dict()["text"] for item in items] == ["one", "Hello", "hi"]


def test_a_response_that_is_cancelled_ends_the_models_work(
    client: openai.OpenAI, gate: Gate, model: ScriptedModel
) -> None:
    queued = begin(client)
    in_status(client, queued.id, "in_progress")
    assert model.open == 1
    cancelled = client.responses.cancel(queued.id)
    assert (cancelled.status, cancelled.output) == ("cancelled", [])
    assert until(lambda: model.open == 0)
    gate.opened.set()
    assert client.responses.retrieve(queued.id).status == "cancelled"
    assert client.responses.cancel(queued.id).status == "cancelled"
    deleted = begin(client)
    client.responses.delete(deleted.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(deleted.id)


def events_bytes(*events: dict[str, Any]) -> bytes:
    return b"".join(json_event(event, event["type"]) for event in events)


def events_of(content: bytes) -> list[dict[str, Any]]:
    return [json.loads(event.data) for event in EventStreamDecoder().feed(content)]


def test_a_stream_is_left_and_followed_again(client: openai.OpenAI, url: str, http: httpx2.Client, gate: Gate) -> None:
    stream = begin(client, stream=True)
    seen = [next(stream) for _ in range(4)]
    assert [event.type for event in seen[:3]] == ["response.created", "response.queued", "response.in_progress"]
    id = seen[0].response.id
    stream.close()
    gate.opened.set()
    assert in_status(client, id, *ENDED).output_text == "Hello"
    rest = events_of(http.get(f"{url}/responses/{id}", params={"stream": "true", "starting_after": 3}).content)
    whole = events_of(http.get(f"{url}/responses/{id}", params={"stream": "true"}).content)
    assert whole[4:] == rest and [event.to_dict() for event in seen] == whole[:4]
    assert [event["sequence_number"] for event in whole] == list(range(len(whole)))
    assert {event["response"]["id"] for event in whole if "response" in event} == {id}
    last = whole[-1]
    assert last["type"] == "response.completed" and last["response"]["output"][0]["content"][0]["text"] == "Hello"
    assert client.responses.retrieve(id).to_dict() == last["response"]
    for event in whole:
        assert not EVENT.validate_python(event, strict=False).model_extra
    nothing = http.get(f"{url}/responses/{id}", params={"stream": "true", "starting_after": len(whole)})
    assert nothing.status_code == 200 and events_of(nothing.content) == []
    wrong = http.get(f"{url}/responses/{id}", params={"stream": "true", "starting_after": "x"})
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "starting_after")


def test_who_follows_one_that_is_cancelled_is_told(client: openai.OpenAI) -> None:
    stream = begin(client, stream=True)
    first = next(stream)
    client.responses.cancel(first.response.id)
    with pytest.raises(openai.APIError, match="The response was cancelled"):
        list(stream)


def test_what_fails_on_the_way_is_a_failed_response(http: httpx2.Client) -> None:
    def script(request: ChatRequest) -> Sequence[Step]:
        return [Delta("a"), RateLimitExceeded("Slowly")] if request.max_tokens else [Overloaded("The queue is full")]

    with (
        serving_models(local=ScriptedModel(script, name="tiny")) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key="x", max_retries=0) as client,
    ):
        for limit, code, message in ((None, "server_error", "The queue is full"), (9, "rate_limit_exceeded", "Slowly")):
            queued = begin(client, max_output_tokens=limit)
            failed = in_status(client, queued.id, *ENDED)
            assert (failed.status, failed.error.code, failed.error.message) == ("failed", code, message)
            events = events_of(http.get(f"{url}/v1/responses/{queued.id}?stream=true").content)
            assert events[-1]["type"] == "response.failed" and events[-1]["response"] == failed.to_dict()
            with pytest.raises(openai.BadRequestError):
                client.responses.create(model="tiny", input="on", previous_response_id=queued.id)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"store": False}, "background"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"tools": [{"type": "web_search"}]}, "tools.0.type"),
        ({"tools": [{"type": "function", "name": "a b", "parameters": {}}]}, "tools.0.name"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"temperature": 3}, "temperature"),
        ({"reasoning": {"effort": "low"}}, "reasoning.effort"),
        ({"x_unknown": 1}, "x_unknown"),
    ],
)
def test_what_cannot_be_honoured_is_refused_before_it_begins(
    http: httpx2.Client, url: str, model: ScriptedModel, fields: dict[str, Any], field: str
) -> None:
    body = {"model": "tiny", "input": "hi", "background": True, **fields}
    error = http.post(f"{url}/responses", json=body).json()["error"]
    assert (error["status"], error["param"]) == (400, field)
    assert not model.requests


def test_a_call_that_is_sent_again_under_its_key_begins_one(
    http: httpx2.Client, url: str, client: openai.OpenAI, gate: Gate, model: ScriptedModel
) -> None:
    body = {"model": "tiny", "input": "hi", "background": True}
    ids = set()
    for stream in (False, False, True, True):
        key = {"Idempotency-Key": f"k-{stream}"}
        with http.stream("POST", f"{url}/responses", json={**body, "stream": stream}, headers=key) as answer:
            assert answer.status_code == 200
            lines = answer.iter_lines()
            told = next(line for line in lines if '"id"' in line)
        data = json.loads(told.removeprefix("data: "))
        ids.add((stream, data.get("id") or data["response"]["id"]))
    assert len(ids) == 2
    gate.opened.set()
    for _, id in ids:
        assert in_status(client, id, *ENDED).status == "completed"
    assert len(model.requests) == 2


def test_one_is_for_keys_that_may_ask_its_model(mock: MockUpstream, http: httpx2.Client, tmp_path: Path) -> None:
    content = {
        "providers": {"main": provider(mock.base_url, responses="chat")},
        "models": {"mine": name(HEALTHY), "other": name(HEALTHY)},
    }
    auth: dict[str, Any] = {"auth": "on", "data_dir": tmp_path}
    terms: list[dict[str, Any]] = [{"models": ["mine"]}, {"models": ["other"]}]
    mine, other = make_keys(settings(**auth), *({"tenant": "red", **each} for each in terms))
    (blue,) = make_keys(settings(**auth), {"tenant": "blue"})
    with serving_models(gateway_config=str(routing_file(tmp_path, content)), **auth) as url:
        body = {"model": "mine", "input": "hi", "background": True}
        made = http.post(f"{url}/v1/responses", headers=bearer(mine), json=body).json()["id"]

        def asked(key: str, method: str = "GET", path: str = "") -> int:
            return http.request(method, f"{url}/v1/responses/{made}{path}", headers=bearer(key)).status_code

        for method, path in (("GET", ""), ("GET", "/input_items"), ("POST", "/cancel"), ("DELETE", "")):
            assert (asked(other, method, path), asked(blue, method, path)) == (403, 404)
        assert asked(mine) == 200 and asked(mine, "POST", "/x") == 404

        def status() -> Any:
            now = http.get(f"{url}/v1/responses/{made}", headers=bearer(mine)).json()
            return now if now["status"] in ENDED else None

        done = found(status)
        assert (done["status"], done["model"]) == ("completed", HEALTHY) and done["usage"]["output_tokens"] > 0
        assert asked(mine, "DELETE") == 200 and asked(mine) == 404


def test_an_upstream_makes_its_own_where_it_has_any(mock: MockUpstream, http: httpx2.Client) -> None:
    body = {"model": "m", "input": "hi", "background": True}
    with serving_models(openai_base_url=mock.base_url) as url:
        assert http.post(f"{url}/v1/responses", json=body).status_code == 200
        assert mock.stats()["last_body"] == body
    with serving_models(openai_base_url=mock.base_url.replace("/v1", "/chat-only/v1"), retry_attempts=1) as url:

        def is_completed(path: str) -> bool:
            return bool(http.get(path).json()["status"] == "completed")

        # the first call finds out that it has none
        for stream in (False, True):
            answer = http.post(f"{url}/v1/responses", json={**body, "stream": stream})
            begun = events_of(answer.content)[0]["response"] if stream else answer.json()
            assert (answer.status_code, begun["status"]) == (200, "queued")
            path = f"{url}/v1/responses/{begun['id']}"
            assert until(partial(is_completed, path))


def test_the_first_streamed_call_finds_out_too_and_is_made_once_under_its_key(
    mock: MockUpstream, http: httpx2.Client
) -> None:
    body = {"model": "m", "input": "hi", "background": True, "stream": True}
    with serving_models(openai_base_url=mock.base_url.replace("/v1", "/chat-only/v1"), retry_attempts=1) as url:
        key = {"Idempotency-Key": "k"}
        first, again = (events_of(http.post(f"{url}/v1/responses", json=body, headers=key).content) for _ in range(2))
        assert first == again and first[-1]["type"] == "response.completed"


def test_who_leaves_the_first_call_finds_the_same_response_under_its_key(
    mock: MockUpstream, http: httpx2.Client
) -> None:
    body = {"model": "slow-100", "input": "hi", "background": True, "stream": True}
    with serving_models(openai_base_url=mock.base_url.replace("/v1", "/chat-only/v1"), retry_attempts=1) as url:

        def first_id() -> str:
            with http.stream("POST", f"{url}/v1/responses", json=body, headers={"Idempotency-Key": "k"}) as answer:
                told = next(line for line in answer.iter_lines() if '"id"' in line)
            id: str = json.loads(told.removeprefix("data: "))["response"]["id"]
            return id

        left = first_id()
        assert first_id() == left
        assert until(lambda: http.get(f"{url}/v1/responses/{left}").json()["status"] == "completed")


async def test_who_leaves_ends_the_stream_of_an_upstream_that_makes_its_own() -> None:
    begins = events_bytes({"type": "response.created", "response": {"id": "resp_1"}}, DELTA)
    body = {"model": "m", "input": "hi", "background": True, "stream": True}
    async with raw_upstream(EVENTS, begins, *[step for _ in range(6000) for step in (b": on\n\n", 0.05)]) as upstream:
        with serving_models(openai_base_url=upstream.base_url) as url:
            async with (
                httpx2.AsyncClient() as client,
                client.stream("POST", f"{url}/v1/responses", json=body, headers={"Idempotency-Key": "k"}) as answer,
            ):
                assert "resp_1" in await anext(line async for line in answer.aiter_lines() if '"id"' in line)
                assert upstream.open == 1
            async with asyncio.timeout(SECONDS):
                while upstream.open:  # noqa: ASYNC110 - connections are counted, and no task waits for this
                    await asyncio.sleep(0.01)


def test_a_404_about_the_model_is_the_answer_and_does_not_end_what_an_upstream_makes_itself(
    http: httpx2.Client, mock: MockUpstream
) -> None:
    with serving_models(openai_base_url=mock.base_url, retry_attempts=1) as url:

        def asked(model: str, **more: Any) -> httpx2.Response:
            return http.post(f"{url}/v1/responses", json={"model": model, "input": "hi", **more})

        foreground = asked("fault-404")
        assert foreground.status_code == 404
        key = {"Idempotency-Key": "k"}
        for stream, headers in ((False, {}), (True, {}), (False, key), (True, key), (False, {})):
            body = {"model": "fault-404", "input": "hi", "background": True, "stream": stream}
            unknown = http.post(f"{url}/v1/responses", json=body, headers=headers)
            assert (unknown.status_code, unknown.json()["error"]["code"]) == (
                404,
                foreground.json()["error"]["code"],
            )
        assert scrape(url).sum("genai_background_responses") == 0
        assert asked("m", background=True).json()["id"] == "resp_mock"


def test_an_upstream_that_is_down_is_told_of_where_no_other_can_do_it(
    http: httpx2.Client, mock: MockUpstream, tmp_path: Path
) -> None:
    content = {
        "providers": {
            "down": provider("http://127.0.0.1:9/v1", responses="native"),
            "chat": provider(mock.base_url, responses="chat"),
        },
        "models": {"m": {"targets": [{"provider": "down", "model": "m"}, {"provider": "chat", "model": "m"}]}},
    }
    with serving_models(gateway_config=routing_file(tmp_path, content), retry_attempts=1) as url:
        error = http.post(f"{url}/v1/responses", json={"model": "m", "input": "hi", "background": True}).json()["error"]
        assert error["status"] >= 500 and error["param"] is None
        assert http.post(f"{url}/v1/responses", json={"model": "m", "input": "hi"}).status_code == 200


async def test_who_follows_one_that_breaks_off_gets_an_error_event(gate: Gate) -> None:
    jobs = Jobs(gate)
    one = jobs.begin(tenant=ANONYMOUS.tenant)
    async with aclosing(one.events(1)) as events:
        await anext(events)
    one.recording.cancel(SHUT_DOWN)
    await one.recording.ended()
    configured = settings(auth="off")
    app = create_app(configured, on_record(configured, jobs.model, jobs.model, jobs.gateway))
    app.state.background = jobs.responses
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://test") as client:
        answer = await client.get(f"/v1/responses/{one.id}", params={"stream": "true"})
    *_, last = EventStreamDecoder().feed(answer.content)
    assert last.type == "error" and json.loads(last.data)["type"] == "error"


def test_where_nothing_is_kept_nothing_is_made_in_the_background(http: httpx2.Client) -> None:
    with serving_models(local=ScriptedModel(saying("a"), name="tiny"), responses_ttl=0) as url:
        body = {"model": "tiny", "input": "hi", "background": True}
        assert http.post(f"{url}/v1/responses", json=body).json()["error"]["param"] == "background"


def test_a_service_that_ends_cancels_what_is_under_way(gate: Gate, model: ScriptedModel, http: httpx2.Client) -> None:
    with serving_models(local=model) as url:
        body = {"model": "tiny", "input": "hi", "background": True}
        made = http.post(f"{url}/v1/responses", json=body).json()["id"]
        assert until(lambda: model.open == 1)
    assert model.open == 0
    with serving_models(local=model) as url:
        assert http.get(f"{url}/v1/responses/{made}").status_code == 404


def test_one_whose_events_are_gone_is_told_as_it_is_kept(gate: Gate, model: ScriptedModel) -> None:
    gate.opened.set()
    configured = settings(auth="off")
    gateway = build_gateway(configured, model, None)
    app = create_app(configured, on_record(configured, model, model, gateway))
    app.state.background = BackgroundResponses(gateway.stored_responses, most_bytes=0)
    with serving(app) as url, openai.OpenAI(base_url=f"{url}/v1", api_key="x", max_retries=0) as client:
        first = begin(client)
        done = in_status(client, first.id, *ENDED).to_dict()
        in_status(client, begin(client).id, *ENDED)
        with pytest.raises(openai.BadRequestError, match="cannot be streamed again"):
            client.responses.retrieve(first.id, stream=True)
        assert client.responses.retrieve(first.id).to_dict() == done
        assert client.responses.cancel(first.id).to_dict() == done


class Jobs:
    """Responses in the background of a process of its own."""

    def __init__(self, script: Any = None, gateway: Gateway | None = None, **bounds: Any) -> None:
        self.clock = Clock()
        self.model = ScriptedModel(script or saying("a"), name="tiny")
        self.gateway = gateway or build_gateway(settings(), self.model, None)
        stored = StoredResponses(60, clock=self.clock)
        self.responses = BackgroundResponses(stored, clock=self.clock, **bounds)
        self.books = Books()

    def begin(
        self,
        text: str = "hi",
        tenant: str = "red",
        deadline: float | None = None,
        model: str = "tiny",
        key: str | None = None,
    ) -> BackgroundResponse:
        body = {"model": model, "input": text, "background": True}
        call = WireCall("/responses", json.dumps(body).encode(), body, False, Caller(tenant, key))
        record = new_record(call, self.gateway)
        return self.responses.begin(
            call, Execution(self.gateway, Meter([self.books]), in_background(call), record, deadline)
        )

    async def ended(self, text: str = "hi", tenant: str = "red") -> BackgroundResponse:
        response = self.begin(text, tenant)
        await response.recording.ended()
        return response

    def ends(self) -> dict[str, float]:
        """How many have ended, by status."""
        observed = self.responses.observations()
        return {one.labels["status"]: one.value for one in observed if one.value and "status" in one.labels}

    def keeps(self, response: BackgroundResponse) -> bool:
        return self.responses.find(response.tenant, response.id) is response


async def test_so_many_are_made_at_a_time_and_so_many_wait(gate: Gate) -> None:
    jobs = Jobs(gate, most_at_once=2, most_under_way=3)
    under_way = [jobs.begin() for _ in range(3)]
    for one in under_way[:2]:
        async with aclosing(one.events(1)) as events:
            assert b"response.in_progress" in await anext(events)
    assert [one.response["status"] for one in under_way] == ["in_progress", "in_progress", "queued"]
    with pytest.raises(RateLimitExceeded):
        jobs.begin()
    # one that waits is cancelled before it has begun
    under_way[2].cancel()
    await under_way[2].recording.ended()
    assert len(jobs.model.requests) == 2
    again = jobs.begin()
    gate.opened.set()
    for one in (*under_way[:2], again):
        await one.recording.ended()
        assert one.response["status"] == "completed"
    await jobs.responses.aclose()


async def test_those_that_have_ended_are_kept_for_a_time_and_bounded_in_bytes() -> None:
    jobs = Jobs()
    first = jobs.begin()
    await first.recording.ended()
    jobs.clock.now = 30
    second = jobs.begin()
    await second.recording.ended()
    assert jobs.responses.find(first.tenant, first.id) is first
    jobs.clock.now = 60
    assert jobs.responses.find(first.tenant, first.id) is None
    assert jobs.responses.find(second.tenant, second.id) is second and len(jobs.responses) == 1
    small = Jobs(most_bytes=second.size + 100)
    several = [small.begin() for _ in range(3)]
    for one in several:
        await one.recording.ended()
    kept = [one for one in several if small.responses.find(one.tenant, one.id) is one]
    assert len(small.responses) == len(kept) == 1
    small.responses.delete(kept[0])
    assert len(small.responses) == 0


async def test_what_an_ended_one_keeps_of_its_input_counts() -> None:
    long = "a" * 100_000
    one = await Jobs().ended(long)
    jobs = Jobs(most_bytes=one.size + one.size // 2)
    first, second = await jobs.ended(long), await jobs.ended(long)
    assert not jobs.keeps(first) and jobs.keeps(second)
    # it is still told
    ((item,), size) = second.items(), second.size
    assert item["content"][0]["text"] == long and size > len(long)


async def test_those_that_have_ended_are_bounded_in_number() -> None:
    jobs = Jobs(most_ended=2)
    of_red = [await jobs.ended() for _ in range(3)]
    of_blue = [await jobs.ended(tenant="blue") for _ in range(2)]
    assert [jobs.keeps(one) for one in (*of_red, *of_blue)] == [False, True, True, True, True]


async def test_old_ones_are_forgotten_when_others_begin_and_end() -> None:
    jobs = Jobs()
    await jobs.ended()
    jobs.clock.now = 60
    later = jobs.begin(tenant="blue")
    assert len(jobs.responses) == 1
    await later.recording.ended()
    last = jobs.begin()
    jobs.clock.now = 120
    await last.recording.ended()
    assert len(jobs.responses) == 1 and jobs.keeps(last)


async def test_what_one_tenant_has_forgets_nothing_of_another() -> None:
    size = (await Jobs().ended()).size
    jobs = Jobs(most_bytes=size * 4)
    blue = await jobs.ended(tenant="blue")
    red = [await jobs.ended() for _ in range(6)]
    assert jobs.keeps(blue) and jobs.keeps(red[-1]) and not jobs.keeps(red[0])


async def test_what_ends_one_that_is_made_is_its_calls_outcome(gate: Gate) -> None:
    jobs = Jobs(gate, most_at_once=3)
    cancelled, deleted, under_way, queued = (jobs.begin() for _ in range(4))
    for one in (cancelled, deleted, under_way):
        async with aclosing(one.events(1)) as events:
            await anext(events)
    queued.cancel()
    cancelled.cancel()
    jobs.responses.delete(deleted)
    await deleted.recording.ended()
    await jobs.responses.aclose()
    # one that waited was no call
    assert [record.outcome for record in jobs.books.closed] == [CANCELLED, CANCELLED, SHUT_DOWN]


def test_how_many_there_are_and_how_they_ended_is_in_the_metrics(gate: Gate, model: ScriptedModel) -> None:
    def seen() -> list[float]:
        now = scrape(base)
        counts = [now.sum("genai_background_responses", state=state) for state in ("queued", "in_progress")]
        ends = (now.sum("genai_background_responses_ended_total", status=status) for status in ENDED)
        calls = (now.sum("genai_calls_total", outcome=outcome) for outcome in ("ok", CANCELLED))
        return [*counts, *ends, *calls]

    with (
        serving_models(local=model) as base,
        openai.OpenAI(base_url=f"{base}/v1", api_key="x", max_retries=0, timeout=SECONDS) as client,
    ):
        ids = [begin(client, **more).id for more in ({}, {}, {}, {"max_output_tokens": 2}, {}, {})]
        assert until(lambda: model.open == 4)
        assert seen() == [2, 4, 0, 0, 0, 0, 0, 0]
        client.responses.cancel(ids[0])
        client.responses.delete(ids[5])
        assert until(lambda: seen() == [0, 4, 0, 0, 0, 2, 0, 1])
        gate.opened.set()
        assert until(lambda: seen() == [0, 0, 3, 1, 0, 2, 4, 1])


def test_one_that_waits_ends_where_its_key_is_revoked_meanwhile(
    gate: Gate, model: ScriptedModel, http: httpx2.Client, tmp_path: Path
) -> None:
    configured = settings(auth="on", data_dir=tmp_path)
    gone, stays = make_keys(configured, {"tenant": "red"}, {"tenant": "red"})
    body = {"model": "tiny", "input": "hi", "background": True}
    with serving_models(local=model, auth="on", data_dir=tmp_path, secret_key=configured.secret_key) as url:

        def asked(key: str) -> str:
            id: str = http.post(f"{url}/v1/responses", headers=bearer(key), json=body).json()["id"]
            return id

        def status(id: str) -> tuple[str, str | None]:
            now = http.get(f"{url}/v1/responses/{id}", headers=bearer(stays)).json()
            return now["status"], None if now["error"] is None else now["error"]["message"]

        made = [asked(gone) for _ in range(4)]
        assert until(lambda: model.open == 4)
        waiting, of_another = asked(gone), asked(stays)

        async def revoke(store: KeyStore, _: Database) -> None:
            (first, _other) = await store.all()
            await store.revoke(first.id)

        with_store(configured, revoke)
        gate.opened.set()
        # what has begun is made, as a stream that somebody reads would be
        ends = [("completed", None)] * 4 + [("failed", "A valid API key is required"), ("completed", None)]
        assert until(lambda: [status(id) for id in (*made, waiting, of_another)] == ends)
    assert len(model.requests) == 5


@pytest.mark.parametrize("kind", ["completed", "incomplete", "failed"])
async def test_one_whose_last_event_has_no_status_ends_with_the_events_kind(kind: str) -> None:
    begins = [{"type": f"response.{one}", "response": {}} for one in ("created", "in_progress")]
    stream = events_bytes(*begins, DELTA, {"type": f"response.{kind}", "response": {"output": []}})
    async with raw_upstream(EVENTS, stream) as upstream:
        configured = settings(openai_base_url=upstream.base_url, retry_attempts=1)
        jobs = Jobs(gateway=build_gateway(configured, ScriptedModel(saying("a"), name="tiny"), None), most_under_way=1)
        one = jobs.begin(model="m")
        await one.recording.ended()
        assert (one.response["status"], jobs.keeps(one), jobs.ends()) == (kind, True, {kind: 1})
        # and leaves its place
        await jobs.begin(model="m").recording.ended()
        await jobs.gateway.aclose()


class Away(KeyStore):
    """A store whose database is away for its first ``times`` questions; ``asked`` counts all of them."""

    def __init__(self, times: int) -> None:
        self.asked, self._times = 0, times

    async def is_void(self, id: str) -> bool:
        self.asked += 1
        if self.asked <= self._times:
            raise StoreUnavailable
        return id == "gone"


async def test_a_key_is_asked_about_after_a_wait_alone_and_again_while_the_database_is_away(gate: Gate) -> None:
    store = Away(times=2)
    jobs = Jobs(gate, keys=KeyRing(store), most_at_once=1)
    first = jobs.begin(key="here")
    async with aclosing(first.events(1)) as events:
        await anext(events)
    assert store.asked == 0
    waits, gone = jobs.begin(key="here"), jobs.begin(key="gone")
    gate.opened.set()
    for one in (first, waits, gone):
        async with asyncio.timeout(SECONDS):
            await one.recording.ended()
    assert [one.response["status"] for one in (first, waits, gone)] == ["completed", "completed", "failed"]
    assert store.asked == 4
    # OpenAI has no code for it, and it is not the prompt's fault
    assert gone.response["error"] == {"code": "server_error", "message": "A valid API key is required"}


async def test_a_deadline_bounds_the_wait_for_the_database(gate: Gate) -> None:
    store = Away(times=1_000_000)
    jobs = Jobs(gate, keys=KeyRing(store), most_at_once=1)
    first = jobs.begin()
    async with aclosing(first.events(1)) as events:
        await anext(events)
    waits = jobs.begin(key="here", deadline=asyncio.get_running_loop().time() + 1.0)
    gate.opened.set()
    async with asyncio.timeout(SECONDS):
        await waits.recording.ended()
    assert (waits.response["status"], waits.response["error"]["message"]) == ("failed", "The deadline ran out")


async def test_a_deadline_bounds_the_wait_for_a_turn(gate: Gate) -> None:
    jobs = Jobs(gate, most_at_once=1)
    first = jobs.begin()
    async with aclosing(first.events(1)) as events:
        await anext(events)
    waits = jobs.begin(deadline=asyncio.get_running_loop().time() + 0.01)
    async with asyncio.timeout(SECONDS):
        await waits.recording.ended()
    assert (waits.response["status"], waits.response["error"]["message"]) == ("failed", "The deadline ran out")
    assert not first.whole and len(jobs.model.requests) == 1
    gate.opened.set()
    await first.recording.ended()
    assert (await jobs.ended()).response["status"] == "completed"
