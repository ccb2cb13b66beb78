"""README.md and the pages of docs/ as a reader follows them: their blocks of code, run in order in one shell.

A comment in a page's source, on the line above a block, says what is peculiar to it:

- ``<!-- not run: REASON -->``: it cannot run here (PowerShell, Docker, a key, an installation).
- ``<!-- needs: MODULE -->``: it runs where this Python module is installed.
- ``<!-- keeps running -->``: it starts the service and stays in the foreground: the next block is another terminal's.
- ``<!-- stops it -->``: it starts the service anew, in the terminal of the one that runs.

A block without a language, or of ``json``, that follows one that ran is what it prints; ``...`` stands for anything.
"""

import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from apps.core.settings import Settings
from apps.tests.support.ports import free_port
from apps.tests.support.processes import ROOT

BLOCK = re.compile(
    r"(?:^[ ]*<!-- (?P<note>[^\n]*?) -->\n+)?^(?P<indent>[ ]*)```(?P<language>\w*)\n(?P<text>.*?)^[ ]*```$",
    re.MULTILINE | re.DOTALL,
)
SHELLS = ("bash", "sh")
RUN = (*SHELLS, "python", "powershell", "console")
PRINTED = ("", "json")
NOT_RUN, NEEDS, KEEPS_RUNNING, STOPS_IT = "not run: ", "needs: ", "keeps running", "stops it"
ANYTHING = re.compile(r"\.\.\.")
PAGE_SECONDS = 600
# what the shell calls around the blocks: wait until the service answers, and end the one that runs
PRELUDE = """
set -emo pipefail
until_ready() {
  for _ in $(seq 2400); do
    curl -so /dev/null --max-time 5 localhost:$API_PORT/ready -w '%{http_code}' 2>/dev/null | grep -q 200 && return 0
    kill -0 $SERVICE 2>/dev/null || { echo 'the service has ended'; cat service.log; return 1; }
    sleep 0.1
  done
  echo 'the service is not ready'; cat service.log; return 1
}
# a job has a process group of its own
stop() {
  kill -- -$SERVICE; wait $SERVICE || true
  # make ends before the service does
  while curl -so /dev/null --max-time 5 localhost:$API_PORT/health; do sleep 0.1; done
}
"""


@dataclass(frozen=True, slots=True)
class Block:
    """Code of a page. ``prints`` is what the page says that it prints; ``note`` the comment above it."""

    page: str
    line: int
    language: str
    text: str
    note: str = ""
    prints: str | None = None

    @property
    def why_not(self) -> str | None:
        """Why it does not run here; None where it does."""
        if self.note.startswith(NOT_RUN):
            return self.note.removeprefix(NOT_RUN)
        module = self.note.removeprefix(NEEDS) if self.note.startswith(NEEDS) else ""
        if module and importlib.util.find_spec(module) is None:
            return f"{module} is not installed"
        return None


def pages() -> list[Path]:
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path) -> list[Block]:
    """The blocks that a reader would run, each with what it prints where the next block says so."""
    text = page.read_text(encoding="utf-8")
    found: list[Block] = []
    last_end = 0
    for match in BLOCK.finditer(text):
        code = re.sub(f"^{match['indent']}", "", match["text"], flags=re.MULTILINE)
        between = text[last_end : match.start()]
        if match["language"] in PRINTED and found and not between.strip() and found[-1].prints is None:
            one = found[-1]
            found[-1] = Block(one.page, one.line, one.language, one.text, one.note, code)
        elif match["language"] in RUN:
            line = text.count("\n", 0, match.start("language")) + 1
            found.append(Block(page.name, line, match["language"], code, match["note"] or ""))
        last_end = match.end()
    return found


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a block did: nothing where it did not run, and why."""

    block: Block
    output: str = ""
    why_not: str | None = None


class PageFailed(AssertionError):
    """A block ended with an error, or printed something else than the page says."""


def run_page(page: Path, folder: Path) -> list[Outcome]:
    """Run the blocks of a page in order in one shell, in a checkout of its own. Raises PageFailed.

    The service listens on a free port, for which the page's 8000 stands; its data are in ``folder``.
    """
    found = blocks(page)
    runnable = [block for block in found if block.why_not is None]
    if not runnable:
        return [Outcome(block, why_not=block.why_not) for block in found]
    port = free_port()
    checkout(folder)
    # an error's status is a failure of the command, and its body is shown
    (folder / ".curlrc").write_text("fail-with-body\nshow-error\n", encoding="utf-8")
    script = folder / "page.sh"
    script.write_text(PRELUDE + "".join(_lines(runnable, folder, port)), encoding="utf-8")
    with (folder / "shell.log").open("wb") as log:
        shell = subprocess.Popen(
            ["bash", str(script)], cwd=folder, env=_environment(folder, port), stdout=log, stderr=log,
            stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        try:
            code = shell.wait(PAGE_SECONDS)
        finally:
            # the service that a page leaves running ends with its shell
            _end_session(shell.pid)
            shell.wait()
    outputs = {block: folder / f"block-{number}.out" for number, block in enumerate(runnable)}
    if code:
        begun = [block for block, output in outputs.items() if output.exists()]
        where = f"{page.name}:{begun[-1].line}" if begun else page.name
        printed = outputs[begun[-1]].read_text("utf-8", "replace") if begun else ""
        errors = outputs[begun[-1]].with_suffix(".err").name if begun else "shell.log"
        logs = "\n".join(_tail(folder / name) for name in (errors, "shell.log", "service.log"))
        raise PageFailed(f"{where} ended with {code}:\n{begun[-1].text if begun else ''}\n{printed}\n{logs}")
    done = [Outcome(block, outputs[block].read_text("utf-8")) for block in runnable]
    for outcome in done:
        compare(outcome, port)
    return [*done, *(Outcome(block, why_not=block.why_not) for block in found if block.why_not is not None)]


def _end_session(session: int) -> None:
    listed = subprocess.run(["ps", "-Ao", "pid="], capture_output=True, text=True, check=True).stdout
    for pid in map(int, listed.split()):
        with suppress(ProcessLookupError):
            if os.getsid(pid) == session:
                os.kill(pid, signal.SIGKILL)


def checkout(folder: Path) -> None:
    """The repository as a clone has it after `make setup`: its files as links, this Python's packages in `.venv`."""
    for path in ROOT.iterdir():
        if not path.name.startswith(".") or path.name == ".env.example":
            (folder / path.name).symlink_to(path)
    venv = folder / ".venv"
    (venv / "bin").mkdir(parents=True)
    for path in Path(sys.prefix).iterdir():
        if path.is_dir() and path.name != "bin":
            (venv / path.name).symlink_to(path)
    shutil.copy(Path(sys.prefix) / "pyvenv.cfg", venv)
    for path in (Path(sys.prefix) / "bin").iterdir():
        (venv / "bin" / path.name).symlink_to(path)
    command = venv / "bin" / "genai"
    command.unlink(missing_ok=True)
    subprocess.run([str(venv / "bin" / "python"), "infra/install.py", "--command-only"], cwd=folder, check=True)
    (venv / ".setup").touch()
    (venv / ".dev").touch()


def _environment(folder: Path, port: int) -> dict[str, str]:
    return {
        "PATH": f"{folder / '.venv' / 'bin'}:{os.environ['PATH']}",
        "HOME": str(folder),
        "LANG": "C.UTF-8",
        "API_HOST": "127.0.0.1",
        "API_PORT": str(port),
        "GENAI_URL": f"http://localhost:{port}",
        "MODEL_CACHE_DIR": str(Settings(_env_file=None).model_cache_dir.expanduser().resolve()),
        "DATA_DIR": str(folder / "data"),
        # an answer that it cannot be reached would take seconds each time
        "HF_HUB_OFFLINE": "1",
        # a busy machine is no fault of the page's
        "DATABASE_TIMEOUT": "60",
        "PYTHONPATH": str(ROOT),
    }


def _lines(runnable: list[Block], folder: Path, port: int) -> Iterator[str]:
    """The shell's script: the blocks one after another, each with its output in a file of its own."""
    if not any(block.note == KEEPS_RUNNING for block in runnable):
        yield "{ make run; } >service.log 2>&1 &\nSERVICE=$!\nuntil_ready\n"
    for number, block in enumerate(runnable):
        text = block.text.replace("localhost:8000", f"localhost:{port}")
        if block.language == "python":
            file = folder / f"block-{number}.py"
            file.write_text(text, encoding="utf-8")
            text = f"python {file.name}\n"
        if block.note in (KEEPS_RUNNING, STOPS_IT):
            if block.note == STOPS_IT:
                yield "stop\n"
            yield f"touch block-{number}.out\n{{ {text}}} >service.log 2>&1 &\nSERVICE=$!\nuntil_ready\n"
        else:
            # no `||` behind it: that would let all commands but the last one fail
            yield f"{{\n{text}}} >block-{number}.out 2>block-{number}.err\n"


def compare(outcome: Outcome, port: int) -> None:
    """Raise PageFailed where a block printed something else than its page says."""
    wanted = outcome.block.prints
    if wanted is None:
        return
    pattern = ".*".join(re.escape(part) for part in ANYTHING.split(wanted.strip()))
    printed = outcome.output.strip().replace(f"localhost:{port}", "localhost:8000")
    if re.fullmatch(pattern, printed, re.DOTALL) is None:
        where = f"{outcome.block.page}:{outcome.block.line}"
        raise PageFailed(f"{where} prints\n{printed}\nand the page says\n{wanted.strip()}")


def _tail(file: Path) -> str:
    return f"{file.name}:\n" + (file.read_text("utf-8", "replace")[-3000:] if file.exists() else "(none)")
