"""The documentation works in a browser, without the internet."""

from pathlib import Path

import httpx2
import pytest

from apps.models.scripted import ScriptedModel, saying
from apps.tests.support.browser import browsing, needs_chromium
from apps.tests.support.serving import serving_models


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


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
def test_the_pages_name_no_other_host(path: str, http: httpx2.Client) -> None:
    with serving_models() as url:
        html = http.get(url + path).text
    assert "https://" not in html
    assert "//cdn" not in html
