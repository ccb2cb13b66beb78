"""`genai` on a terminal: texts are broken between words, and reach a pipe as they are."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from apps.cli.remote import Wrap
from apps.models.scripted import ScriptedModel, saying
from apps.tests.support.processes import environment
from apps.tests.support.serving import serving_models
from apps.tests.support.waiting import HANG_SECONDS
from apps.tests.watch import WATCH

COLUMNS = 40
ANSWER = (
    "Python is a programming language that is read as easily as it is written.\n\n"
    "```python\nprint('a line of code that is longer than the terminal is wide')\n```\n"
    "- See https://docs.python.org/3/tutorial/ for more."
)
ON_SCREEN = [
    "Python is a programming language that is",
    "read as easily as it is written.",
    "",
    "```python",
    # the terminal breaks this line itself
    "print('a line of code that is longer than the terminal is wide')",
    "```",
    "- See",
    "https://docs.python.org/3/tutorial/ for",
    "more.",
]
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A service whose local model says ANSWER in pieces of three characters."""
    pieces = [ANSWER[at : at + 3] for at in range(0, len(ANSWER), 3)]
    with serving_models(local=ScriptedModel(saying(*pieces), name="scripted")) as address:
        yield address


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pseudoterminals of POSIX")
@pytest.mark.parametrize("words", [["chat"], ["What is Python?"]], ids=["chat", "prompt"])
def test_an_answer_is_broken_between_words(words: list[str], url: str, tmp_path: Path) -> None:
    shown = on_terminal(tmp_path, words, "hello\n/quit\n" if words == ["chat"] else "", url)
    begin = shown.index(ON_SCREEN[0])
    assert shown[begin : begin + len(ON_SCREEN)] == ON_SCREEN


@pytest.mark.parametrize("size", [1, 2, 3, 1000])
def test_pieces_of_any_size_are_broken_alike(size: int) -> None:
    wrap = Wrap(COLUMNS)
    pieces = [wrap.take(ANSWER[at : at + size]) for at in range(0, len(ANSWER), size)]
    assert "".join([*pieces, wrap.end()]).split("\n") == ON_SCREEN


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("你好世界你好", "你好世界\n你好"),
        ("  - an item", "  - an\nitem"),
        ("a" * 20, "aaaaaaaa\naaaaaaaa\naaaa"),
        ("cafe\u0301 noir", "cafe\u0301\nnoir"),
        ("one two \n  three", "one two\n  three"),
        (
            "~~~\nx = 1 + 2 + 3\n```\nx = 1 + 2\n~~~\none two three",
            "~~~\nx = 1 + 2 + 3\n```\nx = 1 + 2\n~~~\none two\nthree",
        ),
    ],
)
def test_what_eight_columns_hold(text: str, shown: str) -> None:
    wrap = Wrap(8)
    assert wrap.take(text) + wrap.end() == shown


def on_terminal(folder: Path, words: list[str], typed: str, url: str) -> list[str]:
    """The lines that a command writes on a terminal of COLUMNS columns."""
    import pty
    import termios

    ours, its = pty.openpty()
    termios.tcsetwinsize(its, (24, COLUMNS))
    variables = environment(0, {"GENAI_URL": url, "TERM": "xterm"})
    command = [sys.executable, "-m", "apps.cli.main", *words]
    process = subprocess.Popen(command, stdin=its, stdout=its, stderr=its, env=variables, cwd=folder)
    os.close(its)
    os.write(ours, typed.encode())
    written = b""
    # the end of the last process that has the terminal open is an error on Linux, and an empty read on macOS
    with suppress(OSError):
        while piece := os.read(ours, 4096):
            written += piece
    os.close(ours)
    assert process.wait(HANG_SECONDS) == 0
    WATCH.took("a command on a terminal", written)
    return ESCAPES.sub("", written.decode()).replace("\r\n", "\n").replace("\r", "").split("\n")
