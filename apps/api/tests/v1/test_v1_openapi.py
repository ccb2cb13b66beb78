"""The OpenAPI page of /v1: every route with its body, its answers and its errors, each with an example."""

from collections.abc import Iterator
from typing import Any

import httpx2
import jsonschema
import pytest

from apps.gateway.routing.config import FAMILIES
from apps.tests.support.openapi_page import with_whole_responses
from apps.tests.support.serving import serving_models

POSTS = ["/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/embeddings"]
GETS = ["/v1/models", "/v1/models/{id}", "/v1/route", "/v1/usage"]

ANTHROPIC = ["/v1/messages", "/v1/messages/count_tokens"]
# with answers and tests of their own
OTHERS = ["/v1/rerank", "/v1/me", "/v1/summary", "/v1/capacity", "/v1/tokenize", "/v1/detokenize"]
OTHERS += ["/v1/chat/completions/input_tokens"]


@pytest.fixture(scope="module")
def page() -> Iterator[dict[str, Any]]:
    with serving_models() as url, httpx2.Client(timeout=90) as client:
        yield with_whole_responses(client.get(f"{url}/openapi.json").json())


def test_every_route_of_v1_is_there(page: dict[str, Any]) -> None:
    passed_on = {path for path in page["paths"] if path.split("/")[1:3] in [["v1", family] for family in FAMILIES]}
    listed = {path for path in page["paths"] if path.startswith("/v1/")} - (passed_on - {"/v1/responses"})
    assert listed == {*POSTS, *GETS, *ANTHROPIC, *OTHERS}
    assert {"/v1/audio/{path}", "/v1/files", "/v1/files/{path}", "/v1/moderations", "/v1/responses/{path}"} <= passed_on
    assert set(page["paths"]["/v1/files/{path}"]) == {"get", "post", "delete"}


@pytest.mark.parametrize("path", POSTS)
def test_a_bodys_example_meets_its_schema(page: dict[str, Any], path: str) -> None:
    content = page["paths"][path]["post"]["requestBody"]["content"]["application/json"]
    jsonschema.Draft202012Validator.check_schema(content["schema"])
    jsonschema.validate(content["example"], content["schema"])
    assert content["schema"]["additionalProperties"] is True
    assert "model" in content["schema"]["required"]


@pytest.mark.parametrize("path", POSTS)
def test_an_answer_has_an_example_for_each_of_its_forms(page: dict[str, Any], path: str) -> None:
    answer = page["paths"][path]["post"]["responses"]["200"]
    assert answer["content"]["application/json"]["example"]["object"]
    assert ("text/event-stream" in answer["content"]) is (path != "/v1/embeddings")
    assert {"X-Model", "X-Provider", "X-Attempts"} <= set(answer["headers"])


@pytest.mark.parametrize("path", POSTS)
def test_every_error_has_an_example_with_openais_fields(page: dict[str, Any], path: str) -> None:
    responses = page["paths"][path]["post"]["responses"]
    assert set(responses) == {
        "200",
        "401",
        "403",
        "404",
        "405",
        "409",
        "413",
        "408",
        "415",
        "431",
        "400",
        "429",
        "500",
        "502",
        "503",
        "504",
    }
    for status, response in responses.items():
        if status == "200":
            continue
        content = response["content"]["application/json"]
        schema = {**content["schema"], "components": page["components"]}
        assert content["examples"]
        for example in content["examples"].values():
            jsonschema.validate(example["value"], schema)
            assert example["value"]["error"]["status"] == int(status)


def test_the_errors_of_the_seeds_routes_keep_their_five_keys(page: dict[str, Any]) -> None:
    examples = page["paths"]["/generate"]["post"]["responses"]["422"]["content"]["application/json"]["examples"]
    for example in examples.values():
        assert set(example["value"]["error"]) == {"code", "message", "status", "field", "details"}


@pytest.mark.parametrize("path", GETS)
def test_lookups_have_their_errors_in_the_envelope(page: dict[str, Any], path: str) -> None:
    responses = page["paths"][path]["get"]["responses"]
    assert "429" in responses
    for status, response in responses.items():
        if status != "200":
            assert response["content"]["application/json"]["schema"]["$ref"].endswith("/OpenAIErrorEnvelope")


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/responses"])
def test_the_fields_that_change_nothing_are_listed_with_their_reasons(page: dict[str, Any], path: str) -> None:
    words = page["paths"][path]["post"]["description"]
    assert "`metadata` (bookkeeping of the caller's" in words
    # of a response it says whether it is kept
    assert ("`store` (nothing is stored" in words) == (path != "/v1/responses")
    assert "values that ask for nothing: " in words and "refused by name" in words
