"""The documentation site: it builds, its pages agree with the code, and tutorial and notebook run as written."""

import ast
import html
import importlib
import json
import os
import re
import tomllib
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from test_docs import LINKED, ROOT, TRANSLATIONS, Block, read_blocks, run_block, small_defaults

from cli.commands import COMMANDS
from cli.main import run
from features import ragged
from mervn.demo import corpus, known_answers

__all__ = ["small_defaults"]  # a fixture
DOCS = ROOT / "docs"
VARIABLE = "..."


def tool(name: str, folder: str = "builder") -> ModuleType:
    """Import a program of docs/, which is no package."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(DOCS / folder))
        return importlib.import_module(name)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("site") / "site"
    tool("build").build(output)
    return output


def test_the_site_has_every_page_every_command_and_a_search(site: Path) -> None:
    pages = {path.relative_to(site).as_posix() for path in site.rglob("*.html")}
    commands = {f"commands/{name.replace(' ', '-')}.html" for name in COMMANDS}
    assert {f"{path.stem}.html" for path in DOCS.glob("*.md")} | commands <= pages
    assert {"index.html", "notebook.html", "performance.html"} <= pages
    in_vietnamese = {path.name for path in site.glob("*.html") if 'lang="vi"' in path.read_text("utf-8")[:500]}
    assert in_vietnamese == {"index.vi.html", "tutorial.vi.html"}
    assert any(path.stat().st_size > 10_000 for path in site.rglob("search*.json"))


def test_a_folder_that_is_no_site_is_kept(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(tool("pages").PageError, match=r"must be missing or an earlier site, but search\.json"):
        tool("build").build(tmp_path)
    assert (tmp_path / "thesis.tex").is_file()


def test_dead_links_and_files_from_elsewhere_are_found(site: Path, tmp_path: Path) -> None:
    copy = tmp_path / "site"
    copy.mkdir()
    (copy / "target.html").write_text('<h1 id="here">x</h1>')
    (copy / "style.css").write_text("@import 'https://example.org/a.css'; a {background: url(data:image/png;base64,)}")
    good = '<a href="target.html#here">x</a><a href="https://example.org">x</a><img src="style.css">'
    (copy / "index.html").write_text(good)
    links = tool("links")
    assert links.faults(copy) == ["style.css loads https://example.org/a.css"]
    bad = '<a href="target.html#gone">x</a><a href="gone.html">x</a><script src="https://example.org/x.js"></script>'
    (copy / "index.html").write_text(bad)
    assert len(links.faults(copy)) == 4


def test_a_page_that_the_navigation_does_not_name_is_an_error() -> None:
    build = tool("build")
    text = build.CONFIG.read_text("utf-8")
    known = [f"{path.name}" for path in DOCS.glob("*.md")]
    assert '"tutorial.md"' in build.configuration(text, known, {"Commands": []})
    with pytest.raises(tool("pages").PageError, match=r"lacks new\.md"):
        build.configuration(text, [*known, "new.md"], {"Commands": []})


def test_a_link_to_a_file_that_is_no_page_is_an_error() -> None:
    pages = tool("pages")
    text = "[a](../mervn/config.py)\n\n```text\n[b](../none.md)\n```\n"
    with pytest.raises(pages.PageError, match=r"docs/x\.md: the link \.\./mervn/config\.py"):
        pages.translate(text, "docs/x.md", pages.page_map())
    found = pages.translate("<!-- c -->\n[a](../README.md#b)\n", "docs/x.md", pages.page_map())
    assert found == "[a](index.md#b)\n"


@pytest.mark.parametrize("name", ["train-head", "store verify"])
def test_the_page_of_a_command_has_every_option_that_help_all_shows(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tool("command_pages").command_page(name, [])
    last = "--help-all" if name == "train-head" else "--help"
    assert run([*name.split(" "), last]) == 0
    shown = capsys.readouterr().out
    options = re.findall(r"^  (--\S+|-h, --help)", shown, re.MULTILINE)
    assert len(options) >= 5
    in_page = [html.unescape(line) for line in page.splitlines() if line.startswith("| <code>")]
    assert len(in_page) == len(options)
    for option, line in zip(options, in_page, strict=True):
        assert line.startswith(f"| <code>{option}")


def test_the_page_of_a_module_has_its_public_names_and_their_docstrings() -> None:
    page = tool("api_pages").module_page("features.ragged", ROOT / "features" / "ragged.py")
    for name, value in vars(ragged).items():
        if getattr(value, "__module__", "") == ragged.__name__ and callable(value):
            assert (f"\n## {name}\n" in page) != name.startswith("_")
    assert "\n### Ragged.pad\n\n```python\ndef pad(self, fill: float=0.0) -> Tensor\n```\n" in page
    assert "Return the padded view (B, max" in page
    options = tool("api_pages").module_page("mervn.config", ROOT / "mervn" / "config.py")
    assert "| `corpus_only` | <code>bool</code> | Make the corpus, then stop. |" in options


def test_the_page_of_performance_has_every_figure_of_the_results() -> None:
    text = tool("performance_page").performance_page(ROOT / "benchmarks" / "results", ROOT / "benchmarks")
    page = html.unescape(text)
    for path in (ROOT / "benchmarks" / "results").glob("*.json"):
        for figure in json.loads(path.read_text("utf-8"))["figures"]:
            lines = [line for line in page.splitlines() if line.startswith(f"| {figure['id']} | {figure['what']} |")]
            met = {True: "yes", False: "**no**", None: ""}[figure["met"]]
            assert any(f"| {figure['value']:.3g} |" in line and line.endswith(f"| {met} |") for line in lines)


@pytest.fixture(scope="module")
def tutorial(small_defaults: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Change to a folder in which the tutorial is run, with a corpus of few sentences and speakers."""
    folder = tmp_path_factory.mktemp("tutorial")
    before = Path.cwd()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpus, "TEMPLATES_PER_PASS", dict.fromkeys(corpus.TEMPLATES_PER_PASS, 2))
        patch.setattr(corpus, "PASSES", dict.fromkeys(corpus.PASSES, 1))
        few = {"train": 2, "valid": 2, "test": 4}  # of fewer there is no interval
        patch.setattr(corpus, "SPEAKERS", {split: corpus.SPEAKERS[split][:count] for split, count in few.items()})
        os.chdir(folder)
        yield folder
    os.chdir(before)


def test_the_tutorial_runs_as_written(tutorial: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for block in read_blocks(DOCS / "tutorial.md"):
        if block.runs:
            run_block(block, {}, capsys)
    assert (tutorial / "runs" / "late" / "metrics-test.json").is_file()


def test_the_tutorial_trains_as_the_demo_with_more_patience() -> None:
    """With seeds 0 to 9, up to 9 epochs pass without a better score on valid before `late` learns `both`."""
    (block,) = [block for block in read_blocks(DOCS / "tutorial.md") if block.language == "toml"]
    settings = {name.replace("-", "_"): value for name, value in tomllib.loads(block.text)["train-head"].items()}
    assert settings.pop("patience") >= 15
    expected = {name: known_answers.SETTINGS[name] for name in known_answers.SETTINGS.keys() - {"patience", "amp"}}
    assert settings == expected | {"mlp": list(expected["mlp"])}


def test_the_notebook_runs_after_the_tutorial_and_trains_nothing_again(
    tutorial: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tutorial / "runs" / "late" / "model.safetensors"
    before = model.stat().st_mtime_ns
    names: dict[str, Any] = {}
    for number, (kind, source) in enumerate(tool("notebook_page").cells(DOCS / "notebook.ipynb")):
        if kind == "code":
            run_block(Block("docs/notebook.ipynb", number, "", "python", source + "\n"), names, capsys)
    assert model.stat().st_mtime_ns == before
    assert set(names["runs"]) == {"late", "text"}


def test_the_notebook_is_valid_and_holds_no_output() -> None:
    document = json.loads((DOCS / "notebook.ipynb").read_text("utf-8"))
    assert document["nbformat"] == 4 and document["metadata"]["kernelspec"]["name"] == "python3"
    ids = [cell["id"] for cell in document["cells"]]
    assert len(ids) == len(set(ids))
    for cell in document["cells"]:
        assert cell["cell_type"] == "markdown" or (cell["outputs"] == [] and cell["execution_count"] is None)


def test_the_pictures_are_measured_on_the_tutorial(tutorial: Path, tmp_path: Path) -> None:
    make = tool("make_concepts", "figures")
    measured = make.measure(tutorial / "tutorial" / "both", tutorial / "runs" / "late")
    padding = measured["padding"]
    assert padding["with_mask"] < 2e-5 < 1e-2 < padding["without_mask"]
    assert len({store["hash"] for store in measured["identity"]}) == len(measured["identity"]) == 4
    epochs = measured["sampling"]["epochs"]
    assert 0 < epochs["random"]["efficiency"] <= epochs["bucket"]["efficiency"] <= 1
    kept = json.loads((DOCS / "figures" / make.FILE).read_text("utf-8"))
    assert shape(measured) == shape(kept)


def shape(value: Any) -> Any:
    """Return the keys of a document, and the types of what has no key."""
    if isinstance(value, dict):
        return {key: shape(each) for key, each in value.items() if key != "speakers"}
    return type(value).__name__


def test_the_pictures_are_drawn_from_their_measurements(tmp_path: Path) -> None:
    make = tool("make_concepts", "figures")
    kept = DOCS / "figures"
    make.draw_all(json.loads((kept / make.FILE).read_text("utf-8")), tmp_path)
    drawn = sorted(path.name for path in tmp_path.glob("*.svg"))
    assert len(drawn) == 8
    results = json.loads((ROOT / "benchmarks" / "results" / "intervals.json").read_text("utf-8"))["figures"]
    values = {figure["id"]: figure["value"] for figure in results}
    coverage = json.loads((kept / make.FILE).read_text("utf-8"))["evidence"]["coverage"]
    assert coverage["speaker"]["10"] == values["intervals.coverage.10.equal"]
    assert coverage["utterance"]["10"] == values["intervals.bootstrap.10"]
    for name in drawn:
        text = (tmp_path / name).read_text("utf-8")
        ET.fromstring(text)
        assert text == (kept / name).read_text("utf-8"), name


def headings(path: Path) -> list[str]:
    text = re.sub(r"^```.*?^```$", "", path.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"^(#+) ", text, re.MULTILINE)


def commands(path: Path) -> list[tuple[str, str]]:
    return [(block.language, block.text) for block in read_blocks(path) if block.language != "text"]


@pytest.mark.parametrize("name", sorted(TRANSLATIONS))
def test_a_translation_has_the_headings_and_the_commands_of_its_page(name: str) -> None:
    page, translation = ROOT / TRANSLATIONS[name], ROOT / name
    assert headings(translation) == headings(page)
    assert commands(translation) == commands(page)
    assert commands(page)


def test_a_translation_that_lags_behind_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("test_docs.ROOT", tmp_path)
    page, translation = tmp_path / "a.md", tmp_path / "a.vi.md"
    page.write_text("# A\n\n```bash\nmervn doctor\n```\n\n## B\n")
    translation.write_text("# A\n\n```bash\nmervn encoders\n```\n")
    assert headings(page) == ["#", "##"] != headings(translation)
    assert commands(page) != commands(translation)


def test_every_page_that_links_are_checked_on_exists() -> None:
    assert all(path.is_file() for path in LINKED)


@cache
def templates() -> list[str]:
    """Return the strings of the code, with `...` where a value is filled in."""
    found: list[str] = []
    for room in ("features", "mervn", "cli"):
        for path in sorted((ROOT / room).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.JoinedStr):
                    parts = [part.value if isinstance(part, ast.Constant) else VARIABLE for part in node.values]
                    found.append("".join(map(str, parts)))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.append(node.value)
    return found


def is_message(shown: str, strings: list[str]) -> bool:
    """Return whether the parts of a message between `...` stand in one string of the code, in this order."""
    first, *others = filter(None, shown.split(VARIABLE))
    for text in strings:
        end = text.find(first) + len(first) if first in text else -1
        for part in others:
            end = text.find(part, end) + len(part) if end >= 0 and part in text[end:] else -1
        if end >= 0:
            return True
    return False


def test_the_messages_on_the_page_of_troubleshooting_are_those_of_the_code() -> None:
    text = (DOCS / "troubleshooting.md").read_text("utf-8")
    sections = re.findall(r"^## Messages .*?(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    shown = [match for section in sections for match in re.findall(r"^\| `([^`]+)` \|", section, re.MULTILINE)]
    assert len(shown) > 40
    strings = templates()
    assert [message for message in shown if not is_message(message, strings)] == []
    assert not is_message("the folder ./data does not exist; name another", strings)
    assert not is_message("... is not complete: run ... another command", strings)


def test_the_verdict_that_the_tutorial_shows_has_the_form_of_the_code() -> None:
    (block,) = [block for block in read_blocks(DOCS / "tutorial.md") if block.language == "text"]
    form = re.sub(r"\(.*\)", f"({VARIABLE})", " ".join(block.text.split()))
    form = re.sub(r"runs/\w+|macro-F1|\btest\b|\d\.\d+ against \d\.\d+|\d\.\d+", VARIABLE, form)
    assert form == "... is better than ... by ... ... on ... (...): ...."
    assert is_message(form, templates())
