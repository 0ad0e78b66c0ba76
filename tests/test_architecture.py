"""The house rules that a program can check: direction of imports, size, laziness."""

import ast
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

from cli.main import COMMANDS
from features.encoders import ENCODERS
from features.lazy_import import import_target
from mervn.registry import FUSIONS, LOSSES, POOLINGS

ROOT = Path(__file__).parent.parent
ROOMS = ("features", "mervn", "cli")
"""In order: a room imports itself and the rooms before it."""
HEAVY = ("torch", "transformers", "torchaudio", "h5py", "sklearn", "zarr", "numpy", "scipy", "soundfile")


@cache
def parsed(source: str) -> ast.Module:
    """Return the syntax tree of a module, for all rules."""
    return ast.parse(source)


@pytest.fixture(autouse=True, scope="module")
def no_trees_left() -> Iterator[None]:
    yield
    parsed.cache_clear()


def modules(root: Path) -> Iterator[tuple[Path, ast.Module]]:
    for room in ROOMS:
        for path in sorted((root / room).rglob("*.py")):
            yield path.relative_to(root), parsed(path.read_text("utf-8"))


def imported(tree: ast.Module) -> Iterator[tuple[int, int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            yield node.lineno, node.level, node.module or ""
        elif isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, 0, alias.name


def wrong_direction(root: Path) -> list[str]:
    """Return imports against cli -> mervn -> features, and relative ones."""
    found = []
    for path, tree in modules(root):
        rank = ROOMS.index(path.parts[0])
        for line, level, name in imported(tree):
            top = name.split(".")[0]
            if level or (top in ROOMS and ROOMS.index(top) > rank):
                found.append(f"{path}:{line} imports {'.' * level}{name}")
    return found


def too_large(root: Path) -> list[str]:
    """Return files of 300 lines and more, functions over 40 lines or 7 parameters, and folders too deep."""
    found = []
    for path, tree in modules(root):
        if len((root / path).read_text("utf-8").splitlines()) >= 300:
            found.append(f"{path} is too long")
        if len(path.parts) > 3:
            found.append(f"{path} is too deep")
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                found += [f"{path}:{node.lineno} {node.name} {fault}" for fault in function_faults(node)]
    return found


def function_faults(node: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    """Return what is too large about a function; its docstring does not count."""
    first = node.body[0]
    has_docstring = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    documented = (first.end_lineno or 0) - first.lineno + 1 if has_docstring else 0
    faults = []
    if (node.end_lineno or 0) - node.lineno + 1 - documented > 40:
        faults.append("has more than 40 lines")
    parameters = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    if len([each for each in parameters if each.arg not in ("self", "cls")]) > 7:
        faults.append("has more than 7 parameters")
    return faults


def nested_comprehensions(root: Path) -> list[str]:
    """Return comprehensions inside another: a reader has to hold both at once."""
    kinds = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp
    found = []
    for path, tree in modules(root):
        for outer in ast.walk(tree):
            if isinstance(outer, kinds):
                inside = [node for node in ast.walk(outer) if node is not outer and isinstance(node, kinds)]
                found += [f"{path}:{node.lineno}" for node in inside]
    return found


def asserts(root: Path) -> list[str]:
    """Return assert statements: what a user can cause is raised."""
    return [
        f"{path}:{node.lineno}"
        for path, tree in modules(root)
        for node in ast.walk(tree)
        if isinstance(node, ast.Assert)
    ]


CHECKS: dict[Callable[[Path], list[str]], tuple[str, str]] = {
    wrong_direction: ("features/a.py", "def f():\n    from mervn.model.head import Head\n"),
    too_large: ("mervn/a.py", "def f(a, b, c, d, e, f, g, h):\n    pass\n"),
    nested_comprehensions: ("features/a.py", "x = [[i for i in range(3)] for _ in range(2)]\n"),
    asserts: ("cli/a.py", "assert 1\n"),
}


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_rules_hold_and_each_can_fail(check: Callable[[Path], list[str]], tmp_path: Path) -> None:
    assert check(ROOT) == []
    path, source = CHECKS[check]
    for room in ROOMS:
        (tmp_path / room).mkdir()
    (tmp_path / path).write_text(source)
    assert check(tmp_path) != []


def test_other_wrong_imports_are_found(tmp_path: Path) -> None:
    (tmp_path / "mervn").mkdir()
    for source in ("import cli.main", "from cli import options", "from . import model", "from ..features import text"):
        (tmp_path / "mervn" / "a.py").write_text(source)
        assert len(wrong_direction(tmp_path)) == 1


def test_every_target_of_every_registry_can_be_imported() -> None:
    targets = [spec.target for registry in ENCODERS.values() for spec in registry.values()]
    targets += [spec.target for spec in FUSIONS.values()] + list(POOLINGS.values())
    targets += [spec.target for spec in LOSSES.values()]
    targets += [target for spec in COMMANDS.values() for target in (spec.target, spec.options)]
    for target in targets:
        assert import_target(target) is not None


def heavy_imports(commands: list[list[str]]) -> dict[str, list[str]]:
    """Show the help of commands, one after the other in a new process; return what was loaded after each."""
    code = (
        "import json, sys; from cli.main import run\n"
        "for command in json.loads(sys.argv[1]):\n"
        "    assert run([*command, '--help']) == 0, command\n"
        f"    print('HEAVY', json.dumps([command, [name for name in {HEAVY!r} if name in sys.modules]]))\n"
    )
    arguments = [sys.executable, "-c", code, json.dumps(commands)]
    shown = subprocess.run(arguments, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert len(re.findall("^Usage: ", shown, re.MULTILINE)) == len(commands)
    found = [json.loads(line) for line in re.findall("^HEAVY (.*)", shown, re.MULTILINE)]
    return {" ".join(command): loaded for command, loaded in found}


def test_help_imports_nothing_heavy() -> None:
    commands = [[], *(name.split(" ") for name in COMMANDS)]
    assert heavy_imports(commands) == {" ".join(command): [] for command in commands}


ACROSS_MODULES = {
    "architecture", "benchmarks", "checkpoint_loading", "docs", "earlier_files", "gpu", "hidden_states", "install",
    "language", "masked_norms", "site", "transfers",
}  # fmt: skip
"""Tests of what holds for several modules at once."""


def test_test_files_are_named_after_the_module_they_test() -> None:
    names = {path.stem for path, _ in modules(ROOT)} | ACROSS_MODULES
    tests = {path.stem.removeprefix("test_") for path in (ROOT / "tests").glob("test_*.py")}
    assert tests - names == set()
    assert ACROSS_MODULES - tests == set()
