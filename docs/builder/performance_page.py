"""The page of performance, from the last results of the benchmarks."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

from pages import ROOT, as_markdown

INTRODUCTION = """# Performance

The last results of the benchmarks, which `make bench` repeats on your machine. Figures of speed are ratios of two
measurements that are taken side by side in one run, so they carry over to other machines better than seconds do. A
figure without a goal is there for comparison. [What each figure means](benchmarks.md).
"""
SIGNS = {"higher": ">=", "lower": "<="}


def performance_page(results: Path, programs: Path) -> str:
    """Return the page for a folder of results and the folder of the benchmarks that wrote them."""
    parts = [INTRODUCTION]
    for path in sorted(results.glob("*.json")):
        document = json.loads(path.read_text("utf-8"))
        docstring = ast.get_docstring(ast.parse((programs / f"benchmark_{path.stem}.py").read_text("utf-8"))) or ""
        question = " ".join(docstring.split("\n\n")[0].split())
        parts.append(
            f"## {path.stem}\n\n{question}\n\n{_machine(document['machine'])}\n\n{_table(document['figures'])}"
        )
    return "\n".join(parts)


def _machine(machine: dict[str, Any]) -> str:
    """Return the line that says where the figures were measured."""
    known = [machine.get("processor"), machine.get("gpu"), machine.get("platform")]
    threads = f"{machine['threads']} threads" if machine.get("threads") else None
    versions = machine.get("versions", {})
    names = [f"{name} {versions[name]}" for name in ("python", "torch", "mervn") if name in versions]
    return "*" + ", ".join(filter(None, [*known, threads, *names])) + "*"


def _table(figures: list[dict[str, Any]]) -> str:
    """Return one line per figure: what was measured, its value and its goal."""
    lines = ["| figure | what was measured | value | goal | met |", "|---|---|---|---|---|"]
    for figure in figures:
        goal = "" if figure["goal"] is None else f"{SIGNS[figure['better']]} {figure['goal']:.4g}"
        met = {True: "yes", False: "**no**", None: ""}[figure["met"]]
        lines.append(
            f"| {as_markdown(figure['id'])} | {as_markdown(figure['what'])} | {figure['value']:.3g} | {goal} | {met} |"
        )
    return "\n".join(lines) + "\n"


def write_performance_page(folder: Path) -> None:
    """Write performance.md into the folder of the pages."""
    text = performance_page(ROOT / "benchmarks" / "results", ROOT / "benchmarks")
    (folder / "performance.md").write_text(text, "utf-8")
