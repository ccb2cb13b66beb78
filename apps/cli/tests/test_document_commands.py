"""`genai docs` and `genai agents` against a service: what they print of documents, runs, and what goes wrong."""

import json
import re
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from apps.agents.tools import function_tool
from apps.core.messages import ChatRequest
from apps.models.scripted import ScriptedModel, Step, calling, saying
from apps.tests.support.agent_serving import agent, serving_agents
from apps.tests.support.processes import environment, heard, run_module
from apps.tests.support.rag_serving import serving_documents

OBEYED = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
NOTE = "# Owls \x1b[31m\n\nOwls hunt mice \x9b2J at night.\n"


def genai(folder: Path, url: str, *words: str, text: str = "") -> subprocess.CompletedProcess[str]:
    done = heard(run_module("apps.cli.main", words, folder, environment(0, {"GENAI_URL": url}), text))
    assert not OBEYED.search(done.stdout)
    return done


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    model = ScriptedModel(saying("At night [1]."), name="local")
    with serving_documents(tmp_path_factory.mktemp("documents"), model) as url:
        yield url


@pytest.mark.long
@pytest.mark.local
def test_documents_are_added_listed_searched_asked_and_removed(documents: str, tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "owls.md").write_text(NOTE)
    (tmp_path / "notes" / "tool.exe").write_bytes(b"MZ")
    done = genai(tmp_path, documents, "docs", "add", "notes", "-c", "zoo")
    assert (done.returncode, done.stdout) == (3, "owls.md: done\n")
    assert "tool.exe: skipped" in done.stderr
    assert "zoo" in genai(tmp_path, documents, "docs", "list").stdout
    listed = json.loads(genai(tmp_path, documents, "docs", "list", "-c", "zoo", "--json").stdout)["documents"]
    assert [one["name"] for one in listed] == ["owls.md"]
    found = genai(tmp_path, documents, "docs", "search", "mice at night", "-c", "zoo").stdout
    assert "owls.md" in found and "Owls hunt mice 2J at night." in found
    asked = genai(tmp_path, documents, "docs", "ask", "When do owls hunt mice?", "-c", "zoo", "--model", "local")
    assert asked.stdout.startswith("At night [1].\n[1] owls.md")
    refused = genai(tmp_path, documents, "docs", "rm", "-c", "zoo", text="n\n")
    assert refused.returncode == 1 and "Delete the collection zoo" in refused.stdout
    assert genai(tmp_path, documents, "docs", "rm", "-c", "zoo", listed[0]["id"]).returncode == 0
    assert genai(tmp_path, documents, "docs", "rm", "-c", "zoo", "--yes").returncode == 0
    gone = genai(tmp_path, documents, "docs", "list", "-c", "zoo")
    assert (gone.returncode, gone.stderr) == (1, "No such collection\n")


@pytest.mark.local
def test_a_file_that_cannot_be_read_is_a_failure_with_its_reason(documents: str, tmp_path: Path) -> None:
    (tmp_path / "bad.pdf").write_bytes(b"%PDF-1.7\n%%EOF")
    done = genai(tmp_path, documents, "docs", "add", "bad.pdf", "-c", "bad")
    assert done.returncode == 1 and done.stdout.startswith("bad.pdf: failed (The file cannot be read.")


@pytest.mark.long
def test_an_agent_is_listed_run_shown_and_waits_for_its_approval(tmp_path: Path) -> None:
    async def pay(amount: int) -> str:
        """Pay an amount."""
        return f"paid {amount} \x9b2J"

    def script(request: ChatRequest) -> Sequence[Step]:
        returned = request.messages[-1].role == "tool"
        return (saying("Done.") if returned else calling(("pay", {"amount": 7})))(request)

    model = ScriptedModel(script, name="local")
    with serving_agents({"clerk": agent("pay", approval=["pay"])}, model, function_tool(pay)) as url:
        assert "clerk" in genai(tmp_path, url, "agents", "list").stdout
        begun = genai(tmp_path, url, "agents", "run", "clerk", "Pay", "7")
        assert begun.returncode == 0 and '"amount": 7' in begun.stdout
        run = begun.stdout.partition("genai agents approve ")[2].split()[0]
        assert "Done." in genai(tmp_path, url, "agents", "approve", run).stdout
        assert "paid 7 2J" in genai(tmp_path, url, "agents", "show", run).stdout
        waits = genai(tmp_path, url, "agents", "run", "clerk", text="Pay 7")
        run = waits.stdout.partition("genai agents approve ")[2].split()[0]
        assert "Done." in genai(tmp_path, url, "agents", "deny", run, "--reason", "Too much").stdout
        assert genai(tmp_path, url, "agents", "run", "clerk").stderr == "There is no prompt\n"
        assert json.loads(genai(tmp_path, url, "agents", "list", "--json").stdout)["agents"][0]["name"] == "clerk"
