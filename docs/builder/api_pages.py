"""The reference of the Python API, from docstrings: a page for each module that the documentation imports."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from pages import ROOT

IMPORT = re.compile(r"^from ((?:features|mervn)(?:\.\w+)*) import ", re.MULTILINE)
FOLDER = "api"
MEMBERS = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def imported_modules(folder: Path) -> dict[str, Path]:
    """Return the file of each module that the code on the pages of a folder imports."""
    found = {}
    for path in folder.glob("*.md"):
        for name in IMPORT.findall(path.read_text("utf-8")):
            file = ROOT.joinpath(*name.split(".")).with_suffix(".py")
            if file.is_file():
                found[name] = file
    return dict(sorted(found.items()))


def module_page(name: str, file: Path) -> str:
    """Return the page of a module: its docstring, and those of its public classes and functions."""
    tree = ast.parse(file.read_text("utf-8"))
    parts = [f"# {name}", _text(tree)]
    for node in tree.body:
        if isinstance(node, MEMBERS) and not node.name.startswith("_"):
            parts += _member(node)
    return "\n\n".join(filter(None, parts)) + "\n"


def _member(node: MEMBERS, owner: str = "") -> Iterator[str]:
    """Yield the heading, the signature and the docstring of a class or function, and of what a class has."""
    name = f"{owner}.{node.name}" if owner else node.name
    yield f"{'###' if owner else '##'} {name}"
    yield f"```python\n{_signature(node)}\n```"
    yield _text(node)
    if isinstance(node, ast.ClassDef):
        yield "\n".join(_fields(node))
        for inside in node.body:
            if isinstance(inside, MEMBERS) and not inside.name.startswith("_"):
                yield from _member(inside, node.name)


def _signature(node: MEMBERS) -> str:
    """Return the line of a class or function up to its body; one parameter per line if it is long."""
    if isinstance(node, ast.ClassDef):
        bases = ", ".join(map(ast.unparse, node.bases))
        return f"class {node.name}({bases})" if bases else f"class {node.name}"
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    kinds = [f"@{ast.unparse(each)}\n" for each in node.decorator_list]
    short = f"def {node.name}({ast.unparse(node.args)}){returns}"
    if len(short) <= 100:
        return "".join(kinds) + short
    parameters = re.split(r", (?=\*|\w+: |\w+=|\w+$)", ast.unparse(node.args))
    return "".join(kinds) + f"def {node.name}(\n    " + ",\n    ".join(parameters) + f",\n){returns}"


def _fields(node: ast.ClassDef) -> Iterator[str]:
    """Yield a table of the fields of a class, with the docstring or the description of each."""
    lines = []
    for field, after in zip(node.body, [*node.body[1:], None], strict=True):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and field.target.id[0] != "_":
            kind = ast.unparse(field.annotation)
            if isinstance(field.annotation, ast.Subscript) and kind.startswith("Annotated["):
                kind = ast.unparse(field.annotation.slice.elts[0])  # type: ignore[attr-defined]
            text = _description(field.value) or _docstring(after)
            lines.append(f"| `{field.target.id}` | <code>{_cell(kind)}</code> | {_cell(' '.join(text.split()))} |")
    if lines:
        yield from ("| field | type | meaning |", "|---|---|---|", *lines)


def _description(value: ast.expr | None) -> str:
    """Return the description of a pydantic field."""
    for keyword in value.keywords if isinstance(value, ast.Call) else []:
        if keyword.arg == "description" and isinstance(keyword.value, ast.Constant):
            return str(keyword.value.value)
    return ""


def _docstring(node: ast.stmt | None) -> str:
    """Return the string of a statement that is nothing but a string."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
        return node.value.value
    return ""


def _text(node: ast.Module | MEMBERS) -> str:
    """Return a docstring as Markdown."""
    return re.sub(r"(`[^`]*`)|([<*_\[])", lambda match: match[1] or f"\\{match[2]}", ast.get_docstring(node) or "")


def _cell(text: str) -> str:
    """Return text for a cell of a table."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("|", "&#124;")


def write_api_pages(folder: Path) -> list[str]:
    """Write api/*.md below the folder of the pages, and return their paths for the navigation."""
    (folder / FOLDER).mkdir()
    paths = []
    for name, file in imported_modules(folder).items():
        path = f"{FOLDER}/{name}.md"
        (folder / path).write_text(module_page(name, file), "utf-8")
        paths.append(path)
    return paths
