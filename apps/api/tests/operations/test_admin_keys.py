"""/admin/keys: the same as the command line, for the holder of an admin key; and tokens beside keys."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from apps.tests.support.browser import browsing, needs_chromium
from apps.tests.support.keys import ADMIN, bearer, make_keys
from apps.tests.support.oidc_issuer import AUDIENCE, oidc_issuer
from apps.tests.support.reading import envelope
from apps.tests.support.serving import serving_models, settings

IP = "Ip must be an address or a network like 10.0.0.0/8"
TENANT = "Tenant must not be shared: /rag/shared is for the documents that all tenants may read"


class Service:
    """A running service with a key of its operator."""

    def __init__(self, url: str, admin: str) -> None:
        self.url = url
        self.admin = admin

    def refused(self, http: httpx2.Client, terms: dict[str, Any]) -> dict[str, Any]:
        return envelope(http.post(f"{self.url}/admin/keys", json=terms, headers=bearer(self.admin)))


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("keys")
    (admin,) = make_keys(settings(data_dir=folder), ADMIN)
    with serving_models(data_dir=folder) as url:
        yield Service(url, admin)


def test_a_keys_life_over_http(tmp_path: Path, http: httpx2.Client) -> None:
    (admin,) = make_keys(settings(data_dir=tmp_path), ADMIN)
    with serving_models(data_dir=tmp_path) as url:
        keys = f"{url}/admin/keys"
        terms = {"name": "ci", "models": ["local"], "rpm": 60, "budget_usd": "5/month", "expires": "90d"}
        made = http.post(keys, json=terms, headers=bearer(admin))
        assert (made.status_code, made.headers["cache-control"]) == (201, "no-store")
        new = made.json()
        assert new["prefix"] == f"{new['key'][:7]}..."
        assert new["status"] == "live"
        assert {name: new[name] for name in ("name", "models", "rpm", "budget_usd")} == {
            name: terms[name] for name in ("name", "models", "rpm", "budget_usd")
        }
        listed = http.get(keys, headers=bearer(admin)).json()["data"]
        assert [key["name"] for key in listed] == ["operator", "ci"]
        assert new["key"] not in str(listed)
        assert "key" not in listed[1]
        budgets = [(key["budget_limit_usd"], key["budget_left_usd"]) for key in listed]
        assert budgets == [(None, None), (5.0, 5.0)]
        used = bearer(new["key"])
        assert http.get(f"{url}/v1/models", headers=used).status_code == 200
        rotated = http.post(f"{keys}/{new['id']}/rotate", headers=bearer(admin)).json()
        assert rotated["id"] == new["id"]
        assert rotated["rotated_at"]
        assert http.get(f"{url}/v1/models", headers=used).status_code == 401
        used = bearer(rotated["key"])
        assert http.get(f"{url}/v1/models", headers=used).status_code == 200
        revoked = http.delete(f"{keys}/{new['id']}", headers=bearer(admin)).json()
        assert revoked["status"] == "revoked"
        assert http.get(f"{url}/v1/models", headers=used).status_code == 401
        for again in (http.delete(f"{keys}/{new['id']}", headers=bearer(admin)),):
            assert envelope(again)["code"] == "NOT_FOUND"


@pytest.mark.parametrize(
    ("terms", "code", "field", "message"),
    [
        ({}, "MISSING_REQUIRED_FIELD", "name", "Name is required"),
        ({"name": 5}, "INVALID_TYPE", "name", "Name must be a string"),
        (
            {"name": "x", "budget_usd": "5"},
            "INVALID_VALUE",
            "budget_usd",
            "Budget usd must look like 5/month or 0.50/day",
        ),
        ({"name": "x", "expires": "2020-01-01"}, "INVALID_VALUE", "expires", "Expires must be in the future"),
        ({"name": "x", "ip": ["10.0.0.0/8", "10.0.0.0/40"]}, "INVALID_VALUE", "ip.1", IP),
        ({"name": "x", "tenant": "shared"}, "INVALID_VALUE", "tenant", TENANT),
    ],
)
def test_wrong_terms_are_said(
    terms: dict[str, Any], code: str, field: str, message: str, service: Service, http: httpx2.Client
) -> None:
    error = service.refused(http, terms)
    assert (error["code"], error["field"], error["message"]) == (code, field, message)


@pytest.mark.parametrize(
    ("field", "value", "rule", "least", "most", "received"),
    [
        ("rpm", 0, "between 1 and 1000000000", 1, 10**9, 0),
        ("tpm", 10**10, "between 1 and 1000000000", 1, 10**9, 10**10),
        ("budget_usd", "0/day", "more than 0 and at most 1000000000", 0, 10**9, 0),
        ("budget_usd", "-5/month", "more than 0 and at most 1000000000", 0, 10**9, -5),
        ("budget_usd", "99999999999/month", "more than 0 and at most 1000000000", 0, 10**9, 99999999999),
        ("semantic_cache", 1.5, "more than 0 and at most 1", 0, 1, 1.5),
    ],
)
def test_a_number_out_of_range_is_told_both_ends(
    field: str, value: object, rule: str, least: int, most: int, received: float, service: Service, http: httpx2.Client
) -> None:
    error = service.refused(http, {"name": "x", field: value})
    assert (error["code"], error["field"]) == ("INVALID_VALUE", field)
    assert error["message"] == f"{field.replace('_', ' ').capitalize()} must be {rule}"
    assert error["details"].items() >= {"min": least, "max": most, "received": received}.items()


def test_lists_and_names_have_their_ranges_too(service: Service, http: httpx2.Client) -> None:
    models = service.refused(http, {"name": "x", "models": []})
    assert models["message"] == "Models must have 1 to 50 entries"
    assert models["details"].items() >= {"min": 1, "max": 50, "received": 0}.items()
    name = service.refused(http, {"name": "x" * 101})
    assert name["details"].items() >= {"min": 1, "max": 100, "received": 101}.items()


def test_an_unknown_field_is_called_unknown_and_the_known_ones_are_named(service: Service, http: httpx2.Client) -> None:
    error = service.refused(http, {"name": "x", "scopes": ["all"], "rpm": 0, "expires": "soon"})
    faults = {one["field"]: (one["code"], one["message"]) for one in error["details"]["errors"]}
    known = "name, tenant, models, routes, admin, rpm, tpm, budget_usd, expires, ip, semantic_cache"
    assert faults == {
        "rpm": ("INVALID_VALUE", "Rpm must be between 1 and 1000000000"),
        "expires": ("INVALID_VALUE", "Expires must look like 90d, 12h, 30m or 2027-01-31"),
        "scopes": ("INVALID_VALUE", f"Scopes is not known here: there are {known}"),
    }
    alone = service.refused(http, {"name": "x", "scopes": ["all"]})
    assert alone["field"] == "scopes"
    assert alone["details"]["known"] == known.split(", ")


def test_a_field_with_an_endless_name_is_not_repeated_whole(service: Service, http: httpx2.Client) -> None:
    error = service.refused(http, {"name": "x", "y" * 10_000: 1})
    assert error["field"] == "y" * 100
    assert len(error["message"]) < 300


def test_nobody_makes_keys_while_there_is_none(http: httpx2.Client) -> None:
    """Else the first page that a browser is shown could lock its user out."""
    with serving_models() as url:
        for answer in (http.post(f"{url}/admin/keys", json={"name": "x"}), http.get(f"{url}/admin/keys")):
            assert envelope(answer)["code"] == "FORBIDDEN"
        assert http.get(f"{url}/v1/models").status_code == 200


def test_a_token_of_the_issuer_is_a_key_and_turns_keys_on(tmp_path: Path, http: httpx2.Client) -> None:
    with oidc_issuer() as issuer:
        named = {"oidc_issuer": issuer.url, "oidc_audience": AUDIENCE}
        (key,) = make_keys(settings(data_dir=tmp_path), {})
        with serving_models(data_dir=tmp_path, **named) as url:  # type: ignore[arg-type]

            def status(credential: str, path: str = "/v1/models") -> int:
                return http.get(url + path, headers=bearer(credential)).status_code

            assert http.get(f"{url}/v1/models").status_code == 401
            assert status(issuer.token()) == 200
            assert status(issuer.token(), "/admin/keys") == 403
            assert status(issuer.token(scope="admin"), "/admin/keys") == 200
            assert status(issuer.token(scope="routes:/generate")) == 403
            assert status(issuer.token(aud="another")) == 401
            assert status(key) == 200
            issuer.down = True
            issuer.rotate("second")
            assert status(issuer.token(), "/v1/models") in (401, 503)
            assert status(key) == 200


@needs_chromium
@pytest.mark.long
async def test_authorize_works_on_the_page(tmp_path: Path) -> None:
    (key,) = await asyncio.to_thread(make_keys, settings(data_dir=tmp_path), {})
    with serving_models(auth="on", data_dir=tmp_path) as url:
        async with browsing(f"{url}/docs", tmp_path / "profile") as page:
            await page.wait_for("document.querySelectorAll('.opblock').length > 4")
            await page.click(".auth-wrapper .authorize")
            await page.wait_for("document.querySelectorAll('.auth-container input').length == 2")
            # React hears of a value only through the property's own setter
            await page.run(
                "(() => { const box = document.querySelector('.auth-container input');"
                "Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, 'value').set.call(box, "
                f"'{key}'); box.dispatchEvent(new Event('input', {{bubbles: true}})); }})()"
            )
            await page.click(".auth-container .auth-btn-wrapper .authorize")
            await page.click(".dialog-ux .close-modal")
            block = await page.run(
                "[...document.querySelectorAll('.opblock')]"
                ".find(b => b.querySelector('.opblock-summary-path').dataset.path === '/local/generate').id"
            )
            await page.click(f"#{block} .opblock-summary-control")
            await page.click(f"#{block} .try-out__btn")
            await page.click(f"#{block} .execute")
            status = await page.wait_for(
                f"document.querySelector('#{block} .live-responses-table tbody .response-col_status')?.innerText"
            )
    assert status.startswith("200")
