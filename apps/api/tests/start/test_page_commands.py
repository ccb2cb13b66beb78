"""README.md and each page of docs/ can be followed to the letter: their commands run, and print what the page says."""

import json
from pathlib import Path

import pytest

from apps.tests.support.pages import (
    KEEPS_RUNNING,
    NEEDS,
    NOT_RUN,
    STOPS_IT,
    Block,
    Outcome,
    PageFailed,
    blocks,
    compare,
    pages,
    run_page,
)

PAGES = pages()
LEAST_RUN = 27


def runs(block: Block) -> bool:
    return block.why_not is None


@pytest.mark.long
@pytest.mark.local
@pytest.mark.parametrize(
    "page", [page for page in PAGES if any(map(runs, blocks(page)))], ids=lambda page: str(page.name)
)
def test_a_page_can_be_followed_in_one_shell(page: Path, tmp_path: Path) -> None:
    outcomes = run_page(page, tmp_path)
    if page.name == "README.md":
        _check_readme([outcome.output for outcome in outcomes if outcome.output])
    skipped = [outcome for outcome in outcomes if outcome.why_not]
    print(f"{page.name}: {len(outcomes) - len(skipped)} blocks run")
    for outcome in skipped:
        print(f"{page.name}:{outcome.block.line} not run: {outcome.why_not}")


def _check_readme(printed: list[str]) -> None:
    first, streamed, documents, cited, agent, client, command = printed
    assert json.loads(first)["response"].startswith("Python is")
    assert streamed.rstrip().splitlines()[-2] == "event: done"
    assert "handbook.md: done" in documents
    assert "Everybody has 30 days of leave in a calendar year. [1]" in documents
    assert "may be worked from home" not in documents and "end of March" not in documents
    assert "[1] handbook.md  Handbook > Leave" in documents
    assert json.loads(cited)["citations"][0]["name"] == "handbook.md"
    assert json.loads(agent)["status"] == "done"
    assert "7006652" in json.loads(agent)["answer"].replace(",", "")
    assert client == "SmolLM2-135M-Instruct\n"
    assert command.startswith("Python is") and "SmolLM2-135M-Instruct" in command


def test_each_block_runs_or_says_why_not() -> None:
    found = [block for page in PAGES for block in blocks(page)]
    known = (NOT_RUN, NEEDS, KEEPS_RUNNING, STOPS_IT)
    strange = [(block.page, block.line, block.note) for block in found if not block.note.startswith(known)]
    assert [where for where in strange if where[2]] == []
    assert [block for block in found if block.language == "powershell" and runs(block)] == []
    assert all(len(block.why_not) > 5 for block in found if block.why_not)
    run = [block for block in found if runs(block)]
    print(f"{len(run)} of {len(found)} blocks run")
    assert len(run) >= LEAST_RUN


def block(text: str, tmp_path: Path) -> list[Block]:
    page = tmp_path / "page.md"
    page.write_text(text, encoding="utf-8")
    return blocks(page)


def test_a_block_has_its_note_and_what_it_prints(tmp_path: Path) -> None:
    text = "a\n\n<!-- not run: no engine -->\n```bash\ndocker\n```\n\n```bash\necho a b\n```\n\n"
    text += "```\na ...\n```\n\n```json\n{}\n```\n"
    first, second = block(text, tmp_path)
    assert (first.note, first.why_not, first.line, first.prints) == ("not run: no engine", "no engine", 4, None)
    assert (second.text, second.why_not, second.prints) == ("echo a b\n", None, "a ...\n")


def test_a_block_in_a_list_is_read_without_its_indent(tmp_path: Path) -> None:
    [one] = block("- a\n\n  ```bash\n  echo a\n    b\n  ```\n", tmp_path)
    assert one.text == "echo a\n  b\n"


def test_a_module_that_is_missing_is_named(tmp_path: Path) -> None:
    [one] = block("<!-- needs: no_such_module -->\n```python\nimport no_such_module\n```\n", tmp_path)
    assert one.why_not == "no_such_module is not installed"


@pytest.mark.parametrize(
    ("printed", "fits"), [("a b", True), ("a", False), ("a \n b", True), ("b a b", False), ("a b\n", True)]
)
def test_what_a_block_prints_is_compared(printed: str, fits: bool) -> None:
    one = Outcome(Block("page.md", 1, "bash", "echo", prints="a ...\n"), printed)
    if fits:
        return compare(one, 8000)
    with pytest.raises(PageFailed):
        compare(one, 8000)
