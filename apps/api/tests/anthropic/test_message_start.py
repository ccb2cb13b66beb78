"""The beginning of a streamed message of the local model: it tells the prompt's tokens, as the end does."""

import json

import httpx2

from apps.core.settings import Settings
from apps.local.model import LocalModel
from apps.local.tests.fakes import EchoEngine, EchoLoader
from apps.tests.support.serving import serving_models


def test_a_streams_start_tells_the_tokens_of_the_prompt(http: httpx2.Client) -> None:
    local = LocalModel(Settings(_env_file=None), EchoLoader(EchoEngine()))
    body = {"model": "echo", "max_tokens": 9, "messages": [{"role": "user", "content": "abc"}], "stream": True}
    with serving_models(local=local, auth="off") as url:
        answer = http.post(f"{url}/v1/messages", json=body)
        wrong = http.post(f"{url}/v1/messages", json={**body, "top_k": "many"})
    events = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: ")]
    start = next(event for event in events if event["type"] == "message_start")
    end = next(event for event in events if event["type"] == "message_delta")
    assert (start["message"]["usage"]["input_tokens"], start["message"]["usage"]["output_tokens"]) == (3, 0)
    assert end["usage"]["input_tokens"] == 3
    assert (wrong.status_code, wrong.json()["error"]["field"]) == (400, "top_k")
