"""Every command of README.md as it stands, in order, against the service that its first command starts."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import httpx2
import pytest

from apps.tests.support.processes import ROOT, environment, running

BLOCK = re.compile(r"^```bash\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:)([^)#]+)[^)]*\)")
SECONDS = 300


def blocks() -> list[str]:
    return BLOCK.findall((ROOT / "README.md").read_text())


def pages() -> list[Path]:
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_each_link_of_a_page_leads_to_a_file(page: Path) -> None:
    links = LINK.findall(page.read_text())
    assert not [link for link in links if not (page.parent / link).exists()]


def test_the_readme_is_short_and_begins_with_the_two_commands() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text.split()) <= 950
    assert blocks()[0] == "make run\n"
    assert blocks()[1].startswith("curl -X POST localhost:8000/local/generate")


@pytest.mark.local
@pytest.mark.long
def test_the_commands_of_the_readme_work_in_their_order(tmp_path: Path) -> None:
    started = {
        "LOCAL_MODEL": "TinyLlama/TinyLlama-1.1B-Chat-v1.0",
        "LOCAL_FALLBACK": "packaged",
        "MODEL_CACHE_DIR": str(ROOT / ".cache" / "models"),
        "AGENTS_CONFIG": str(ROOT / "infra/agents.example.yaml"),
    }
    with running(tmp_path, **started) as service:
        ready = {"local": ""}
        while ready["local"] != "ready":
            models = httpx2.get(f"{service.url}/ready", timeout=90).json()["models"]
            ready = {model["route"].split("/")[1]: model["status"] for model in models}
            assert ready["local"] in ("loading", "ready"), models
            time.sleep(0.2)
        printed: list[str] = []
        for block in blocks():
            if "make run" in block:
                continue
            script = block.replace("localhost:8000", service.url.removeprefix("http://"))
            script = script.replace(".venv/bin/python", sys.executable)
            done = subprocess.run(
                ["bash", "-euc", script],
                cwd=ROOT,
                env=environment(0, {"GENAI_URL": service.url, "AGENTS_CONFIG": ""}),
                capture_output=True,
                text=True,
                timeout=SECONDS,
                check=False,
            )
            assert done.returncode == 0, (block, done.stderr, done.stdout)
            printed.append(done.stdout)
    first, streamed, documents, cited, agent = printed
    assert json.loads(first)["response"]
    assert streamed.rstrip().splitlines()[-2] == "event: done"
    assert "handbook.md: done" in documents
    assert "Everybody has 30 days of leave in a calendar year. [1]" in documents
    assert "may be worked from home" not in documents and "end of March" not in documents
    assert "[1] handbook.md  Handbook > Leave" in documents
    assert json.loads(cited)["citations"][0]["name"] == "handbook.md"
    assert json.loads(agent)["status"] == "done"
    assert "7006652" in json.loads(agent)["answer"].replace(",", "")
