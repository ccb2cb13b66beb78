"""Pictures of commands in a terminal: tmux runs them, Chromium draws the screen that they leave."""

import asyncio
import base64
import html
import os
import secrets
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from apps.tests.support.browser import browsing

COLUMNS, ROWS = 110, 46
TMUX = shutil.which("tmux") or "tmux"
SESSION = "genai-pictures"
SECONDS = 120
PROMPT = "$ "
PAGE = (
    "<!doctype html><meta charset=utf-8><style>body{margin:0;background:#0f172a}"
    "pre{margin:0;padding:18px 22px;color:#e2e8f0;font:14px/1.35 'DejaVu Sans Mono',monospace}"
    "</style><pre>%s</pre>"
)


class Terminal:
    """A terminal in tmux, on a server of its own: ``with`` opens and ends it."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self._folder = folder
        # a server that ends still holds its name for a moment
        self._server = f"{SESSION}-{secrets.token_hex(4)}"
        self._environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "LANG": "C.UTF-8", **environment}

    def __enter__(self) -> "Terminal":
        shell = f"env PS1={shlex.quote(PROMPT)} bash --norc --noprofile"
        self._tmux("new-session", "-d", "-s", SESSION, "-x", str(COLUMNS), "-y", str(ROWS), shell)
        return self

    def __exit__(self, *raised: object) -> None:
        self._tmux("kill-server")

    def type(self, text: str) -> None:
        self._tmux("send-keys", "-t", SESSION, "-l", text)
        self._tmux("send-keys", "-t", SESSION, "Enter")

    def screen(self) -> str:
        return self._tmux("capture-pane", "-p", "-t", SESSION).rstrip()

    def until(self, end: str) -> str:
        """The screen once its last line ends so. Raises TimeoutError."""
        ends = time.monotonic() + SECONDS
        while time.monotonic() < ends:
            time.sleep(0.5)
            if (screen := self.screen()).endswith(end):
                return screen
        raise TimeoutError(f"the terminal shows\n{self.screen()}")

    def _tmux(self, *words: str) -> str:
        command = [TMUX, "-L", self._server, "-f", "/dev/null", *words]
        done = subprocess.run(  # noqa: S603 - our own words
            command, env=self._environment, cwd=self._folder, capture_output=True, text=True, check=True
        )
        return done.stdout


def screens(folder: Path, genai: str, url: str, key: str) -> dict[str, str]:
    """What `genai --help`, `genai chat` and `genai doctor` show, with a key of the service at ``url``."""
    found = {}
    variables = {
        "GENAI_URL": url,
        "GENAI_API_KEY": key,
        "MODEL_CACHE_DIR": str(folder / "cache"),
        "DATA_DIR": str(folder / "terminal-data"),
    }
    variables |= {"HF_HUB_OFFLINE": "1", "API_PORT": "8001"}
    for name, typed in (
        ("genai-help", ["genai --help"]),
        ("genai-doctor", ["genai doctor"]),
        ("genai-chat", ["genai chat --max-tokens 40", "What is Python?", "/quit"]),
    ):
        with Terminal(folder, {**variables, "PATH": f"{Path(genai).parent}:{os.environ['PATH']}"}) as terminal:
            terminal.until(PROMPT.rstrip())
            for number, text in enumerate(typed):
                terminal.type(text)
                last = number == len(typed) - 1
                time.sleep(1)
                found[name] = terminal.until(PROMPT.rstrip() if last else ">")
    return found


async def photograph(shown: Mapping[str, str], folder: Path, target: Path) -> Sequence[Path]:
    """Draw each screen; returns the files."""
    files = []
    for name, text in shown.items():
        page_file = folder / f"{name}.html"
        page_file.write_text(PAGE % html.escape(text), encoding="utf-8")
        async with browsing(page_file.as_uri(), folder / f"browser-{name}") as page:
            height = 36 + 19 * (text.count("\n") + 1)
            await page.call(
                "Emulation.setDeviceMetricsOverride", width=980, height=height, deviceScaleFactor=1, mobile=False
            )
            await asyncio.sleep(0.5)
            taken = await page.call("Page.captureScreenshot", format="png")
            file = target / f"{name}.png"
            file.write_bytes(base64.b64decode(taken["data"]))
            files.append(file)
    return files


def command_beside(python: str = sys.executable) -> str:
    """The command `genai` of this environment, which `make setup` writes."""
    return str(Path(python).parent / "genai")
