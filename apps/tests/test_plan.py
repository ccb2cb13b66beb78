"""The plan of the source: no circles of imports, few imports inside functions, concepts instead of crumbs."""

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

APPS = Path(__file__).parents[1]
MOST_MODULES = 250
# what a heavy vendor's adapter is imported by, at its first use; a new one needs a reason like that
MOST_FUNCTION_IMPORTS = 78


def modules() -> dict[str, Path]:
    """The modules outside of tests, by their dotted names."""
    names = {}
    for file in APPS.rglob("*.py"):
        parts = file.relative_to(APPS.parent).with_suffix("").parts
        if "tests" not in parts:
            names[".".join(parts).removesuffix(".__init__")] = file
    return names


def imported(file: Path) -> Iterator[str]:
    """What a module imports anywhere in it, under TYPE_CHECKING too."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
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
    for function in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            for node in ast.walk(function):
                if isinstance(node, ast.Import | ast.ImportFrom) and node.lineno not in found:
                    found.add(node.lineno)
                    yield f"{file.relative_to(APPS)}:{node.lineno}: {ast.unparse(node)}"


def test_a_concept_is_a_file() -> None:
    """Modules but for packages' own; a new one takes the place of a crumb that is merged into its concept."""
    found = sorted(name for name, file in modules().items() if file.name != "__init__.py")
    assert len(found) <= MOST_MODULES, "\n".join(found)


def test_few_imports_stand_inside_functions() -> None:
    found = [one for file in modules().values() for one in function_imports(file)]
    assert len(found) <= MOST_FUNCTION_IMPORTS, "\n".join(found)


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
