"""The rules of the house that linters cannot say, each a function from a tree to its violations.

``tests/test_house.py`` runs every rule on this repository and on a planted violation.
``python tests/house_rules.py errors`` prints the lines docs/reference/errors.md lacks (``make errors``).
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

# Run as a script by `make errors`, imported as part of the tests by pytest.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from tests import error_codes as codes

FUNCTION_LINES_MAX = 70
MODULE_LINES_MAX = 400
TEST_MODULE_LINES_MAX = 800
UNDOCUMENTED_METHOD_LINES_MAX = 5
BANNED_WORDS = frozenset(
    ("base", "common", "helper", "helpers", "manager", "managers", "misc", "util", "utils")
)

# The ratchet: what was too long on the day the rule came, with its length then. It may only shrink.
LONG_FUNCTIONS: dict[str, int] = {}
LONG_MODULES: dict[str, int] = {}

ADR_HEADINGS = ("## Context", "## Decision", "## Alternatives", "## Consequences")
ADR_STATUS = re.compile(
    r"^Status: (proposed|accepted|superseded by \[\d{4}\]\(.+\)) \(\d{4}-\d{2}\)$", re.MULTILINE
)

# Written in pieces so that this file does not break its own rule.
MACHINE_TRACES = {
    "a path of one machine": re.compile(
        r"(?<![\w.~-])/(?:work|root|home/\w+|Users/\w+|tmp/w|opt/(?:pypi|wheels))(?:/|\b)"
    ),
    "a package registry's host": re.compile(
        "|".join(
            re.escape(host)
            for host in (
                "pypi" + ".org",
                "files.python" + "hosted.org",
                "registry.npm" + "js.org",
                "deb.debian" + ".org",
                "proxy.golang" + ".org",
                "crates" + ".io",
            )
        )
    ),
}

Function = ast.FunctionDef | ast.AsyncFunctionDef
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def python_files(root: Path, *folders: str) -> Iterator[Path]:
    """The Python files below the given folders (all of ours when none is given), sorted."""
    for folder in folders or ("src", "tests", "examples", "benchmarks"):
        yield from sorted((root / folder).rglob("*.py"))


@cache
def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), filename=str(path))


def _lines(node: ast.stmt) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def _name(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix()


def _named(tree: ast.Module) -> Iterator[tuple[str, Definition]]:
    """(dotted name, node) of every function and class, nested ones too."""

    def walk(node: ast.AST, prefix: str) -> Iterator[tuple[str, Definition]]:
        for child in ast.iter_child_nodes(node):
            name = prefix
            if isinstance(child, Definition):
                name = f"{prefix}{child.name}"
                yield name, child
                name += "."
            yield from walk(child, name)

    yield from walk(tree, "")


def _ratcheted(lengths: dict[str, int], limit: Callable[[str], int], allowed: dict[str, int]) -> list[str]:
    wrong = [
        f"{where}: {lines} lines, at most {max(limit(where), allowed.get(where, 0))}; split it"
        for where, lines in lengths.items()
        if lines > max(limit(where), allowed.get(where, 0))
    ]
    wrong += [
        f"{where}: the ratchet allows {lines} lines, now it has {lengths.get(where, 0)}; tighten the entry"
        for where, lines in allowed.items()
        if lengths.get(where, 0) < lines
    ]
    return wrong


def function_length(root: Path, allowed: dict[str, int] | None = None) -> list[str]:
    """A function has at most FUNCTION_LINES_MAX lines; old exceptions may only shrink."""
    lengths = {
        f"{_name(root, path)}::{name}": _lines(node)
        for path in python_files(root)
        for name, node in _named(_parsed(path))
        if isinstance(node, Function)
    }
    return _ratcheted(lengths, lambda _: FUNCTION_LINES_MAX, LONG_FUNCTIONS if allowed is None else allowed)


def module_length(root: Path, allowed: dict[str, int] | None = None) -> list[str]:
    """A module has at most MODULE_LINES_MAX lines, one of tests twice as many."""
    lengths = {_name(root, p): len(p.read_text().splitlines()) for p in python_files(root)}

    def limit(where: str) -> int:
        return TEST_MODULE_LINES_MAX if where.startswith("tests/") else MODULE_LINES_MAX

    return _ratcheted(lengths, limit, LONG_MODULES if allowed is None else allowed)


def package_docstring(root: Path) -> list[str]:
    """Every folder of modules in src is a package that says in a docstring of its own what lives there."""
    wrong, seen = [], dict[str, str]()
    for folder in sorted({p.parent for p in python_files(root, "src")}):
        init = folder / "__init__.py"
        where = _name(root, folder)
        text = ast.get_docstring(_parsed(init)) if init.exists() else None
        if text is None:
            wrong.append(f"{where}: __init__.py has no docstring; say in one paragraph what lives there")
        elif len(text) < 40 or "." not in text:
            wrong.append(f"{where}: the package docstring is no sentence that helps: {text!r}")
        elif text in seen:
            wrong.append(f"{where}: has the docstring of {seen[text]}")
        else:
            seen[text] = where
        if init.exists() and sum(_is_loose_string(n) for n in _parsed(init).body) > 1:
            wrong.append(f"{where}: __init__.py has more than one docstring")
    return wrong


def _is_loose_string(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
        and node.col_offset == 0
        and node.value.value.count(" ") > 8
    )


def banned_name(root: Path) -> list[str]:
    """No module, package or class is a drawer: its name says what it holds in the words of the field."""
    wrong = []
    for path in python_files(root, "src", "examples", "benchmarks"):
        for part in path.relative_to(root).with_suffix("").parts:
            words = part.lower().split("_")
            if BANNED_WORDS.intersection(words) or part in ("model", "models"):
                wrong.append(f'{_name(root, path)}: "{part}" is a banned name; name what it holds')
        for name, node in _named(_parsed(path)):
            words = [w.lower() for w in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name.rsplit(".", 1)[-1])]
            if isinstance(node, ast.ClassDef) and BANNED_WORDS.intersection(words):
                wrong.append(f"{_name(root, path)}:{node.lineno}: class {name} has a banned name")
    return wrong


def public_docstring(root: Path) -> list[str]:
    """Public classes and functions are documented.

    A method may go without when it is very short, or when the protocol or base class says it.
    """
    wrong, declared = [], _declared_methods(root)
    for path in python_files(root, "src"):
        for name, node in _named(_parsed(path)):
            if any(part.startswith("_") for part in name.split(".")) or ast.get_docstring(node):
                continue
            owner, _, own = name.rpartition(".")
            in_function = owner and not owner.rsplit(".", 1)[-1][:1].isupper()
            short = _lines(node) <= UNDOCUMENTED_METHOD_LINES_MAX
            said = owner and isinstance(node, Function) and (short or own in declared)
            if not in_function and not said:
                wrong.append(f"{_name(root, path)}:{node.lineno}: {name} is public and has no docstring")
    return wrong


def _declared_methods(root: Path) -> set[str]:
    """Names of the methods that protocols, abstract and inherited classes of src document."""
    classes = [
        node
        for path in python_files(root, "src")
        for _, node in _named(_parsed(path))
        if isinstance(node, ast.ClassDef)
    ]
    bases = {ast.unparse(b).rsplit(".", 1)[-1].partition("[")[0] for c in classes for b in c.bases}
    return {
        method.name
        for c in classes
        if c.name in bases or any("Protocol" in ast.unparse(b) or "ABC" in ast.unparse(b) for b in c.bases)
        for method in c.body
        if isinstance(method, Function) and ast.get_docstring(method)
    }


def facade_import(root: Path) -> list[str]:
    """Inside the house one imports the module that defines a name, never the façade ``ganglion``."""
    wrong = []
    for path in python_files(root, "src"):
        for node in ast.walk(_parsed(path)):
            if isinstance(node, ast.Import):
                facade = any(a.name == "ganglion" for a in node.names)
            elif isinstance(node, ast.ImportFrom):
                facade = node.module == "ganglion" and not node.level
            else:
                continue
            if facade:
                wrong.append(
                    f"{_name(root, path)}:{node.lineno}: imports the façade; import the module itself"
                )
    return wrong


def bare_ignore(root: Path) -> list[str]:
    """Whoever silences a checker says which rule and, after a second #, why."""
    wrong = []
    marker = re.compile(r"#\s*(type:\s*ignore|noqa)\b")
    reasoned = re.compile(
        r"#\s*(type:\s*ignore\[[\w, -]+\]|noqa:\s*[A-Z]+\d+(,\s*[A-Z]+\d+)*)\s*(#|--|\s-|\()\s*\S+"
    )
    for path in python_files(root):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if marker.search(line) and not reasoned.search(line):
                wrong.append(f"{_name(root, path)}:{number}: silences a checker without a rule and a reason")
    return wrong


def error_codes(root: Path) -> list[str]:
    """Every code raised has the form ``area.kind`` and a line in the errors page; no line is left over."""
    trees = {_name(root, p): _parsed(p) for p in python_files(root, "src")}
    raised, listed = codes.raised(trees), codes.documented(root)
    wrong, seen = [], set[str]()
    for found in sorted(raised, key=lambda r: (r.code or "", r.where)):
        if found.code is None:
            wrong.append(f"{found.where}: the code of this {found.kind} cannot be read; make it a literal")
        elif not codes.CODE.fullmatch(found.code):
            wrong.append(f'{found.where}: "{found.code}" is no code like area.kind')
        elif found.code not in listed and found.code not in seen:
            wrong.append(f"{found.where}: {codes.ERRORS_PAGE} lacks: {codes.line(found)}")
        seen.add(found.code or "")
    page = codes.ERRORS_PAGE
    wrong += [f"{page}: `{c}` is raised nowhere; remove its line" for c in listed if c not in seen]
    wrong += [f"{page}: `{c}` stands there twice" for c in sorted(set(listed)) if listed.count(c) > 1]
    if listed != sorted(listed):
        wrong.append(f"{page}: the lines are not in alphabetical order")
    return wrong


def tracked_files(root: Path) -> list[Path]:
    """What git would commit from this tree; every file when it is no repository."""
    if not (root / ".git").exists():
        skipped = (
            ".venv",
            "site",
            ".mypy_cache",
            ".ruff_cache",
            ".pytest_cache",
            ".hypothesis",
            "__pycache__",
        )
        ours = (
            p for p in root.rglob("*") if not any(n.startswith(skipped) for n in p.relative_to(root).parts)
        )
        return sorted(p for p in ours if p.is_file())
    # The tree may belong to somebody else, in CI for one; listing it is harmless.
    command = [
        "git",
        "-c",
        "safe.directory=*",
        "-C",
        str(root),
        "ls-files",
        "-z",
        "--cached",
        "--others",
        "--exclude-standard",
    ]
    names = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split("\0")
    return sorted(p for n in names if n and (p := root / n).is_file())


def machine_trace(root: Path) -> list[str]:
    """Nothing in the repository names a path of one machine or the host of a package registry."""
    wrong = []
    for path in tracked_files(root):
        content = path.read_bytes()
        if b"\0" in content[:8192]:
            continue
        for number, line in enumerate(content.decode(errors="replace").splitlines(), 1):
            for kind, pattern in MACHINE_TRACES.items():
                if found := pattern.search(line):
                    wrong.append(f"{_name(root, path)}:{number}: {kind}: {found.group()}")
    return wrong


def adr_index(root: Path) -> list[str]:
    """Decision records have every part, numbers without holes, and their titles in the index."""
    folder = root / "docs" / "adr"
    index = (folder / "README.md").read_text() if (folder / "README.md").exists() else ""
    records = sorted(folder.glob("[0-9]*.md"))
    wrong = []
    for number, record in enumerate(records, 1):
        text = record.read_text()
        where = _name(root, record)
        if not record.name.startswith(f"{number:04}-"):
            wrong.append(f"{where}: the {number}th record should be numbered {number:04}")
        title = text.partition("\n")[0].removeprefix("# ")
        if f"[{title}]({record.name})" not in index:
            wrong.append(f"{where}: docs/adr/README.md lacks the line: - [{title}]({record.name})")
        if not ADR_STATUS.search(text):
            wrong.append(f'{where}: has no line like "Status: accepted (2026-11)"')
        wrong += [f'{where}: has no "{h}"' for h in ADR_HEADINGS if h not in text]
    linked = re.findall(r"\]\((\d{4}-[^)]+)\)", index)
    wrong += [
        f"docs/adr/README.md: links {n}, which is not there" for n in linked if not (folder / n).exists()
    ]
    return wrong


def page_in_nav(root: Path) -> list[str]:
    """Every page of the documentation stands in its navigation."""
    docs, nav = root / "docs", root / "mkdocs.yml"
    shown = set(re.findall(r"[\w/.-]+\.md\b", nav.read_text() if nav.exists() else ""))
    pages = (p.relative_to(docs).as_posix() for p in sorted(docs.rglob("*.md")))
    return [f"mkdocs.yml: nav lacks {page}" for page in pages if page not in shown]


def make_target(root: Path) -> list[str]:
    """Every ``make x`` that a page promises exists."""
    targets = set(re.findall(r"^([a-z]+):", (root / "Makefile").read_text(), re.MULTILINE))
    pages = [root / "README.md", root / "CONTRIBUTING.md", *sorted((root / "docs").rglob("*.md"))]
    return [
        f'{_name(root, page)}: the Makefile has no target "{target}"'
        for page in pages
        if page.exists()
        for target in re.findall(r"(?:^|`)make ([a-z]+)", page.read_text(), re.MULTILINE)
        if target not in targets
    ]


RULES: dict[str, Callable[[Path], list[str]]] = {
    rule.__name__: rule
    for rule in (
        function_length,
        module_length,
        package_docstring,
        banned_name,
        public_docstring,
        facade_import,
        bare_ignore,
        error_codes,
        machine_trace,
        adr_index,
        page_in_nav,
        make_target,
    )
}


def main(arguments: list[str]) -> int:
    """Prints the violations of the named rules, all when none is named; 1 when there are any."""
    root = Path(__file__).resolve().parent.parent
    names = ["error_codes" if a == "errors" else a for a in arguments] or list(RULES)
    wrong = [violation for name in names for violation in RULES[name](root)]
    print("\n".join(wrong) or f"nothing to do: {', '.join(names)}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
