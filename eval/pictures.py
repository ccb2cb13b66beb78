"""Pictures of the console, /docs, README.md and `genai` in a terminal, and the plots: `make pictures [PAGE...]`.

They are in reports/pictures; the plots in docs/pictures, where README.md shows them. A service of its own with the
packaged model answers questions, takes documents in and runs an agent; then each page is photographed in Chromium, on a
desk and on a phone, by day and by night; with `--whole` in its whole length. Some minutes on two cores.
"""

import argparse
import asyncio
import base64
import sys
import tempfile
from pathlib import Path

import httpx2
from markdown_it import MarkdownIt

from apps.tests.support import made_files
from apps.tests.support.browser import BINARY, Page, browsing, chromium
from apps.tests.support.console import (
    AGENTS,
    COLLECTION,
    MODEL,
    PAGES,
    SUM,
    Service,
    console_service,
    converse,
    explain_route,
    fill,
    signed_in,
)
from apps.tests.support.processes import ROOT
from apps.tests.support.waiting import until
from eval.plots import draw
from eval.terminal_pictures import command_beside, photograph, screens

FOLDER = Path("reports/pictures")
OTHERS = ("docs", "plots", "readme", "terminal")
SIZES = {"desktop": (1280, 860), "phone": (360, 780)}
SCHEMES = ("light", "dark")
MOST_HEIGHT = 4000
PRICE = {"input": 0.15, "output": 0.6}
GATEWAY = {
    "providers": {
        "local": {"kind": "local"},
        "rag": {"kind": "rag"},
        "agent": {"kind": "agent"},
        "embedder": {"kind": "embedder"},
        # nothing listens there: the breaker opens, and the next target answers
        "vllm": {"base_url": "http://127.0.0.1:9/v1"},
    },
    "models": {
        MODEL: {"targets": [{"provider": "local", "model": MODEL, "price": PRICE}]},
        "assistant": {
            "targets": [
                {"provider": "vllm", "model": "llama-3.1-8b", "price": {"input": 0.05, "output": 0.08}},
                {"provider": "local", "model": MODEL, "price": PRICE},
            ]
        },
    },
}
KEYS = (
    {"name": "website", "models": ["small"], "routes": ["/v1/*"], "rpm": 60, "tpm": 20000, "budget_usd": "5/month"},
    {"name": "Anna's laptop", "budget_usd": "0.0005/day", "expires": "90d"},
    {"name": "evaluation", "models": ["assistant", "small"], "ip": ["10.0.0.0/8"]},
)
QUESTIONS = ("What is Python?", "Explain a hash table in three sentences.", "Why is the sky blue?")
CONVERSATION = ("Name three rivers of Europe as a list.", "What is Python?")
PAGES_OF_PDF = ("Trains are booked by the office.", "Every employee has thirty days of leave a year.")
README_PAGE = (
    "<!doctype html><meta charset=utf-8><base href='%s/'><style>body{font:16px/1.5 sans-serif;max-width:880px;"
    "margin:32px auto;color:#1f2328}pre,code{background:#f6f8fa;font:13px monospace}pre{padding:12px;overflow:auto}"
    "table{border-collapse:collapse}td,th{border:1px solid #d0d7de;padding:4px 12px}img{max-width:100%%}</style>%s"
)
SETTLED_SECONDS = 1.5
"""Fonts, plots and the first answers of the API are there by then."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--whole", action="store_true", help="the whole length of the console's pages")
    parser.add_argument("pages", nargs="*", metavar="PAGE", help=f"of {', '.join((*PAGES, *OTHERS))}; all")
    chosen = parser.parse_args()
    if BINARY is None:
        print("No Chromium is installed (Debian: apt-get install chromium)", file=sys.stderr)
        return 1
    wanted = chosen.pages or [*PAGES, *OTHERS]
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        with console_service(folder, GATEWAY, AGENTS, RATE_LIMIT_ENABLED="false") as service:
            _prepare(service)
            asyncio.run(_photograph(service, folder / "browser", wanted, whole=chosen.whole))
            if "terminal" in wanted:
                shown = screens(folder, command_beside(), service.url, service.key)
                asyncio.run(photograph(shown, folder, FOLDER))
        if "plots" in wanted:
            draw()
        if "readme" in wanted:
            asyncio.run(_photograph_readme(folder))
    print("\n".join(f"{path} {path.stat().st_size >> 10} kB" for path in sorted(FOLDER.glob("*.png"))))
    return 0


def _prepare(service: Service) -> None:
    """Make keys, calls, a run and a document: what pages have to show after a day's use."""
    with service.client() as http:
        for terms in KEYS:
            key = http.post("/admin/keys", json=terms).raise_for_status().json()["key"]
            with service.client(key) as guest:
                _call(guest, MODEL, QUESTIONS[0])
        for question in QUESTIONS * 4:
            _call(http, "assistant", question)
        http.post("/generate", json={"prompt": "x" * 5000})
        for prompt, decision in ((SUM, "approve"), ("What is 2 + 2?", "deny?reason=no+need")):
            run = http.post("/agents/careful/run", json={"prompt": prompt}).json()["run"]
            http.post(f"/agents/runs/{run}/{decision}")
        files = [("files", ("leave.pdf", made_files.pdf(PAGES_OF_PDF), "application/pdf"))]
        job = http.post(f"/rag/collections/{COLLECTION}/documents", files=files).json()["job"]
        if not until(lambda: http.get(f"/rag/jobs/{job}").json()["status"] == "done"):
            raise TimeoutError(f"the job {job} does not end")


def _call(http: httpx2.Client, model: str, question: str) -> None:
    messages = [{"role": "user", "content": question}]
    http.post("/v1/chat/completions", json={"model": model, "messages": messages, "max_tokens": 20})


async def _photograph(service: Service, folder: Path, wanted: list[str], *, whole: bool) -> None:
    with chromium(folder) as browser:
        for name in (one for one in wanted if one in PAGES):
            async with signed_in(browser, service, name) as page:
                await _fill(page, name)
                for size, (width, height) in SIZES.items():
                    for scheme in SCHEMES:
                        await page.show_as(width=width, height=height, dark=scheme == "dark")
                        await _shot(page, FOLDER / f"{name}-{size}-{scheme}.png", width, whole=whole)
        if "docs" in wanted:
            async with browser.tab(f"{service.url}/docs") as page:
                await page.wait_for("!!document.querySelector('.opblock')")
                for size, (width, height) in SIZES.items():
                    await page.show_as(width=width, height=height, dark=False)
                    await _shot(page, FOLDER / f"docs-{size}-light.png", width, whole=False)


async def _fill(page: Page, name: str) -> None:
    """As the tests do, but for what makes a better picture."""
    if name == "chat":
        await converse(page, CONVERSATION, "assistant", 80)
    elif name == "documents":
        await page.type_into("#collection", COLLECTION)
        await page.type_into("#question", "How many days of leave does every employee have?")
        await page.click("#question-form button")
        await page.click(".citation")
        await page.wait_for("!!document.querySelector('#cited')")
    elif name == "routing":
        await explain_route(page, "assistant")
    else:
        await fill(page, name)
    if name == "live":
        await asyncio.sleep(10)


async def _photograph_readme(folder: Path) -> None:
    """README.md as GitHub renders it, nearly: Mermaid's diagrams stay text."""
    rendered = MarkdownIt("commonmark").enable("table").render((ROOT / "README.md").read_text(encoding="utf-8"))
    file = folder / "readme.html"
    file.write_text(README_PAGE % (ROOT.as_uri(), rendered), encoding="utf-8")
    async with browsing(file.as_uri(), folder / "browser-readme") as page:
        await page.call("Page.enable")
        await page.call("Emulation.setDeviceMetricsOverride", width=980, height=800, deviceScaleFactor=1, mobile=False)
        height = await page.run("document.documentElement.scrollHeight")
        clip = {"x": 0, "y": 0, "width": 980, "height": height, "scale": 1}
        await asyncio.sleep(SETTLED_SECONDS)
        taken = await page.call("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
        await asyncio.to_thread((FOLDER / "readme.png").write_bytes, base64.b64decode(taken["data"]))


async def _shot(page: Page, path: Path, width: int, *, whole: bool) -> None:
    await asyncio.sleep(SETTLED_SECONDS)
    if whole:
        # in a window of that height, since what is not seen is not drawn, and what sticks stays where it belongs
        height = min(MOST_HEIGHT, await page.run("document.documentElement.scrollHeight"))
        await page.show_as(width=width, height=height, dark=path.stem.endswith("dark"))
        await asyncio.sleep(SETTLED_SECONDS)
    taken = await page.call("Page.captureScreenshot", format="png")
    await asyncio.to_thread(path.write_bytes, base64.b64decode(taken["data"]))


if __name__ == "__main__":
    sys.exit(main())
