"""A text of English and code that every Python has: the standard library's own documentation strings."""

import ast
import sysconfig
from collections.abc import Iterator
from pathlib import Path

LEAST = 200


def docstrings() -> Iterator[str]:
    """Of modules, classes and functions of at least LEAST characters, file by file in the order of their names."""
    for file in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                text = ast.get_docstring(node)
                if text and len(text) >= LEAST:
                    yield text


def text(characters: int) -> str:
    """The first ``characters`` of all of them, a blank line between two."""
    pieces, length = [], 0
    for piece in docstrings():
        pieces.append(piece)
        length += len(piece) + 2
        if length >= characters:
            break
    return "\n\n".join(pieces)[:characters]
