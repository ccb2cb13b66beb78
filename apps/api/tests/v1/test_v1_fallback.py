"""Routing on the paths beside chat: a response that fails before its first item is another target's to answer."""

from collections.abc import Iterator
from pathlib import Path

import httpx2
import openai
import pytest

from apps.tests.support.raw_upstream import EVENTS, events, raw_upstream
from apps.tests.support.serving import serving_models
from eval.mock_upstream import MockUpstream

CREATED = '{"type": "response.created", "response": {"id": "resp_1", "error": null}}'
DELTA = (
    '{"type": "response.output_text.delta", "item_id": "m", "output_index": 0, "content_index": 0, "delta": "Hel", '
    '"logprobs": [], "sequence_number": 4}'
)
FAILED = (
    '{"type": "response.failed", "response": {"error": {"code": "server_error", "message": "secret-host is down"}}}'
)
FILE = """
providers:
  first: {{base_url: "{first}", responses: {responses}}}
  second: {{base_url: "{second}"}}
models:
  m:
    targets: [{{provider: first, model: one}}, {{provider: second, model: two}}]
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "gateway.yaml"


def written(file: Path, first: str, second: str, responses: str = "native") -> Path:
    file.write_text(FILE.format(first=first, second=second, responses=responses))
    return file


@pytest.fixture
def client() -> Iterator[httpx2.Client]:
    with httpx2.Client(timeout=90) as client:
        yield client


@pytest.mark.parametrize("failure", [FAILED, '{"type": "error", "code": "server_error", "message": "no"}', "", "{"])
@pytest.mark.long
async def test_what_fails_before_its_first_item_is_answered_by_the_next_target(
    mock: MockUpstream, file: Path, failure: str
) -> None:
    async with raw_upstream(EVENTS, events(CREATED), events(failure)) as broken:
        with serving_models(gateway_config=written(file, broken.base_url, mock.base_url), retry_attempts=1) as url:
            async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0) as client:
                raw = await client.responses.with_raw_response.create(model="m", input="hi", stream=True)
                assert raw.headers["x-provider"] == "second"
                got = [event async for event in raw.parse()]
        assert len(broken.requests) == 1
    assert (got[0].type, got[-1].type) == ("response.created", "response.completed")
    assert [event.sequence_number for event in got] == list(range(len(got)))


@pytest.mark.long
async def test_what_is_cut_after_its_first_item_ends_in_an_error_event_and_is_not_tried_again(
    mock: MockUpstream, file: Path
) -> None:
    mock.reset()
    async with raw_upstream(EVENTS, events(CREATED, DELTA), 0.05) as broken:
        with serving_models(gateway_config=written(file, broken.base_url, mock.base_url), retry_attempts=3) as url:
            async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0) as client:
                seen = []
                with pytest.raises(openai.APIError) as caught:
                    async for event in await client.responses.create(model="m", input="hi", stream=True):
                        seen.append(event.type)
        assert len(broken.requests) == 1
    assert "response.output_text.delta" in seen
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["code"] == "UPSTREAM_ERROR"
    assert mock.stats()["requests"] == 0


async def test_an_upstreams_own_failure_after_its_first_item_reaches_the_client_as_it_is(
    mock: MockUpstream, file: Path
) -> None:
    async with raw_upstream(EVENTS, events(CREATED, DELTA, FAILED)) as broken:
        with serving_models(gateway_config=written(file, broken.base_url, mock.base_url), retry_attempts=1) as url:
            async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0) as client:
                got = [event async for event in await client.responses.create(model="m", input="hi", stream=True)]
    assert [event.type for event in got][-1] == "response.failed"


@pytest.mark.long
def test_a_provider_set_to_chat_is_never_asked_for_responses(
    mock: MockUpstream, file: Path, client: httpx2.Client
) -> None:
    mock.reset()
    config = written(file, mock.base_url, mock.base_url, responses="chat")
    with serving_models(gateway_config=config, retry_attempts=1) as url:
        answer = client.post(f"{url}/v1/responses", json={"model": "m", "input": "hi"})
    assert answer.json()["id"].startswith("resp_") and answer.json()["id"] != "resp_mock"
    assert mock.stats()["requests"] == 1
    assert mock.stats()["last_body"]["messages"] == [{"role": "user", "content": "hi"}]


@pytest.mark.parametrize(
    ("path", "body"), [("completions", {"prompt": "Once"}), ("embeddings", {"input": ["x"] * 500})]
)
@pytest.mark.long
def test_every_path_falls_back(
    mock: MockUpstream, file: Path, client: httpx2.Client, path: str, body: dict[str, object]
) -> None:
    config = written(file, "http://127.0.0.1:9/v1", mock.base_url)
    with serving_models(gateway_config=config, retry_attempts=1) as url:
        answer = client.post(f"{url}/v1/{path}", json={"model": "m", **body})
    assert (answer.status_code, answer.headers["x-provider"], answer.headers["x-attempts"]) == (200, "second", "2")
    assert answer.json()["model"] == "two"
