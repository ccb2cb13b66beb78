"""/admin/keys: the same as the command line, for the holder of an admin key; and tokens beside keys."""

import asyncio
from pathlib import Path
from typing import Any

import httpx2
import pytest

from apps.api.tests.browser import browsing, needs_chromium
from apps.api.tests.keys import ADMIN, bearer, make_keys
from apps.api.tests.reading import envelope
from apps.api.tests.serving import serving_models, settings
from apps.operations.tests.oidc_issuer import AUDIENCE, oidc_issuer


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
        ({"name": "x", "rpm": 0}, "INVALID_VALUE", "rpm", None),
        ({"name": "x", "scopes": ["all"]}, "INVALID_VALUE", "scopes", None),
    ],
)
def test_wrong_terms_are_said(
    terms: dict[str, Any], code: str, field: str, message: str | None, tmp_path: Path, http: httpx2.Client
) -> None:
    (admin,) = make_keys(settings(data_dir=tmp_path), ADMIN)
    with serving_models(data_dir=tmp_path) as url:
        error = envelope(http.post(f"{url}/admin/keys", json=terms, headers=bearer(admin)))
    assert (error["code"], error["field"]) == (code, field)
    assert message in (None, error["message"])


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
