"""What people come to the console for, end to end: Chromium, a service as users start it, and the packaged model.

And what a machine finds of accessibility on each page, with those stories' contents on it.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from apps.core.calls import DISCONNECTED
from apps.core.settings import Settings
from apps.local.packaged import PackagedModelError, packaged_gguf
from apps.tests.marks import learn
from apps.tests.overheard import hearing_client
from apps.tests.support import made_files
from apps.tests.support.browser import Browser, Page, needs_chromium
from apps.tests.support.keys import ADMIN, bearer, make_keys
from apps.tests.support.processes import running
from apps.tests.support.serving import settings

AXE = Path(__file__).parents[3] / "tests/support/axe/axe.js"
AXE_RUN = """axe.run(document, {resultTypes: ["violations"]}).then(({violations}) => violations
    .filter(({impact}) => ["serious", "critical"].includes(impact))
    .map(({id, nodes}) => [id, nodes.slice(0, 4).map((node) => `${node.html} ${node.failureSummary}`)]))"""
PLACE = "(({top, bottom}) => [top, bottom, innerHeight])(document.querySelector('#cited').getBoundingClientRect())"
LOOKS = ((1280, False), (1280, True), (360, False), (360, True))
PAGES = ("start", "chat", "compare", "documents", "agents", "usage", "keys", "routing", "live")
MODEL = "small"
# without chance the model falls into a circle here, which only its limit would end
ENDLESS = "Repeat the word again one thousand times: again again again again again again"
# a prompt of some tokens and an answer of a few dozen spend a good part of a budget of one dollar
GATEWAY = {
    "providers": {"local": {"kind": "local"}, "rag": {"kind": "rag"}, "agent": {"kind": "agent"}},
    "models": {
        MODEL: {"targets": [{"provider": "local", "model": MODEL, "price": {"input": 5000, "output": 5000}}]},
        "other": {"targets": [{"provider": "local", "model": MODEL, "price": {"input": 0, "output": 0}}]},
    },
}
ASKING = {
    "model": "local",
    "description": "Computes, once a person agrees",
    "instructions": "You answer questions about numbers with the calculator: 12 * 3, (3 + 4) * 12.",
    "tools": [{"tool": "calculator", "approval": True}],
    "first_step": "tool",
    "parallel_tool_calls": False,
    "temperature": 0,
    "limits": {"tool_rounds": 1, "answer_tokens": 60},
}
SENTENCE = "Every employee has thirty days of leave in a calendar year."
BESIDE = "Trains are booked by the office in the second week."


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


@dataclass(frozen=True, slots=True)
class Service:
    url: str
    key: str

    def client(self) -> httpx2.Client:
        return hearing_client(base_url=self.url, headers=bearer(self.key), timeout=120)

    def sum(self, metric: str, **labels: str) -> float:
        """Of the values of a metric with these labels."""
        with self.client() as http:
            values = http.get("/v1/summary").json()["values"].get(metric, [])
        return float(sum(one["value"] for one in values if labels.items() <= one["labels"].items()))


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One for all stories; the model is ready."""
    folder = tmp_path_factory.mktemp("service")
    configured = settings(data_dir=folder / "data", auth="on")
    (admin,) = make_keys(configured, ADMIN)
    for name, content in (("gateway", GATEWAY), ("agents", {"agents": {"careful": ASKING}})):
        # JSON is YAML
        (folder / f"{name}.yaml").write_text(json.dumps(content))
    changes = {
        "LOCAL_MODEL": "no-such-org/console",
        "LOCAL_FALLBACK": "packaged",
        "MODEL_CACHE_DIR": str(Settings().model_cache_dir),
        "AUTH": "on",
        "SECRET_KEY": configured.secret_key.get_secret_value(),
        "GATEWAY_CONFIG": str(folder / "gateway.yaml"),
        "AGENTS_CONFIG": str(folder / "agents.yaml"),
        "DEFAULT_MODEL": MODEL,
    }
    with running(folder, **changes) as started:
        found = Service(started.url, admin)
        with found.client() as http:
            _wait(lambda: any(one["status"] == "ready" for one in http.get("/ready").json()["models"]))
            travel = {"name": "travel.md", "text": f"# Travel\n\n{BESIDE}"}
            job = http.post("/rag/collections/handbook/documents", json=travel).json()["job"]
            _wait(lambda: http.get(f"/rag/jobs/{job}").json()["status"] == "done")
        yield found


def _wait(true: Callable[[], bool]) -> None:
    """Models are loaded meanwhile: what hangs is ended by the test's own bound."""
    while not true():
        time.sleep(0.2)


@asynccontextmanager
async def signed_in(browser: Browser, service: Service, page: str, key: str | None = None) -> AsyncIterator[Page]:
    async with browser.tab(f"{service.url}/#/{page}") as tab:
        await tab.type_into("#key", key or service.key)
        await tab.click(".signin button")
        await tab.wait_for("document.querySelectorAll('nav a').length > 0")
        yield tab


async def ask(page: Page, prompt: str, model: str = MODEL, tokens: int | None = None) -> None:
    await page.wait_for("!!document.querySelector('#send:enabled')")
    await page.type_into(".settings select", model)
    if tokens is not None:
        await page.type_into(".parameters .field:last-child input", str(tokens))
        await page.type_into(".parameters .grid .field:first-child input", "0")
    await page.type_into("#message", prompt)
    await page.click("#send")


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
        made = learn("API key", await page.wait_for("document.querySelector('#made')?.innerText"))
        left = "[...document.querySelectorAll('tr')].find((row) => row.innerText.includes('guest'))"
        await page.wait_for(f"{left}?.innerText.includes('$1.00 left')")
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


async def filled(page: Page, name: str) -> None:
    """What a reader would have on the page."""
    if name == "chat":
        await ask(page, "Write a list of two fruits.", "other", 30)
        await page.wait_for("!!document.querySelector('.receipt')")
        await page.run("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    if name == "compare":
        await page.click("[value='rag/handbook']")
        await page.type_into("#prompt", "Who books the trains?")
        await page.click("#ask")
        # a small model finds no end
        await page.wait_for("[...document.querySelectorAll('.markdown')].filter((one) => one.innerText).length === 2")
        await page.run("document.querySelector('form .danger')?.click()")
        await page.wait_for("!!document.querySelector('[aria-label=Differences]')")
        await page.click("[aria-expanded=false]")
    if name == "documents":
        await page.type_into("#collection", "handbook")
        await page.type_into("#question", "Who books the trains?")
        await page.run("[...document.querySelectorAll('button')].find((one) => one.innerText === 'Search').click()")
        await page.wait_for("!!document.querySelector('[aria-label=Passages]')")
        await page.click("[aria-label^=Read]")
        await page.wait_for("!!document.querySelector('.text')")
    if name == "keys":
        await page.wait_for("!!document.querySelector('[aria-label=Keys]')")
        await page.click("#new-key")
    if name == "routing":
        await page.type_into("#route", MODEL)
        await page.click("form button")
        await page.wait_for("!!document.querySelector('#plan')")
        await page.type_into("#routing-file", "models: {x: {targets: [{provider: nope}]}}")
        await page.click("#check")
        await page.wait_for("!!document.querySelector('#checked')")
    if name in ("usage", "live"):
        await page.wait_for("!!document.querySelector('figure canvas')")


@pytest.mark.parametrize("name", PAGES)
async def test_nothing_serious_is_in_the_way_of_anybody(browser: Browser, service: Service, name: str) -> None:
    found: dict[str, Any] = {}
    async with signed_in(browser, service, name) as page:
        await page.wait_for("!!document.querySelector('h1')")
        await filled(page, name)
        await page.run(await asyncio.to_thread(AXE.read_text))
        for width, dark in LOOKS:
            await page.show_as(width=width, dark=dark)
            await page.run("new Promise((seen) => requestAnimationFrame(() => setTimeout(seen, 0)))")
            if violations := await page.run(AXE_RUN):
                found[f"{width} {'dark' if dark else 'light'}"] = violations
            wide = await page.run("document.documentElement.scrollWidth - document.documentElement.clientWidth")
            assert wide == 0, f"{name} is wider than {width} pixels by {wide}"
        assert page.errors == []
    assert found == {}
