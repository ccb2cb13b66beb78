"""A real Chromium without a window, driven over its own debugging protocol; it reaches this machine and no other."""

import asyncio
import json
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
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
    "--remote-debugging-port=0",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]
SECONDS = 90


class Page:
    """One tab: runs JavaScript and remembers what was asked of the network."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._number = 0
        self.requested: list[str] = []
        self.failed: list[str] = []

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

    async def run(self, script: str) -> Any:
        """The value of an expression."""
        result = await self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        return result["result"].get("value")

    async def wait_for(self, script: str) -> Any:
        """The first truthy value of an expression; fails with the page's text after SECONDS."""
        for _ in range(SECONDS * 10):
            if value := await self.run(script):
                return value
            await asyncio.sleep(0.1)
        raise AssertionError(f"never came: {script}\n{await self.run('document.body.innerText')}")

    async def click(self, selector: str) -> None:
        await self.wait_for(f"!!document.querySelector({json.dumps(selector)})")
        await self.run(f"document.querySelector({json.dumps(selector)}).click()")


@asynccontextmanager
async def browsing(url: str, folder: Path) -> AsyncIterator[Page]:
    """A tab at ``url``; the browser ends with the block."""
    assert BINARY
    command = [BINARY, *OPTIONS, f"--user-data-dir={WATCH.foreign(folder)}", "about:blank"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # noqa: ASYNC220 - once
    try:
        port = await _debugging_port(folder)
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{port}/json") as answer:
                targets = await answer.json()
            address = next(target["webSocketDebuggerUrl"] for target in targets if target["type"] == "page")
            async with session.ws_connect(address, max_msg_size=0) as socket:
                page = Page(socket)
                await page.call("Network.enable")
                await page.call("Page.navigate", url=url)
                yield page
    finally:
        process.terminate()
        process.wait(SECONDS)


async def _debugging_port(folder: Path) -> int:
    for _ in range(SECONDS * 10):
        written = folder / "DevToolsActivePort"
        if written.exists() and (lines := written.read_text().splitlines()):
            return int(lines[0])
        await asyncio.sleep(0.1)
    raise TimeoutError("Chromium did not start")
