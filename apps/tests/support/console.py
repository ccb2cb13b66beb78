"""The console with contents: a service with the packaged model behind keys, and what a reader does on each page."""

import json
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import httpx2

from apps.core.messages import JsonObject
from apps.core.settings import Settings
from apps.tests.overheard import hearing_client
from apps.tests.support.browser import Browser, Page
from apps.tests.support.keys import ADMIN, bearer, make_keys
from apps.tests.support.processes import running
from apps.tests.support.serving import settings

PAGES = ("start", "chat", "compare", "documents", "agents", "usage", "keys", "routing", "live")
MODEL = "small"
# a prompt of some tokens and an answer of a few dozen spend a good part of a budget of one dollar
GATEWAY: JsonObject = {
    "providers": {"local": {"kind": "local"}, "rag": {"kind": "rag"}, "agent": {"kind": "agent"}},
    "models": {
        MODEL: {"targets": [{"provider": "local", "model": MODEL, "price": {"input": 5000, "output": 5000}}]},
        "other": {"targets": [{"provider": "local", "model": MODEL, "price": {"input": 0, "output": 0}}]},
    },
}
CAREFUL = {
    "model": "local",
    "description": "Computes, once a person agrees",
    "instructions": "You answer questions about numbers with the calculator: 12 * 3, (3 + 4) * 12. Answer with one "
    "sentence: The result is 36.",
    "tools": [{"tool": "calculator", "approval": True}],
    "first_step": "tool",
    "parallel_tool_calls": False,
    "temperature": 0,
    "stop": ["\n</tool_response>", "\n\n"],
    "limits": {"tool_rounds": 1, "answer_tokens": 60},
}
AGENTS: JsonObject = {"agents": {"careful": CAREFUL}}
BESIDE = "Trains are booked by the office in the second week."
SUM = "What is 12 * 3?"
COLLECTION = "handbook"


@dataclass(frozen=True, slots=True)
class Service:
    """``key`` is an operator's; ``reader`` one of another tenant, whose runs and documents are its own."""

    url: str
    key: str
    reader: str

    def client(self, key: str | None = None) -> httpx2.Client:
        return hearing_client(base_url=self.url, headers=bearer(key or self.key), timeout=120)

    def sum(self, metric: str, **labels: str) -> float:
        """Of the values of a metric with these labels."""
        with self.client() as http:
            values = http.get("/v1/summary").json()["values"].get(metric, [])
        return float(sum(one["value"] for one in values if labels.items() <= one["labels"].items()))


@contextmanager
def console_service(
    folder: Path, gateway: JsonObject = GATEWAY, agents: JsonObject = AGENTS, **more: str
) -> Iterator[Service]:
    """A service whose model is ready, with a document in the collection handbook of both tenants."""
    configured = settings(data_dir=folder / "data", auth="on")
    key, reader = make_keys(configured, ADMIN, {**ADMIN, "name": "reader", "tenant": "readers"})
    for name, content in (("gateway", gateway), ("agents", agents)):
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
        **more,
    }
    with running(folder, **changes) as started:
        service = Service(started.url, key, reader)
        with service.client() as http:
            _wait(lambda: any(one["status"] == "ready" for one in http.get("/ready").json()["models"]))
        for each in (key, reader):
            with service.client(each) as http:
                travel = {"name": "travel.md", "text": f"# Travel\n\n{BESIDE}"}
                job = http.post(f"/rag/collections/{COLLECTION}/documents", json=travel).json()["job"]
                _wait(partial(_ingested, http, job))
        yield service


def _ingested(http: httpx2.Client, job: str) -> bool:
    return bool(http.get(f"/rag/jobs/{job}").json()["status"] == "done")


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


async def converse(page: Page, prompts: Sequence[str], model: str, tokens: int) -> None:
    for number, prompt in enumerate(prompts, 1):
        await ask(page, prompt, model, tokens)
        await page.wait_for(f"document.querySelectorAll('.receipt').length === {number}")


async def compare(page: Page) -> None:
    """Ask a model and the documents, and have the difference of their answers shown."""
    await page.click(f"[value='rag/{COLLECTION}']")
    await page.type_into("#prompt", "Who books the trains?")
    await page.click("#ask")
    words = "[...document.querySelectorAll('.markdown')].map((one) => one.innerText.split(' ').length)"
    await page.wait_for(f"{words}.length === 2 && {words}.every((count) => count > 5)")
    # a small model finds no end
    await page.run("document.querySelector('form .danger')?.click()")
    await page.wait_for("!!document.querySelector('[aria-label=Differences]')")
    await page.click("[aria-expanded=false]")


async def run_agent(page: Page) -> None:
    """Begin a run that waits for an approval."""
    await page.type_into("#task", SUM)
    await page.click("#run")
    await page.wait_for("!!document.querySelector('.waiting-run')")
    await page.wait_for("!!document.querySelector('[aria-label=Runs]')")


async def explain_route(page: Page, model: str) -> None:
    await page.type_into("#route", model)
    await page.click("form button")
    await page.wait_for("!!document.querySelector('#plan')")


async def fill(page: Page, name: str) -> None:
    """Do on a page what puts its contents there: an answer, a comparison, a run that waits, a plan."""
    if name == "start":
        await page.wait_for("!!document.querySelector('.model')")
    if name == "chat":
        await converse(page, ["Write a list of two fruits."], "other", 30)
        await page.run("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    if name == "compare":
        await compare(page)
    if name == "documents":
        await page.type_into("#collection", COLLECTION)
        await page.type_into("#question", "Who books the trains?")
        await page.run("[...document.querySelectorAll('button')].find((one) => one.innerText === 'Search').click()")
        await page.wait_for("!!document.querySelector('[aria-label=Passages]')")
        await page.click("[aria-label^=Read]")
        await page.wait_for("!!document.querySelector('.text')")
    if name == "agents":
        await run_agent(page)
    if name == "keys":
        await page.wait_for("!!document.querySelector('[aria-label=Keys]')")
        await page.click("#new-key")
    if name == "routing":
        await explain_route(page, MODEL)
        await page.type_into("#routing-file", "models: {x: {targets: [{provider: nope}]}}")
        await page.click("#check")
        await page.wait_for("!!document.querySelector('#checked')")
    if name in ("usage", "live"):
        await page.wait_for("!!document.querySelector('figure canvas')")
