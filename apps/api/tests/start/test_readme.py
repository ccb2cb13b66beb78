"""README.md is short, and no link of a page leads nowhere. That its commands work: test_page_commands.py."""

import json
import re
from pathlib import Path

import pytest

from apps.tests.support.processes import ROOT

BLOCK = re.compile(r"^```bash\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:)([^)#]+)[^)]*\)")


def blocks() -> list[str]:
    return BLOCK.findall((ROOT / "README.md").read_text())


def pages() -> list[Path]:
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_each_link_of_a_page_leads_to_a_file(page: Path) -> None:
    links = LINK.findall(page.read_text())
    assert not [link for link in links if not (page.parent / link).exists()]


def test_each_test_that_the_threat_model_names_is_there() -> None:
    named = set(re.findall(r"`((?:[\w-]+/)*(?:test_\w+\.py|tests))`", (ROOT / "SECURITY.md").read_text()))
    files = [f"/{path.relative_to(ROOT)}" for path in (ROOT / "apps").glob("**/tests/**/*.py")]
    assert len(named) > 40
    assert not [name for name in named if not any(file.endswith(f"/{name}") or f"/{name}/" in file for file in files)]


def test_the_readme_is_short_and_begins_with_the_two_commands() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text.split()) <= 950
    assert blocks()[0] == "make run\n"
    assert blocks()[1].startswith("curl -X POST localhost:8000/local/generate")


def test_the_plots_show_the_figures_of_the_performance_page() -> None:
    page = (ROOT / "docs/performance.md").read_text()
    figures = json.loads((ROOT / "docs/figures.json").read_text())
    for figure in figures.values():
        assert figure["command"].removeprefix("python -m ") in page
        for values in figure["series"].values():
            assert [
                value for value in values if not re.search(rf"(?<![\d.]){re.escape(f'{value:g}')}(?![\d.])", page)
            ] == []
