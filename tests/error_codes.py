"""Which error codes the source can raise, read from its syntax trees, and which the errors page lists.

A code is the first argument of an error's constructor: a literal, a local name bound to literals, or a
parameter of the function round it (alone, or as ``f"coap.{kind}"``); then the literals count that its callers
pass: in the same module, and in the others when the function is public.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ERRORS_PAGE = "docs/reference/errors.md"
CODE = re.compile(r"[a-z][a-z0-9]*(\.[a-z0-9]+(-[a-z0-9]+)*)+")
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Raised:
    """One place that makes an error. ``code`` is None when it cannot be read from the source."""

    code: str | None
    kind: str
    what: str
    where: str


@dataclass(frozen=True)
class _Maker:
    """Makes errors of ``kind`` whose code is ``prefix`` + its ``parameter``, the ``index``-th."""

    kind: str
    prefix: str
    parameter: str
    index: int


def raised(trees: Mapping[str, ast.Module]) -> list[Raised]:
    """Every code in the given modules (name -> tree), in their order."""
    classes = {name: _Maker(name, "", "code", 0) for name in _error_classes(trees.values())}
    own = {name: _makers(list(_calls(tree)), classes) for name, tree in trees.items()}
    shared = {f: maker for makers in own.values() for f, maker in makers.items() if not f.startswith("_")}
    return [r for name, tree in trees.items() for r in _raised_in(name, tree, shared | own[name])]


def documented(root: Path) -> list[str]:
    """The codes in the first column of the errors page, in its order."""
    page = root / ERRORS_PAGE
    return re.findall(r"^\| `([^`]+)` \|", page.read_text(), re.MULTILINE) if page.exists() else []


def line(found: Raised) -> str:
    """The line of the errors page for a code, to be finished by hand."""
    return f"| `{found.code}` | `{found.kind}` | {found.what.replace('|', '/').strip()} |"


def _error_classes(trees: Iterable[ast.Module]) -> set[str]:
    """GanglionError and everything that derives from it."""
    parents: dict[str, set[str]] = {}
    for tree in trees:
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                parents[node.name] = {b.id for b in node.bases if isinstance(b, ast.Name)}
    found = {"GanglionError"}
    while new := {c for c, bases in parents.items() if bases & found} - found:
        found |= new
    return found


def _makers(
    calls: list[tuple[ast.Call, Function | None]], classes: Mapping[str, _Maker]
) -> dict[str, _Maker]:
    """The error classes, and the functions of a module that make errors with a code they are given."""
    makers = dict(classes)
    grown = True
    while grown:  # a maker may call another one
        grown = False
        for call, function in calls:
            maker = makers.get(_callee(call))
            new = maker and function and _maker(call, maker, function)
            if new and function and function.name not in makers:
                makers[function.name] = new
                grown = True
    return makers


def _raised_in(module: str, tree: ast.Module, makers: Mapping[str, _Maker]) -> Iterator[Raised]:
    for call, function in _calls(tree):
        maker = makers.get(_callee(call))
        if maker is None or (function and _maker(call, maker, function)):
            continue
        what = _template(call.args[1]) if len(call.args) > 1 and maker.kind == _callee(call) else "…"
        where = f"{module}:{call.lineno}"
        argument = _argument(call, maker)
        literals = _literals(argument, function) if argument else []
        if not literals:
            yield Raised(None, maker.kind, what, where)
        for literal in literals:
            yield Raised(maker.prefix + literal, maker.kind, what, where)


def _calls(tree: ast.Module) -> Iterator[tuple[ast.Call, Function | None]]:
    """Every call with the innermost function round it."""

    def walk(node: ast.AST, function: Function | None) -> Iterator[tuple[ast.Call, Function | None]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Call):
                yield child, function
            yield from walk(child, child if isinstance(child, Function) else function)

    yield from walk(tree, None)


def _callee(call: ast.Call) -> str:
    return ast.unparse(call.func).rsplit(".", 1)[-1]


def _argument(call: ast.Call, maker: _Maker) -> ast.expr | None:
    named = [k.value for k in call.keywords if k.arg == maker.parameter]
    return named[0] if named else call.args[maker.index] if len(call.args) > maker.index else None


def _maker(call: ast.Call, maker: _Maker, function: Function) -> _Maker | None:
    """The function as a maker, when it passes a parameter of its own on as the code."""
    argument, prefix = _argument(call, maker), ""
    if isinstance(argument, ast.JoinedStr) and len(argument.values) == 2:
        start, rest = argument.values
        if isinstance(start, ast.Constant) and isinstance(rest, ast.FormattedValue):
            argument, prefix = rest.value, str(start.value)
    parameters = [
        a.arg for a in (*function.args.posonlyargs, *function.args.args) if a.arg not in ("self", "cls")
    ]
    parameters += [a.arg for a in function.args.kwonlyargs]
    if isinstance(argument, ast.Name) and argument.id in parameters:
        return _Maker(maker.kind, maker.prefix + prefix, argument.id, parameters.index(argument.id))
    return None


def _literals(node: ast.expr, function: Function | None) -> list[str]:
    if isinstance(node, ast.IfExp):
        return _literals(node.body, function) + _literals(node.orelse, function)
    if isinstance(node, ast.Name) and function:
        bound = [
            _literals(a.value, None)
            for a in ast.walk(function)
            if isinstance(a, ast.Assign)
            and any(isinstance(t, ast.Name) and t.id == node.id for t in a.targets)
        ]
        return sorted({literal for literals in bound for literal in literals})
    return [node.value] if isinstance(node, ast.Constant) and isinstance(node.value, str) else []


def _template(node: ast.expr) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(str(v.value) if isinstance(v, ast.Constant) else "…" for v in node.values)
    return "…"
