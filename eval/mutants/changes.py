"""The changes of a module: one place at a time.

A comparison, an operator, a number, a truth value, a word, a condition, a returned value, a statement that is left out.
Texts with blanks in them, which are words for people, are not changed; nor is what only readers and type checkers see.
"""

import ast
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType

COMPARED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
COUNTED: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.BitAnd: ast.BitOr,
}
OTHER_SYSTEM = ("sys.platform == 'win32'", "sys.platform != 'win32'")
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change of a module's ``text``: the ``number``-th node of its tree, in its ``way``.

    ``was`` is the line where it begins, stripped, and ``now`` what stands in the place of the node. ``function`` is the
    qualified name of the outermost function in whose body it is; None: it is run when the module is imported.
    """

    line: int
    was: str
    now: str
    function: str | None
    number: int
    way: int
    text: str = field(repr=False)


def mutants(file: Path) -> Iterator[Mutant]:
    """All of a module's, in the order of its syntax tree."""
    text = file.read_text("utf-8")
    tree = ast.parse(text)
    lines, skipped, functions = text.splitlines(), _skipped(tree), dict(_functions(tree, ""))
    for number, node in enumerate(ast.walk(tree)):
        for way in range(0 if id(node) in skipped else _ways(node)):
            changed = _changed(deepcopy(node), way)
            line = getattr(node, "lineno", 0)
            now = ast.unparse(ast.fix_missing_locations(changed)).partition("\n")[0][:160]
            yield Mutant(line, lines[line - 1].strip(), now, functions.get(id(node)), number, way, text)


def changed_code(file: Path, mutant: Mutant) -> CodeType:
    """The module with that change, compiled."""
    tree = ast.parse(mutant.text)
    place = next(node for at, node in enumerate(ast.walk(tree)) if at == mutant.number)
    _Replaced(place, _changed(place, mutant.way)).visit(tree)
    return compile(ast.fix_missing_locations(tree), str(file), "exec", dont_inherit=True)


class _Replaced(ast.NodeTransformer):
    """Puts one node in another's place."""

    def __init__(self, was: ast.AST, now: ast.AST) -> None:
        self._was, self._now = was, ast.copy_location(now, was)

    def visit(self, node: ast.AST) -> ast.AST:
        return self._now if node is self._was else self.generic_visit(node)


def functions_of(code: CodeType, outer: str = "") -> Iterator[tuple[tuple[str, int], CodeType]]:
    """The code of the functions of a module and its classes, by qualified name and first line; none within others."""
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            if inner.co_flags & 0x2:  # CO_NEWLOCALS: a function; a class' body has none
                yield (outer + inner.co_name, inner.co_firstlineno), inner
            else:
                yield from functions_of(inner, f"{outer}{inner.co_name}.")


def _functions(tree: ast.AST, outer: str) -> Iterator[tuple[int, str]]:
    """The nodes in the bodies of functions, by id, with the name of the outermost."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, Function):
            for statement in node.body:
                yield from ((id(one), outer + node.name) for one in ast.walk(statement))
        else:
            yield from _functions(node, f"{outer}{node.name}." if isinstance(node, ast.ClassDef) else outer)


def _skipped(tree: ast.Module) -> set[int]:
    """Docstrings and annotations, by id, with all that is in them; and what only type checkers read."""
    skipped: set[int] = set()

    def skip(node: ast.AST | None) -> None:
        if node is not None:
            skipped.update(id(one) for one in ast.walk(node))

    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            skip(node)
        if isinstance(node, ast.AnnAssign | ast.arg):
            skip(node.annotation)
        if isinstance(node, Function):
            skip(node.returns)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            skip(node)
        # another system's
        if isinstance(node, ast.If) and ast.unparse(node.test) in OTHER_SYSTEM:
            skipped.add(id(node))
            skip(node.test)
            for statement in node.orelse if "!=" in ast.unparse(node.test) else node.body:
                skip(statement)
        if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "Literal":
            skip(node)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "TypeVar":
            skip(node)
        if isinstance(node, ast.ClassDef) and any(ast.unparse(base) == "Protocol" for base in node.bases):
            skip(node)
        # they refuse what no code here does, or save time
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("dataclass", "ConfigDict"):
            for keyword in node.keywords:
                skip(keyword if keyword.arg in ("frozen", "slots", "defer_build") else None)
        # a setting's range is said in one place: a test would be the second
        if isinstance(node, ast.Call) and any(keyword.arg == "description" for keyword in node.keywords):
            for keyword in node.keywords:
                skip(keyword if keyword.arg in ("ge", "gt", "le", "lt", "min_length", "max_length") else None)
        # what a logger is told changes nothing
        if isinstance(node, ast.Expr) and ast.unparse(node).startswith("log."):
            skip(node)
    return skipped


def _ways(node: ast.AST) -> int:
    """How many ways there are to change this node."""
    if isinstance(node, ast.Compare):
        return sum(type(op) in COMPARED for op in node.ops)
    if isinstance(node, ast.Constant):
        if isinstance(node.value, str):
            return int(bool(node.value) and " " not in node.value)
        return int(isinstance(node.value, bool | int | float))
    if isinstance(node, ast.BinOp | ast.AugAssign):
        return int(type(node.op) in COUNTED)
    if isinstance(node, ast.Return):
        return int(node.value is not None and not isinstance(node.value, ast.Constant))
    return int(isinstance(node, ast.BoolOp | ast.If | ast.While | ast.IfExp | ast.Raise) or _is_call(node))


def _is_call(node: ast.AST) -> bool:
    """A statement that is run for what it does."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Call | ast.Await)


def _changed(node: ast.AST, way: int) -> ast.AST:
    """The node itself, changed, or what stands in its place."""
    match node:
        case ast.Compare():
            place = [at for at, op in enumerate(node.ops) if type(op) in COMPARED][way]
            node.ops[place] = COMPARED[type(node.ops[place])]()
        case ast.Constant(value=bool(value)):
            node.value = not value
        case ast.Constant(value=str(value)):
            node.value = value + "x"
        case ast.Constant(value=value):
            node.value = value + 1  # type: ignore[operator]
        case ast.BinOp() | ast.AugAssign():
            node.op = COUNTED[type(node.op)]()
        case ast.BoolOp():
            node.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        case ast.If() | ast.While() | ast.IfExp():
            node.test = ast.UnaryOp(ast.Not(), node.test)
        case ast.Return():
            node.value = ast.Constant(None)
        case ast.Raise() | ast.Expr():
            return ast.Pass()
    return node
