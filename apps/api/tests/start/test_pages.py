"""What the pages of docs/ tell people to type is there: commands of genai, targets of make, modules and routes."""

import importlib.util
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.core import TyperGroup

from apps.cli.main import app
from apps.tests.support.processes import ROOT
from apps.tests.support.rag_serving import rag_app

CODE = re.compile(r"```(?:bash|powershell|sh)?\n(.*?)```|`([^`\n]+)`", re.DOTALL)
GENAI = re.compile(r"(?:^|\s)genai ((?:[a-z]+\s?)+)")
MAKE = re.compile(r"(?:^|\s)make ([a-z][a-z-]+)")
MODULE = re.compile(r"python(?:3)? -m ([\w.]+)")
ADDRESS = re.compile(r"localhost:8000(/[\w/{}.-]*)")
PAGES = sorted((ROOT / "docs").glob("*.md"))
# modules that are no part of the repository
OTHERS = frozenset({"pip", "venv", "pytest"})


def told(pattern: re.Pattern[str]) -> Iterator[tuple[str, str]]:
    """Each page with each text in its code that the pattern finds."""
    for page in PAGES:
        for block in CODE.finditer(page.read_text(encoding="utf-8")):
            for found in pattern.finditer(block[1] or block[2]):
                yield page.name, found[1].strip()


@cache
def groups() -> TyperGroup:
    command = typer.main.get_command(app)
    assert isinstance(command, TyperGroup)
    return command


def unknown_word(words: str) -> str | None:
    """The word that stands where a command must, and is none; arguments of a command are anything."""
    command: Any = groups()
    for word in words.split():
        if not isinstance(command, TyperGroup):
            return None
        if word not in command.commands:
            return word
        command = command.commands[word]
    return None


def test_every_command_of_genai_on_a_page_is_one() -> None:
    found = list(told(GENAI))
    assert len(found) >= 10
    assert [(page, words) for page, words in found if unknown_word(words)] == []


def test_every_target_of_make_on_a_page_is_one() -> None:
    targets = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    found = list(told(MAKE))
    assert len(found) >= 10
    assert [(page, target) for page, target in found if target not in targets] == []


def test_every_module_that_a_page_runs_is_there() -> None:
    found = [(page, module) for page, module in told(MODULE) if module not in OTHERS]
    assert len(found) >= 5
    assert [(page, module) for page, module in found if importlib.util.find_spec(module) is None] == []


def test_every_address_of_the_service_on_a_page_is_a_route(tmp_path: Path) -> None:
    page = rag_app(tmp_path)[0].openapi()
    known = [
        re.compile(re.sub(r"\{[^}]+\}", "[^/]+", path))
        for path in [*page["paths"], "/docs", "/redoc", "/", "/v1", "/mcp"]
    ]
    found = [(name, path.rstrip("/") or "/") for name, path in told(ADDRESS)]
    assert len(found) >= 8
    assert [(name, path) for name, path in found if not any(one.fullmatch(path) for one in known)] == []


@pytest.mark.parametrize(("words", "unknown"), [("docs add", None), ("docs shred", "shred"), ("drill now", None)])
def test_a_command_that_is_none_is_seen(words: str, unknown: str | None) -> None:
    assert unknown_word(words) == unknown
