"""A real Chromium without a window, driven over its own debugging protocol; it reaches this machine and no other."""

import asyncio
import base64
import json
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from apps.tests.watch import WATCH

BINARY = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_chromium = pytest.mark.skipif(
    BINARY is None, reason="no Chromium is installed (Debian: apt-get install chromium)"
)
OPTIONS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-port=0",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]
SECONDS = 90
SAVED = """(() => { const made = URL.createObjectURL.bind(URL);
  URL.createObjectURL = (blob) => { window.saved = blob.text(); return made(blob); }; })()"""
"""Keeps a promise of the next download's text as `saved` of the window."""


class Page:
    """One tab: runs JavaScript and remembers what was asked of the network."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._number = 0
        self.requested: list[str] = []
        self.failed: list[str] = []
        self.dialogs: list[str] = []
        self.errors: list[str] = []
        self._traced = ""

    async def call(self, method: str, **params: Any) -> Any:
        self._number += 1
        await self._socket.send_json({"id": self._number, "method": method, "params": params})
        while True:
            message = await self._socket.receive_json(timeout=SECONDS)
            if message.get("id") == self._number:
                return message["result"]
            self._note(message)

    def _note(self, message: Any) -> None:
        if message["method"] == "Network.requestWillBeSent":
            self.requested.append(message["params"]["request"]["url"])
        if message["method"] == "Network.loadingFailed":
            self.failed.append(message["params"]["errorText"])
        if message["method"] == "Page.javascriptDialogOpening":
            self.dialogs.append(message["params"]["message"])
        if message["method"] == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(message["params"]["exceptionDetails"]))
        if message["method"] == "Tracing.tracingComplete":
            self._traced = message["params"]["stream"]

    async def run(self, script: str) -> Any:
        """The value of an expression."""
        result = await self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        return result["result"].get("value")

    async def start_trace(self, *categories: str) -> None:
        """Have the browser write down its events of these categories, until `end_trace`."""
        config = {"recordMode": "recordAsMuchAsPossible", "excludedCategories": ["*"]}
        await self.call(
            "Tracing.start", transferMode="ReturnAsStream", traceConfig={**config, "includedCategories": categories}
        )

    async def end_trace(self) -> list[dict[str, Any]]:
        """The events since `start_trace`: each with its name, its process and thread, and `ts` in microseconds."""
        self._traced = ""
        await self.call("Tracing.end")
        while not self._traced:
            self._note(await self._socket.receive_json(timeout=SECONDS))
        parts, ended = [], False
        while not ended:
            part = await self.call("IO.read", handle=self._traced, size=1 << 20)
            parts.append(part["data"])
            ended = part["eof"]
        await self.call("IO.close", handle=self._traced)
        events: list[dict[str, Any]] = json.loads("".join(parts))["traceEvents"]
        return events

    async def wait_for(self, script: str) -> Any:
        """The first truthy value of an expression; fails with the page's text after SECONDS."""
        for _ in range(SECONDS * 10):
            if value := await self.run(script):
                return value
            await asyncio.sleep(0.1)
        raise AssertionError(f"never came: {script}\n{await self.run('document.body.innerText')}")

    async def type_into(self, selector: str, text: str) -> None:
        """Set a field's value as typing would, once the field is there, and wait until the page has taken it in."""
        field = f"document.querySelector({json.dumps(selector)})"
        await self.wait_for(f"!!{field}")
        await self.run(
            f"(() => {{ const field = {field}; field.value = {json.dumps(text)};"
            " field.dispatchEvent(new Event('input', {bubbles: true}));"
            " field.dispatchEvent(new Event('change', {bubbles: true})); })()"
        )
        # what the page draws because of it comes with the next frame
        await self.run("new Promise((seen) => requestAnimationFrame(() => setTimeout(seen, 0)))")

    async def upload(self, selector: str, name: str, content: bytes) -> None:
        """Choose a file, as its input would."""
        encoded = base64.b64encode(content).decode()
        await self.wait_for(f"!!document.querySelector({json.dumps(selector)})")
        await self.run(
            "(() => { const files = new DataTransfer();"
            f" const content = Uint8Array.from(atob({json.dumps(encoded)}), (one) => one.charCodeAt(0));"
            f" files.items.add(new File([content], {json.dumps(name)}));"
            f" const input = document.querySelector({json.dumps(selector)}); input.files = files.files;"
            " input.dispatchEvent(new Event('change', {bubbles: true})); })()"
        )

    async def show_as(self, *, width: int, dark: bool, height: int = 800) -> None:
        """The size of the window and the colours that its owner likes."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.call("Emulation.setEmulatedMedia", features=[scheme])
        await self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500
        )

    async def click(self, selector: str) -> None:
        await self.wait_for(f"!!document.querySelector({json.dumps(selector)})")
        await self.run(f"document.querySelector({json.dumps(selector)}).click()")


class Browser:
    """A Chromium whose tabs know nothing of each other: each has storage of its own."""

    def __init__(self, port: int, pid: int) -> None:
        self._port = port
        self._pid = pid

    def renderer_bytes(self) -> int:
        """Memory that the largest of its renderers shares with no other process (Linux)."""
        own = {self._pid}
        processes = sorted(int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit())
        largest = 0
        for pid in processes:
            # a process may end meanwhile
            with suppress(OSError):
                folder = Path("/proc", str(pid))
                if int((folder / "stat").read_text().rpartition(")")[2].split()[1]) not in own:
                    continue
                own.add(pid)
                if b"--type=renderer" in (folder / "cmdline").read_bytes():
                    rolled = (folder / "smaps_rollup").read_text().splitlines()
                    own_kilobytes = sum(int(line.split()[1]) for line in rolled if line.startswith("Private_"))
                    largest = max(largest, own_kilobytes * 1024)
        return largest

    @asynccontextmanager
    async def tab(self, url: str) -> AsyncIterator[Page]:
        """A tab at ``url``; it is closed, and forgotten, with the block."""
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{self._port}/json/version") as answer:
                address = (await answer.json())["webSocketDebuggerUrl"]
            async with session.ws_connect(address, max_msg_size=0) as whole:
                owner = Page(whole)
                context = (await owner.call("Target.createBrowserContext", disposeOnDetach=True))["browserContextId"]
                made = await owner.call("Target.createTarget", url="about:blank", browserContextId=context)
                place = f"ws://127.0.0.1:{self._port}/devtools/page/{made['targetId']}"
                async with session.ws_connect(place, max_msg_size=0) as socket:
                    page = Page(socket)
                    for domain in ("Network", "Page", "Runtime"):
                        await page.call(f"{domain}.enable")
                    await page.call("Page.navigate", url=url)
                    yield page
                await owner.call("Target.disposeBrowserContext", browserContextId=context)


@contextmanager
def chromium(folder: Path) -> Iterator[Browser]:
    """A browser that keeps its profile in ``folder``; it ends with the block."""
    assert BINARY
    command = [BINARY, *OPTIONS, f"--user-data-dir={WATCH.foreign(folder)}", "about:blank"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield Browser(_debugging_port(folder), process.pid)
    finally:
        process.terminate()
        process.wait(SECONDS)


@asynccontextmanager
async def browsing(url: str, folder: Path) -> AsyncIterator[Page]:
    """A tab at ``url`` in a browser of its own."""
    with chromium(folder) as browser:
        async with browser.tab(url) as page:
            yield page


def _debugging_port(folder: Path) -> int:
    for _ in range(SECONDS * 10):
        written = folder / "DevToolsActivePort"
        if written.exists() and (lines := written.read_text().splitlines()):
            return int(lines[0])
        time.sleep(0.1)
    raise TimeoutError("Chromium did not start")
