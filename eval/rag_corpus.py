"""Documents for the evaluation of retrieval: the standard library's own documentation strings, as Markdown files.

Every Python has them, so nothing is downloaded and nothing is copied into this repository. One file a module; each
class, function and method with a documentation string is an entry under a heading of its own.
"""

import ast
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

LEAST = 40
PACKAGES = [
    "asyncio",
    "collections",
    "concurrent/futures",
    "email",
    "html",
    "http",
    "importlib",
    "json",
    "logging",
    "multiprocessing",
    "sqlite3",
    "unittest",
    "urllib",
    "wsgiref",
    "xml/dom",
    "xml/etree",
    "zoneinfo",
]
# twins of other modules, and what Python 3.13 no longer has: the questions are for 3.11 to 3.14
SKIPPED = [
    "ntpath",
    "genericpath",
    "nturl2path",
    "turtle",
    "this",
    "antigravity",
    "idlelib",
    "test",
    "aifc",
    "asynchat",
    "asyncore",
    "cgi",
    "cgitb",
    "chunk",
    "crypt",
    "imghdr",
    "imp",
    "mailcap",
    "nntplib",
    "pipes",
    "smtpd",
    "sndhdr",
    "sunau",
    "telnetlib",
    "uu",
    "xdrlib",
]

Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, slots=True)
class Entry:
    """``name`` is the qualified one, like ``shutil.copytree``; ``level`` the heading's."""

    name: str
    level: int
    text: str


def modules() -> Iterator[tuple[str, list[Entry]]]:
    """Each module's entries in the order of its source, the module's own first."""
    library = Path(sysconfig.get_paths()["stdlib"])
    files = [*library.glob("*.py"), *(file for package in PACKAGES for file in (library / package).glob("*.py"))]
    for file in sorted(files):
        parts = file.relative_to(library).with_suffix("").parts
        if any(part.startswith("_") and part != "__init__" for part in parts) or parts[0] in SKIPPED:
            continue
        name = ".".join(part for part in parts if part != "__init__")
        found = [*_entries(ast.parse(file.read_text(encoding="utf-8")), name, 1)]
        if found:
            yield name, found


def markdown(entries: list[Entry]) -> str:
    """A module's file."""
    return "\n\n".join(f"{'#' * entry.level} {entry.name}\n\n{_quoted(entry.text)}" for entry in entries) + "\n"


def _entries(node: Documented, name: str, level: int) -> Iterator[Entry]:
    text = ast.get_docstring(node)
    if text and len(text) >= LEAST:
        yield Entry(name, level, text)
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return
    for child in node.body:
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and not child.name.startswith("_"):
            yield from _entries(child, f"{name}.{child.name}", min(level + 1, 4))


def _quoted(text: str) -> str:
    """A line of a documentation string must not be taken for a heading."""
    return "\n".join("\\" + line if line.startswith("#") else line for line in text.splitlines())
