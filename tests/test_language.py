"""The text of the project uses the terms of the field: a list of words and phrases that it does without."""

import ast
import io
import re
import subprocess
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BANNED: dict[str, str] = {
    r"\brows?\b": "frames, tokens or utterances",
    r"\bnum_rows\b|\b[A-Z_]*ROWS\b|\bRow\b": "frames, tokens or utterances",
    r"\bgo(es)? on with\b|\bgo(es)? on without\b|\bto go on\b": "resume, continue",
    r"\bmend(s|ed|ing)?\b": "fix, repair",
    r"\bis not there\b|\bare not there\b": "missing, does not exist",
    r"\bunsaid\b": "silently",
    r"\bgreatest\b": "maximum",
    r"\bmasses\b": "sample weights",
    r"\bthe main one\b": "rank 0, the main process",
    r"\bwhat was heard\b|\bwhat was asked\b|\basks the other\b": "attention output, query attends to key",
    r"\bas it came in\b": "before training, the initial model",
    r"\b(utterances|seconds|frames|tokens|batches|steps|epochs|rows) an? (batch|epoch|utterance|second|step)\b": "per",
    r"\bMost epochs\b": "maximum number of epochs",
    r"\bhow the modalities meet\b": "fusion of text and audio",
}
"""By pattern what to say instead."""
ALLOWED = ("CHANGELOG.md", "tests/test_language.py")
TABLES = (
    "benchmarks/benchmark_ablate.py", "cli/ablate.py", "cli/commands.py", "cli/compare.py", "cli/demo.py",
    "cli/doctor.py", "cli/encoders.py", "cli/evaluate.py", "cli/main.py", "cli/output.py", "docs/ablation.md",
    "docs/howto-paper.md", "docs/recipes.md", "docs/reports.md", "features/store/index.py", "features/tables.py",
    "mervn/evaluation/verdict.py", "mervn/report/figures.py", "mervn/report/html.py",
    "mervn/report/study_page.py", "mervn/study/ablate.py", "mervn/study/cell_training.py",
    "mervn/study/cells.py", "mervn/study/grid.py", "mervn/study/open_layers.py",
    "mervn/study/recipe_table.py", "mervn/study/recipes.py",
    "mervn/study/search.py", "mervn/study/study_baselines.py", "mervn/study/study_plan.py",
    "mervn/study/study_scores.py", "mervn/study/table_files.py", "mervn/study/tables.py",
    "tests/test_cells.py", "tests/test_grid.py",
    "tests/test_missing_features.py", "tests/test_open_layers.py", "tests/test_output.py", "tests/test_ray_engine.py",
    "tests/test_recipe_table.py", "tests/test_recipes.py", "tests/test_search.py", "tests/test_study_baselines.py",
    "tests/test_study_page.py", "tests/test_study_run.py", "tests/test_tables.py",
)  # fmt: skip
"""Files that print tables, which have rows."""

JSON_KEYS = (("features/store/summary.py", '"rows"'), ("cli/doctor.py", '"mend"'))
"""Keys of documents that programs read, which keep their names."""


def files() -> list[Path]:
    """Every text of the project under version control that people read."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    paths = [Path(line) for line in listed.splitlines()]
    read = [path for path in paths if path.suffix in (".py", ".md") and str(path) not in ALLOWED]
    return [path for path in read if path.parts[:2] != ("tests", "data")]


def prose(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line, text) of what people read: pages whole; of code its comments, strings and names."""
    text = (ROOT / path).read_text("utf-8")
    if path.suffix == ".md":
        yield from enumerate(text.splitlines(), 1)
        return
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in (tokenize.COMMENT, tokenize.STRING, tokenize.NAME):
            for number, line in enumerate(token.string.splitlines()):
                yield token.start[0] + number, line


def offences(path: Path) -> list[str]:
    """Return the uses of banned words in a file."""
    found = []
    for line, text in prose(path):
        if (str(path), text) in JSON_KEYS:
            continue
        for pattern, instead in BANNED.items():
            if "row" in pattern.lower() and str(path) in TABLES:
                continue
            match = re.search(pattern, text, re.IGNORECASE if pattern.islower() else 0)
            if match:
                found.append(f"{path}:{line}: {match.group()!r}: say {instead}")
    return found


@pytest.mark.parametrize("path", files(), ids=str)
def test_the_text_uses_the_terms_of_the_field(path: Path) -> None:
    assert offences(path) == []


def test_a_banned_word_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{__name__}.ROOT", tmp_path)
    (tmp_path / "a.py").write_text('"""Mend the rows."""\nROWS = 3  # utterances a batch\n')
    assert len(offences(Path("a.py"))) == 5


def test_docstrings_begin_with_a_name_or_a_verb() -> None:
    """No first line of a public docstring is a riddle that begins with What, How or Who."""
    found = []
    for path in files():
        if path.suffix == ".py" and path.parts[0] in ("features", "mervn", "cli"):
            for node in ast.walk(ast.parse((ROOT / path).read_text("utf-8"))):
                if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                    first = (ast.get_docstring(node) or "").split(" ")[0]
                    if first in ("What", "How", "Who", "Whether", "Which", "Where", "When"):
                        found.append(f"{path}:{getattr(node, 'lineno', 1)}: {first}")
    assert found == []
