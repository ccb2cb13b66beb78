"""Pictures of the console, /docs, README.md and `genai` in a terminal, and the plots: `make pictures [PAGE...]`.

They are in reports/pictures; the plots in docs/pictures, where README.md shows them. A service of its own with the
packaged model answers a question and takes a document in; then each page is photographed in Chromium, on a desk and on
a phone, by day and by night. Some minutes on two cores.
"""

import asyncio
import base64
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import httpx2
from markdown_it import MarkdownIt

from apps.tests.support.browser import BINARY, Page, browsing
from apps.tests.support.processes import ROOT, running
from eval.plots import draw
from eval.terminal_pictures import command_beside, photograph, screens

FOLDER = Path("reports/pictures")
PAGES = ("start", "chat", "compare", "documents", "agents", "usage", "keys", "routing", "live")
OTHERS = ("docs", "plots", "readme", "terminal")
SIZES = {"desktop": (1280, 800), "phone": (390, 844)}
SCHEMES = ("light", "dark")
QUESTION = "What is Python?"
COLLECTION = "handbook"
READY_SECONDS = 300
README_PAGE = (
    "<!doctype html><meta charset=utf-8><base href='%s/'><style>body{font:16px/1.5 sans-serif;max-width:880px;"
    "margin:32px auto;color:#1f2328}pre,code{background:#f6f8fa;font:13px monospace}pre{padding:12px;overflow:auto}"
    "table{border-collapse:collapse}td,th{border:1px solid #d0d7de;padding:4px 12px}img{max-width:100%%}</style>%s"
)
SETTLED_SECONDS = 1.5
"""Fonts, plots and the first answers of the API are there by then."""


def main() -> int:
    if BINARY is None:
        print("No Chromium is installed (Debian: apt-get install chromium)", file=sys.stderr)
        return 1
    wanted = sys.argv[1:] or [*PAGES, *OTHERS]
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, running(Path(folder), **_settings()) as service:
        _prepare(service.url)
        pages = [name for name in wanted if name in (*PAGES, "docs")]
        asyncio.run(_photograph(service.url, Path(folder) / "browser", pages))
        if "plots" in wanted:
            draw()
        if "readme" in wanted:
            asyncio.run(_photograph_readme(Path(folder)))
        if "terminal" in wanted:
            shown = screens(Path(folder), command_beside(), service.url)
            asyncio.run(photograph(shown, Path(folder), FOLDER))
    print("\n".join(f"{path} {path.stat().st_size >> 10} kB" for path in sorted(FOLDER.glob("*.png"))))
    return 0


def _settings() -> dict[str, str]:
    return {
        "AUTH": "off",
        "LOCAL_MODEL": "TinyLlama/TinyLlama-1.1B-Chat-v1.0",
        "LOCAL_FALLBACK": "packaged",
        "MODEL_CACHE_DIR": str(ROOT / ".cache" / "models"),
        "AGENTS_CONFIG": str(ROOT / "infra/agents.example.yaml"),
        "RATE_LIMIT_ENABLED": "false",
    }


def _prepare(url: str) -> None:
    """Wait for the model and take the sample document in."""
    with httpx2.Client(base_url=url, trust_env=False, timeout=READY_SECONDS) as http:
        _until(lambda: http.get("/ready").json()["models"][1]["status"] == "ready")
        sample = {"name": "handbook.md", "text": (ROOT / "eval/samples/handbook.md").read_text(encoding="utf-8")}
        job = http.post(f"/rag/collections/{COLLECTION}/documents", json=sample).json()["job"]
        _until(lambda: http.get(f"/rag/jobs/{job}").json()["status"] == "done")
        http.post("/agents/calculator/run", json={"prompt": "What is 1234 * 5678?"})


def _until(true: Callable[[], bool]) -> None:
    ends = time.monotonic() + READY_SECONDS
    while not true():
        if time.monotonic() > ends:
            raise TimeoutError
        time.sleep(0.5)


async def _photograph(url: str, folder: Path, wanted: list[str]) -> None:
    async with browsing(f"{url}/#/chat", folder) as page:
        await page.call("Page.enable")
        for name in wanted:
            await _opened(page, url, name)
            for size, (width, height) in SIZES.items():
                for scheme in SCHEMES if name != "docs" else SCHEMES[:1]:
                    await _shot(page, FOLDER / f"{name}-{size}-{scheme}.png", (width, height), scheme)


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


async def _opened(page: Page, url: str, name: str) -> None:
    if name == "docs":
        await page.call("Page.navigate", url=f"{url}/docs")
        await page.wait_for("!!document.querySelector('.opblock')")
        return
    await page.run(f"location.hash = '#/{name}'")
    await page.wait_for("!!document.querySelector('h1')")
    if name == "chat":
        await _asked(page)
    if name == "documents":
        await _typed(page, "input[list=collections]", COLLECTION, "change")
        await _typed(page, "#question", "How many days of leave are there?", "input")
        await page.click("form button")
        await page.wait_for("document.body.innerText.includes('30 days')")


async def _asked(page: Page) -> None:
    await page.wait_for("!!document.querySelector('#send:enabled')")
    await _typed(page, "#message", QUESTION, "input")
    await page.click("#send")
    await page.wait_for("(document.querySelector('.receipt') || {}).innerText")


async def _typed(page: Page, selector: str, text: str, event: str) -> None:
    chosen = f"document.querySelector({json.dumps(selector)})"
    await page.wait_for(f"!!{chosen}")
    await page.run(
        f"(() => {{ {chosen}.value = {json.dumps(text)};"
        f" {chosen}.dispatchEvent(new Event({json.dumps(event)}, {{bubbles: true}})); }})()"
    )


async def _shot(page: Page, path: Path, size: tuple[int, int], scheme: str) -> None:
    width, height = size
    scheme_feature = {"name": "prefers-color-scheme", "value": scheme}
    await page.call("Emulation.setEmulatedMedia", features=[scheme_feature])
    await page.call(
        "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500
    )
    await asyncio.sleep(SETTLED_SECONDS)
    taken = await page.call("Page.captureScreenshot", format="png")
    await asyncio.to_thread(path.write_bytes, base64.b64decode(taken["data"]))


if __name__ == "__main__":
    sys.exit(main())
