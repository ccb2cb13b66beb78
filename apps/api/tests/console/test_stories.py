"""What people come to the console for, end to end: Chromium, a service as users start it, and the packaged model.

And what a machine finds of accessibility on each page, with those stories' contents on it.
"""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from apps.core.calls import DISCONNECTED
from apps.local.packaged import PackagedModelError, packaged_gguf
from apps.tests.marks import learn
from apps.tests.support import made_files
from apps.tests.support.browser import SAVED, Browser, Page, needs_chromium
from apps.tests.support.console import BESIDE, MODEL, PAGES, Service, ask, console_service, fill, signed_in

AXE = Path(__file__).parents[3] / "tests/support/axe/axe.js"
AXE_RUN = """axe.run(document, {resultTypes: ["violations"]}).then(({violations}) => violations
    .filter(({impact}) => ["serious", "critical"].includes(impact))
    .map(({id, nodes}) => [id, nodes.slice(0, 4).map((node) => `${node.html} ${node.failureSummary}`)]))"""
PLACE = "(({top, bottom}) => [top, bottom, innerHeight])(document.querySelector('#cited').getBoundingClientRect())"
LOOKS = ((1280, False), (1280, True), (360, False), (360, True))
# without chance the model falls into a circle here, which only its limit would end
ENDLESS = "Repeat the word again one thousand times: again again again again again again"
SENTENCE = "Every employee has thirty days of leave in a calendar year."


def missing() -> str:
    try:
        packaged_gguf()
    except PackagedModelError as error:
        return str(error)
    return ""


pytestmark = [
    needs_chromium,
    pytest.mark.long,
    pytest.mark.local,
    pytest.mark.skipif(bool(missing()), reason=f"needs requirements-local.txt: {missing()}"),
]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One for all stories; the model is ready."""
    with console_service(tmp_path_factory.mktemp("service")) as started:
        yield started


async def test_an_answer_streams_and_stop_stops_it_on_the_server(browser: Browser, service: Service) -> None:
    before = service.sum("genai_calls_total", outcome=DISCONNECTED)
    async with signed_in(browser, service, "chat") as page:
        await ask(page, ENDLESS, tokens=7000)
        length = "document.querySelector('.markdown').innerText.length"
        lengths = f"window.lengths = new Set([...(window.lengths || []), {length}])"
        await page.wait_for(f"[...({lengths})].filter(Boolean).length >= 3")
        with service.client() as http:
            assert http.get("/ready").json()["models"][1]["details"]["running"] == 1
        await page.click("#stop")
        await page.wait_for("document.querySelector('.receipt')?.innerText.includes('stopped')")
        # it ended by the caller's leaving, and not by itself
        async with asyncio.timeout(60):
            # the service is another process: there is nothing of ours to wait on
            while service.sum("genai_calls_total", outcome=DISCONNECTED) == before:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        with service.client() as http:
            assert http.get("/ready").json()["models"][1]["details"]["running"] == 0
        assert page.errors == []


async def test_two_models_are_compared(browser: Browser, service: Service) -> None:
    async with signed_in(browser, service, "compare") as page:
        await page.wait_for("!!document.querySelector(\"[value='rag/handbook']\")")
        boxes = "[...document.querySelectorAll('.check input')]"
        wanted = json.dumps([MODEL, "rag/handbook"])
        await page.run(
            f"{boxes}.forEach((box) => {{ if (box.checked !== {wanted}.includes(box.value)) box.click(); }})"
        )
        await page.wait_for(f"{boxes}.filter((box) => box.checked).length === 2")
        await page.type_into("#prompt", "Who books the trains?")
        await page.click("#ask")
        await page.wait_for("document.querySelectorAll('.columns .receipt').length === 2")
        rows = await page.wait_for("document.querySelectorAll('[aria-label=Differences] tbody tr').length")
        assert rows == 2
        assert "by the office" in await page.run("document.querySelector('.columns').innerText")


async def test_the_citation_of_a_pdf_opens_at_its_sentence(browser: Browser, service: Service) -> None:
    async with signed_in(browser, service, "documents") as page:
        await page.type_into("#collection", "pages")
        await page.upload("#files", "leave.pdf", made_files.pdf([f"{BESIDE}", f"{SENTENCE} Ask early."]))
        await page.wait_for("document.body.innerText.includes('leave.pdf: done')")
        await page.type_into("#question", "How many days of leave has every employee?")
        await page.click("#question-form button")
        await page.wait_for("document.querySelectorAll('.citation').length > 0")
        await page.run(
            "[...document.querySelectorAll('.citation')].find((one) => one.innerText.includes('page 2')).click()"
        )
        cited = await page.wait_for("document.querySelector('#cited')?.innerText")
        assert " ".join(cited.split()) == SENTENCE
        place = await page.run(PLACE)
        assert 0 <= place[0] < place[1] <= place[2]


async def test_an_approval_is_given(browser: Browser, service: Service) -> None:
    async with signed_in(browser, service, "agents") as page:
        await page.type_into("#task", "What is 1234 * 5678?")
        await page.click("#run")
        await page.wait_for("document.querySelector('.waiting-run')?.innerText.includes('calculator')")
        await page.click(".approve")
        await page.wait_for("document.querySelector('.run h2').innerText.includes('done')")
        assert "7006652" in await page.run("document.querySelector('.run').innerText")
        await page.wait_for("document.querySelectorAll('.waiting-run').length === 0")


async def test_a_key_is_made_used_seen_to_fill_its_budget_and_revoked(browser: Browser, service: Service) -> None:
    async with signed_in(browser, service, "keys") as page:
        await page.click("#new-key")
        for name, value in (("name", "guest"), ("routes", "/v1/*"), ("budget_usd", "1/month")):
            await page.type_into(f"[name={name}]", value)
        await page.click("#make")
        first = learn("API key", await page.wait_for("document.querySelector('#made')?.innerText"))
        left = "[...document.querySelectorAll('tr')].find((row) => row.innerText.includes('guest'))"
        await page.wait_for(f"{left}?.innerText.includes('$1.00 left')")
        await page.run(f"{left}.querySelector('.rotate').click()")
        await page.click(".confirm")
        await page.wait_for(f"document.querySelector('#made').innerText !== {json.dumps(first)}")
        made = learn("API key", await page.run("document.querySelector('#made').innerText"))
        with service.client(first) as http:
            assert http.get("/v1/me").status_code == 401
        async with signed_in(browser, service, "chat", made) as guest:
            for _ in range(20):
                await ask(guest, "Tell me about leaves.", tokens=60)
                await guest.wait_for(
                    "!!document.querySelector('#send') && document.querySelector('#message').value === ''"
                )
                if await guest.run("!!document.querySelector('[role=alert]')"):
                    break
            assert "budget" in await guest.run("document.querySelector('[role=alert]').innerText")
            await guest.run("location.hash = '#/usage'")
            await guest.wait_for("document.querySelector('#budget')?.innerText.includes('$0.00 left of $1.00')")
            assert await guest.run("document.querySelector('meter').value") >= 1
            await page.call("Page.reload")
            await page.wait_for(f"{left}?.innerText.includes('$0.00 left')")
            await page.run(f"{left}.querySelector('.revoke').click()")
            await page.click(".confirm")
            await page.wait_for(f"!{left}")
            await guest.call("Page.reload")
            await guest.wait_for("!!document.querySelector('#key')")
            assert await guest.run("document.cookie") == ""


async def test_calls_are_counted_by_day_and_saved_as_csv(browser: Browser, service: Service) -> None:
    with service.client() as http:
        body = {"model": "other", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 5}
        assert http.post("/v1/chat/completions", json=body).status_code == 200
    async with signed_in(browser, service, "usage") as page:
        row = "[...document.querySelectorAll('[aria-label=Usage] tbody tr')].at(-1)"
        await page.wait_for(f"!!({row}?.innerText)")
        await page.wait_for("!!document.querySelector('figure canvas')")
        await page.run(SAVED)
        await page.run(
            "[...document.querySelectorAll('button')].find((one) => one.innerText === 'Save as CSV').click()"
        )
        await page.wait_for("!!window.saved")
        lines = (await page.run("window.saved")).splitlines()
        names = lines[0].split(",")
        assert names[:3] == ["day", "model", "calls"]
        shown = await page.run("document.querySelectorAll('[aria-label=Usage] tbody tr').length")
        assert shown == len(lines) - 1
        await page.type_into(".bottom select", "key")
        await page.wait_for("[...document.querySelectorAll('[aria-label=Usage] th')][0]?.innerText === 'Key'")
        assert "operator" in await page.run("document.querySelector('[aria-label=Usage] tbody').innerText")


async def test_a_calls_way_is_explained_and_a_routing_file_checked(browser: Browser, service: Service) -> None:
    async with signed_in(browser, service, "routing") as page:
        names = "[...document.querySelectorAll('[aria-label=Names] .link')]"
        await page.wait_for(f"{names}.some((one) => one.innerText === '{MODEL}')")
        await page.run(f"{names}.find((one) => one.innerText === '{MODEL}').click()")
        plan = await page.wait_for("document.querySelector('#plan tbody')?.innerText")
        assert f"local/{MODEL}" in plan and "closed" in plan and "this machine" in plan and "$5,000.00 in" in plan
        await page.click("#check")
        await page.wait_for("document.querySelector('#checked')?.innerText.includes('No fault: 2 names, 3 providers.')")
        await page.type_into("#routing-file", "models: {x: {targets: [{provider: nope, model: y}]}}")
        await page.click("#check")
        await page.wait_for("document.querySelector('#checked').innerText.includes('no provider is named nope')")


async def test_what_goes_on_now_is_seen(browser: Browser, service: Service) -> None:
    async with signed_in(browser, service, "live") as page:
        await page.wait_for("document.querySelectorAll('figure canvas').length === 6")
        shown = "[...document.querySelectorAll('.numbers div')].find((one) => one.innerText.startsWith('Requests'))"
        before = await page.run(f"{shown}.querySelector('dd').innerText")
        await page.wait_for(f"{shown}.querySelector('dd').innerText !== {json.dumps(before)}")
        slots = await page.run("document.querySelector('[aria-label=Slots] tbody').innerText")
        assert "ready" in slots and "0 of" in slots


async def test_the_page_that_asks_for_a_key_is_in_nobodys_way(browser: Browser, service: Service) -> None:
    async with browser.tab(f"{service.url}/#/chat") as page:
        await page.type_into("#key", "no key of this service")
        await page.click(".signin button")
        await page.wait_for("!!document.querySelector('[role=alert]')")
        await looked_at(page)


@pytest.mark.parametrize("name", PAGES)
async def test_nothing_serious_is_in_the_way_of_anybody(browser: Browser, service: Service, name: str) -> None:
    async with signed_in(browser, service, name, service.reader) as page:
        await page.wait_for("!!document.querySelector('h1')")
        await fill(page, name)
        await looked_at(page)


async def looked_at(page: Page) -> None:
    """axe-core finds nothing serious, and nothing is wider than the window: wide and narrow, light and dark."""
    found: dict[str, Any] = {}
    await page.run(await asyncio.to_thread(AXE.read_text))
    for width, dark in LOOKS:
        await page.show_as(width=width, dark=dark)
        await page.run("new Promise((seen) => requestAnimationFrame(() => setTimeout(seen, 0)))")
        if violations := await page.run(AXE_RUN):
            found[f"{width} {'dark' if dark else 'light'}"] = violations
        wide = await page.run("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide == 0, f"wider than {width} pixels by {wide}"
    assert (found, page.errors) == ({}, [])
