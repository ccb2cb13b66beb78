"""The documentation works in a browser, without the internet."""

from pathlib import Path
from typing import Any

import httpx2
import pytest

from apps.api.src.application import TAGS
from apps.api.src.http.docs_page import METHODS, name_ready_model
from apps.models.scripted import ScriptedModel, saying
from apps.tests.support.browser import browsing, needs_chromium
from apps.tests.support.serving import serving_models

TALLEST = 2_600
"""Pixels of an open operation: it was 5,000 while each repeated the bodies of its errors."""


@needs_chromium
@pytest.mark.long
async def test_try_it_out_answers_in_a_browser(tmp_path: Path) -> None:
    model = ScriptedModel(saying("A snake ", "and a language."))
    with serving_models(local=model) as url:
        async with browsing(f"{url}/docs", tmp_path / "profile") as page:
            await page.wait_for("document.querySelectorAll('.opblock').length > 4")
            block = await page.run(
                "[...document.querySelectorAll('.opblock')]"
                ".find(b => b.querySelector('.opblock-summary-path').dataset.path === '/local/generate').id"
            )
            await page.click(f"#{block} .opblock-summary-control")
            await page.click(f"#{block} .try-out__btn")
            await page.click(f"#{block} .execute")
            shown = await page.wait_for(
                f"document.querySelector('#{block} .live-responses-table tbody .response-col_description')?.innerText"
            )
            status = await page.run(
                f"document.querySelector('#{block} .live-responses-table tbody .response-col_status').innerText"
            )
            elsewhere = [asked for asked in page.requested if not asked.startswith((url, "data:", "blob:", "about:"))]
    assert "A snake and a language." in shown
    assert status.startswith("200")
    assert len(model.requests) == 1
    assert elsewhere == []
    assert page.failed == []


@needs_chromium
@pytest.mark.long
async def test_redoc_shows_the_routes_and_their_errors(tmp_path: Path) -> None:
    with serving_models() as url:
        async with browsing(f"{url}/redoc", tmp_path / "profile") as page:
            text = await page.wait_for("document.body.innerText.includes('/local/generate') && document.body.innerText")
            elsewhere = [asked for asked in page.requested if not asked.startswith((url, "data:", "blob:", "about:"))]
    assert "/generate" in text
    assert elsewhere == []


def test_the_pages_name_no_other_host(http: httpx2.Client) -> None:
    with serving_models() as url:
        pages = [http.get(url + path).text for path in ("/docs", "/redoc")]
    assert not [html for html in pages if "https://" in html or "//cdn" in html]


@pytest.fixture(scope="module")
def described() -> dict[str, Any]:
    with serving_models() as url, httpx2.Client(timeout=90) as client:
        return dict(client.get(f"{url}/openapi.json").json())


def operations(page: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    found = [(f"{method} {path}", item[method]) for path, item in page["paths"].items() for method in item]
    assert len(found) > 90
    assert {name.partition(" ")[0] for name, _ in found} <= set(METHODS)
    return found


def test_every_error_is_described_once_and_referred_to(described: dict[str, Any]) -> None:
    shared = described["components"]["responses"]
    seen = set()
    for name, operation in operations(described):
        for status, response in operation["responses"].items():
            if status[0] in "45":
                assert set(response) == {"$ref"}, (name, status)
                reference = response["$ref"].removeprefix("#/components/responses/")
                assert reference.endswith(f"Error{status}"), (name, status)
                seen.add(reference)
    assert seen == set(shared)
    assert shared["Error404"]["content"]["application/json"]["examples"]
    assert shared["Error401"]["headers"] == {
        "WWW-Authenticate": {"description": "Bearer", "schema": {"type": "string"}}
    }
    descriptions = [words.lower() for words in shared["Error422"]["description"].split("; ")]
    assert sorted(set(descriptions)) == sorted(descriptions)


def test_no_error_is_fastapis_own(described: dict[str, Any]) -> None:
    assert "ValidationError" not in str(described)


def test_the_tags_stand_in_the_order_in_which_they_are_tried(described: dict[str, Any]) -> None:
    assert described["tags"] == TAGS
    names = [tag["name"] for tag in described["tags"]]
    wanted = ["generate", "local", "v1", "documents", "agents", "keys", "operations"]
    assert [name for name in names if name in wanted] == wanted
    assert all(tag["description"] for tag in described["tags"])
    assert {tag for _, operation in operations(described) for tag in operation["tags"]} == set(names)


def test_a_summary_says_what_happens(described: dict[str, Any]) -> None:
    for name, operation in operations(described):
        # a name of a function made of capital letters says nothing: "Post Files"
        assert len(operation["summary"].split()) > 2 or operation["summary"] in ("Make a key", "One of the list"), name
        assert len(operation["summary"]) <= 90, name
        assert operation["summary"].count("(") == operation["summary"].count(")"), name


def example(page: dict[str, Any], path: str) -> dict[str, Any]:
    return dict(page["paths"][path]["post"]["requestBody"]["content"]["application/json"]["example"])


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses", "/v1/messages", "/api/chat", "/v1/tokenize"])
@pytest.mark.parametrize(("cloud", "named"), [(False, "mine"), (True, "gpt-4o-mini")])
def test_try_it_out_names_a_model_that_answers(path: str, cloud: bool, named: str, http: httpx2.Client) -> None:
    page: dict[str, Any] = {
        "paths": {path: {"post": {"requestBody": {"content": {"application/json": {"example": {}}}}}}}
    }
    media = page["paths"][path]["post"]["requestBody"]["content"]["application/json"]
    for written in ("gpt-4o-mini", "SmolLM2-135M-Instruct", "all-MiniLM-L6-v2"):
        media["example"] = {"model": written, "stream": False}
        name_ready_model(page, "mine", cloud)
        wanted = {"gpt-4o-mini": named, "SmolLM2-135M-Instruct": "mine"}.get(written, written)
        assert example(page, path) == {"model": wanted, "stream": False}


def test_the_page_of_a_service_without_a_cloud_model_names_its_local_one(http: httpx2.Client) -> None:
    cloud = ScriptedModel(saying(""), state="not_configured")
    with serving_models(cloud, ScriptedModel(saying("hi"), name="mine")) as url:
        page = http.get(f"{url}/openapi.json").json()
        assert example(page, "/v1/chat/completions")["model"] == "mine"
        answer = http.post(f"{url}/v1/chat/completions", json=example(page, "/v1/chat/completions"))
    assert answer.status_code == 200


@needs_chromium
@pytest.mark.long
async def test_an_open_operation_fits_on_two_screens(tmp_path: Path) -> None:
    with serving_models() as url:
        async with browsing(f"{url}/docs", tmp_path / "profile") as page:
            await page.wait_for("document.querySelectorAll('.opblock').length > 4")
            for path in ("/generate", "/local/generate", "/agents/{name}/run"):
                block = await page.run(
                    "[...document.querySelectorAll('.opblock')]"
                    f".find(b => b.querySelector('.opblock-summary-path').dataset.path === '{path}').id"
                )
                await page.click(f"#{block} .opblock-summary-control")
                chosen = f"document.getElementById('{block}')"
                await page.wait_for(f"{chosen}.querySelectorAll('tr.response').length > 10")
                assert await page.run(f"{chosen}.getBoundingClientRect().height") < TALLEST, path
