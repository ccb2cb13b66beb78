"""What a person meets at the start: HEAD, slashes, the order of the page."""

import httpx2
import pytest

from apps.api.src.http.connections import banner
from apps.core.settings import Settings
from apps.tests.support.serving import serving_models


def test_head_answers_where_get_is_cheap() -> None:
    with serving_models() as url:
        for path in ("/health", "/healthz", "/ready", "/", "/api/version", "/api/tags"):
            answer = httpx2.head(url + path, timeout=90)
            assert answer.content == b""
            assert answer.status_code == httpx2.get(url + path, timeout=90).status_code


@pytest.mark.parametrize(("path", "leads_to"), [("/docs/", "/docs"), ("/redoc/", "/redoc"), ("/health/", "/health/")])
def test_a_slash_too_much_leads_where_it_means(path: str, leads_to: str) -> None:
    with serving_models() as url:
        answer = httpx2.get(url + path, follow_redirects=True, timeout=90)
        assert (answer.status_code, answer.url.path) == (200, leads_to)


def test_the_page_groups_its_routes_in_the_order_of_a_reader() -> None:
    with serving_models() as url:
        page = httpx2.get(f"{url}/openapi.json", timeout=90).json()
        order = [tag["name"] for tag in page["tags"]]
        assert [name for name in order if name not in ("anthropic", "ollama")] == [
            *("generate", "local", "v1", "documents", "agents", "keys", "operations")
        ]
        used = {tag for path in page["paths"].values() for operation in path.values() for tag in operation["tags"]}
        assert used <= set(order)
        assert page["paths"]["/generate"]["post"]["summary"] == "Ask the cloud model"


def test_the_banner_names_the_addresses_and_the_keys() -> None:
    text = banner(Settings(_env_file=None), 8000)
    for word in ("http://localhost:8000/docs", "console  http://localhost:8000/", "keys     off until the first key"):
        assert word in text
    assert "console" not in banner(Settings(_env_file=None, console="off"), 8000)
    assert "http://[::1]:1/v1" in banner(Settings(_env_file=None, api_host="::1", auth="on"), 1)
