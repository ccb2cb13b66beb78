"""The plan of the source: no circles of imports, few imports inside functions, concepts instead of crumbs."""

import ast
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

APPS = Path(__file__).parents[1]
MOST_MODULES = 250
# what a heavy vendor's adapter is imported by, at its first use; a new one needs a reason like that
MOST_FUNCTION_IMPORTS = 46


def modules() -> dict[str, Path]:
    """The modules outside of tests, by their dotted names."""
    names = {}
    for file in APPS.rglob("*.py"):
        parts = file.relative_to(APPS.parent).with_suffix("").parts
        if "tests" not in parts:
            names[".".join(parts).removesuffix(".__init__")] = file
    return names


@cache
def tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def imported(file: Path) -> Iterator[str]:
    """What a module imports anywhere in it, under TYPE_CHECKING too."""
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def circles(imports: Mapping[str, set[str]]) -> list[str]:
    """Modules that are in a circle, or behind one: those that are left when all that import nothing are taken away."""
    left = {name: set(others) for name, others in imports.items()}
    while free := [name for name, others in left.items() if not others]:
        for name in free:
            del left[name]
        for others in left.values():
            others.difference_update(free)
    return sorted(left)


def test_no_import_leads_back_to_where_it_began() -> None:
    known = modules()
    assert len(known) > 200
    assert (
        circles({name: {other for other in imported(file) if other in known} - {name} for name, file in known.items()})
        == []
    )


def test_a_circle_is_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}) == ["a", "b", "c"]


def function_imports(file: Path) -> Iterator[str]:
    """Imports inside functions, by their lines."""
    found: set[int] = set()
    for function in ast.walk(tree(file)):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            for node in ast.walk(function):
                if isinstance(node, ast.Import | ast.ImportFrom) and node.lineno not in found:
                    found.add(node.lineno)
                    yield f"{file.relative_to(APPS)}:{node.lineno}: {ast.unparse(node)}"


def test_a_concept_is_a_file() -> None:
    """Modules but for packages' own; a new one takes the place of a crumb that is merged into its concept."""
    # a migration is a file for ever
    known = {name: file for name, file in modules().items() if ".migrations.versions." not in name}
    found = sorted(name for name, file in known.items() if file.name != "__init__.py")
    assert len(found) <= MOST_MODULES, "\n".join(found)


def test_few_imports_stand_inside_functions() -> None:
    found = [one for file in modules().values() for one in function_imports(file)]
    assert len(found) <= MOST_FUNCTION_IMPORTS, "\n".join(found)


RIDDLES = {
    *("asked", "told", "said", "heard", "spelled", "whoever", "somebody", "nobody", "books"),
    *("landing", "landed", "wishes", "shelf", "taker"),
}
"""Words that say who did something, where a name says what a thing is. The glossary has the field's terms."""
CHOOSES_BY_OPENAIS_NAME = ("api", "gateway", "models", "cli")
"""Rooms that read or write OpenAI's ``choices``; elsewhere ``choice`` is a riddle too, but for ``tool_choice``."""


def identifiers(parsed: ast.AST) -> Iterator[tuple[str, int]]:
    """Names that a module gives: of modules' parts, parameters, variables and attributes, by their lines."""
    for node in ast.walk(parsed):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name, node.lineno
        elif isinstance(node, ast.arg):
            yield node.arg, node.lineno
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id, node.lineno
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr, node.lineno


def riddles_in(name: str, *, choices: bool) -> set[str]:
    words = {word.lower() for word in re.split(r"_|(?<=[a-z])(?=[A-Z])", name)}
    return words & (RIDDLES if choices or "tool_choice" in name else RIDDLES | {"choice"})


def test_names_are_no_riddles() -> None:
    found = []
    for dotted, file in modules().items():
        choices = dotted.split(".")[1:2] and dotted.split(".")[1] in CHOOSES_BY_OPENAIS_NAME
        names = [(file.stem, 1), *identifiers(tree(file))]
        found += [
            f"{file.relative_to(APPS)}:{line}: {name}"
            for name, line in names
            if riddles_in(name, choices=bool(choices))
        ]
    assert found == []


def test_a_riddle_is_found_in_any_spelling() -> None:
    assert riddles_in("_Told", choices=True) == {"told"} == riddles_in("told_error", choices=True)
    assert riddles_in("ChoiceReader", choices=False) == {"choice"}
    assert not riddles_in("ChoiceReader", choices=True) | riddles_in("tool_choice", choices=False)
    assert [name for name, _ in identifiers(ast.parse("def f(asked):\n    self.told = said = 1"))] == [
        *("f", "asked", "told", "said")
    ]


def test_what_the_plan_names_is_there() -> None:
    """Files by their path within apps/, or by the end of it; behind a colon what stands in the file."""
    files = [path.relative_to(APPS).as_posix() for path in APPS.rglob("*.py")]
    named = re.findall(r"`([a-z0-9_/]+\.py)(?::([\w.]+))?`", (APPS / "ARCHITECTURE.md").read_text(encoding="utf-8"))
    assert len(named) > 40
    missing = []
    for file, name in named:
        texts = [(APPS / found).read_text(encoding="utf-8") for found in files if f"/{found}".endswith(f"/{file}")]
        parts = name.split(".") if name else []
        if not any(
            all(re.search(rf"\b(def|class) {part}\b|^{part} = ", text, re.M) for part in parts) for text in texts
        ):
            missing.append(f"{file}:{name}")
    assert missing == []
