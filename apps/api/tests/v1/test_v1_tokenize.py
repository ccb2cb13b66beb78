"""POST /v1/tokenize and /v1/detokenize over a model whose tokens are characters, and the length in GET /v1/models."""

from collections.abc import Iterator
from typing import Any

import httpx2 as httpx
import pytest

from apps.core.settings import Settings
from apps.local.model import LocalModel
from apps.local.tests.fakes import EchoEngine, EchoLoader
from apps.tests.support.serving import serving_models


@pytest.fixture(scope="module")
def http() -> Iterator[httpx.Client]:
    local = LocalModel(Settings(_env_file=None), EchoLoader(EchoEngine()))
    with serving_models(local=local) as url, httpx.Client(base_url=url, timeout=60) as client:
        yield client


def post(http: httpx.Client, path: str, **body: Any) -> httpx.Response:
    return http.post(f"/v1/{path}", json={"model": "echo", **body})


def test_a_prompt_and_a_chat_become_tokens_and_text_again(http: httpx.Client) -> None:
    answer = post(http, "tokenize", prompt="häß", add_special_tokens=True, return_token_strs=False)
    assert answer.status_code == 200
    tokens = [ord(character) for character in "häß"]
    assert answer.json() == {"count": 3, "max_model_len": 100, "tokens": tokens, "token_strs": None}
    chat = post(http, "tokenize", messages=[{"role": "user", "content": "ab"}, {"role": "assistant", "content": "c"}])
    assert (chat.json()["count"], chat.json()["tokens"]) == (3, [97, 98, 99])
    assert post(http, "tokenize", prompt="").json()["tokens"] == []
    assert post(http, "detokenize", tokens=tokens).json() == {"prompt": "häß", "content": "häß"}
    assert post(http, "detokenize", tokens=[]).json() == {"prompt": "", "content": ""}


def test_a_text_in_llama_cpps_words_and_tokens_with_their_pieces(http: httpx.Client) -> None:
    pieces = post(http, "tokenize", content="hä", add_special=True, with_pieces=True).json()
    assert pieces["tokens"] == [{"id": 104, "piece": "h"}, {"id": 228, "piece": "ä"}]
    assert post(http, "tokenize", content="hä").json()["tokens"] == [104, 228]
    strings = post(http, "tokenize", prompt="hä", add_special_tokens=False, return_token_strs=True).json()
    assert (strings["tokens"], strings["token_strs"]) == ([104, 228], ["h", "ä"])
    chat = post(http, "tokenize", messages=[{"role": "user", "content": "a"}], return_token_strs=True).json()
    assert chat["token_strs"] == ["a"]


def test_a_prompts_tokens_are_counted_without_an_answer(http: httpx.Client) -> None:
    counted = {"object": "response.input_tokens", "input_tokens": 3}
    chat = [{"role": "user", "content": "ab"}, {"role": "assistant", "content": "c"}]
    asked = post(http, "chat/completions/input_tokens", messages=chat, stream=True, max_tokens=5)
    assert (asked.status_code, asked.json()) == (200, counted)
    assert post(http, "responses/input_tokens", input="abc").json() == counted
    assert post(http, "responses/input_tokens", input=[{"role": "user", "content": "b"}], instructions="ac").json() == (
        counted
    )


@pytest.mark.parametrize(
    ("path", "fields", "field"),
    [
        ("tokenize", {}, "prompt"),
        ("tokenize", {"prompt": "a", "messages": [{"role": "user", "content": "a"}]}, "prompt"),
        ("tokenize", {"prompt": 3}, "prompt"),
        ("tokenize", {"messages": "a"}, "messages"),
        ("tokenize", {"prompt": "a", "content": "a"}, "prompt"),
        ("tokenize", {"prompt": "a", "add_special_tokens": 1}, "add_special_tokens"),
        ("tokenize", {"content": "a", "with_pieces": "yes"}, "with_pieces"),
        ("tokenize", {"content": "a", "parse_special": False}, "parse_special"),
        ("detokenize", {}, "tokens"),
        ("detokenize", {"tokens": ["a"]}, "tokens"),
        ("detokenize", {"tokens": [-1]}, "tokens"),
        ("detokenize", {"tokens": [2**40]}, "tokens"),
        ("tokenize", {"model": "gpt-4o-mini", "prompt": "a"}, "model"),
        ("chat/completions/input_tokens", {}, "messages"),
        ("chat/completions/input_tokens", {"model": "gpt-4o-mini"}, "model"),
        ("responses/input_tokens", {}, "input"),
    ],
)
def test_what_cannot_be_done_is_named(http: httpx.Client, path: str, fields: dict[str, Any], field: str) -> None:
    answer = post(http, path, **fields)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, field)


def test_the_list_tells_the_context_and_an_answer_its_fingerprint(http: httpx.Client) -> None:
    models = {model["id"]: model for model in http.get("/v1/models").json()["data"]}
    assert models["echo"]["max_model_len"] == 100 and models["gpt-4o-mini"]["max_model_len"] is None
    chat = post(http, "chat/completions", messages=[{"role": "user", "content": "a"}], max_tokens=1)
    text = post(http, "completions", prompt="ab", max_tokens=1)
    assert chat.json()["system_fingerprint"] == text.json()["system_fingerprint"]
    assert chat.json()["system_fingerprint"].startswith("fp_")


def test_prompts_of_tokens_are_continued_on_the_wire(http: httpx.Client) -> None:
    answer = post(http, "completions", prompt=[[104, 105], [97]], max_tokens=5)
    assert [choice["text"] for choice in answer.json()["choices"]] == ["hi", "a"]
    assert answer.json()["usage"]["prompt_tokens"] == 3
    wrong = post(http, "completions", prompt=[2**40], max_tokens=5)
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "prompt")
