"""Build the documentation site: copied pages, generated pages, then Zensical, then a check of every link.

python docs/builder/build.py site
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Collection
from pathlib import Path
from typing import Any

import click
from api_pages import write_api_pages
from command_pages import write_command_pages
from links import faults
from notebook_page import write_notebook_page
from pages import PageError, copy_pages
from performance_page import write_performance_page

CONFIG = Path(__file__).with_name("zensical.toml")
MARKER = "search.json"
"""A file that every site has."""
NAVIGATION = re.compile(r"^nav = \[.*?^\]", re.MULTILINE | re.DOTALL)


def existing(entry: Any, pages: Collection[str], generated: dict[str, list[str]]) -> Any:
    """Return an entry of the navigation without pages that do not exist; None if nothing is left."""
    if isinstance(entry, str):
        return entry if entry in pages else None
    if isinstance(entry, list):
        found = (existing(each, pages, generated) for each in entry)
        return [each for each in found if each is not None] or None
    ((title, below),) = entry.items()
    if title in generated:
        below = [*below, *generated[title]]
    left = existing(below, pages, generated)
    return None if left is None else {title: left}


def named(entry: Any) -> list[str]:
    """Return the pages that an entry of the navigation names."""
    if isinstance(entry, str):
        return [entry]
    below: list[str] = []
    for each in entry if isinstance(entry, list) else entry.values():
        below += named(each)
    return below


def as_toml(value: Any) -> str:
    """Return strings, lists and objects of them as TOML on one line."""
    if isinstance(value, list):
        return f"[{', '.join(map(as_toml, value))}]"
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{json.dumps(key, ensure_ascii=False)} = {as_toml(value[key])}' for key in value)} }}"
    return json.dumps(value, ensure_ascii=False)


def configuration(text: str, pages: Collection[str], generated: dict[str, list[str]]) -> str:
    """Return the configuration with the navigation of these pages; PageError for a page that it does not name."""
    navigation = existing(tomllib.loads(text)["project"]["nav"], pages, generated)
    left_out = sorted(set(pages) - set(named(navigation)))
    if left_out:
        raise PageError(f"every page must be in `nav` of {CONFIG.name}, which lacks {', '.join(left_out)}")
    return NAVIGATION.sub(lambda _: f"nav = {as_toml(navigation)}", text)


def write_sources(folder: Path) -> None:
    """Write the pages and the configuration that Zensical reads."""
    pages = folder / "pages"
    pages.mkdir(parents=True)
    copy_pages(pages)
    shutil.copy(CONFIG.with_name("pictures.css"), pages)
    write_notebook_page(pages)
    write_performance_page(pages)
    generated = {"Python API": write_api_pages(pages), "Commands": write_command_pages(pages)}
    names = [path.relative_to(pages).as_posix() for path in sorted(pages.rglob("*.md"))]
    text = configuration(CONFIG.read_text("utf-8"), names, generated)
    (folder / "zensical.toml").write_text(text, "utf-8")


def build(output: Path) -> None:
    """Build the site into a folder, whose earlier site is replaced; PageError says what is wrong with a page."""
    zensical = Path(sys.executable).with_name("zensical")
    if not zensical.is_file():
        raise PageError(
            f"the site needs zensical, but {zensical} does not exist: pip install -c constraints.txt '.[docs]'"
        )
    if output.exists() and not (output / MARKER).is_file():
        raise PageError(
            f"{output} must be missing or an earlier site, but {MARKER} is not in it; choose another folder"
        )
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_sources(folder)
        done = subprocess.run([zensical, "build", "--strict"], cwd=folder, capture_output=True, text=True)
        if done.returncode != 0:
            raise PageError(f"zensical failed:\n{done.stdout}{done.stderr}")
        for page in (folder / "site").glob("*.vi.html"):  # Zensical has one language for all pages
            page.write_text(page.read_text("utf-8").replace('lang="en"', 'lang="vi"', 1), "utf-8")
        found = faults(folder / "site")
        if found:
            raise PageError("the pages must load nothing from elsewhere and have no dead links:\n" + "\n".join(found))
        shutil.rmtree(output, ignore_errors=True)
        shutil.move(folder / "site", output)


@click.command()
@click.argument("folder", type=click.Path(path_type=Path), default="site")
def main(folder: Path) -> None:
    """Build the site into FOLDER."""
    try:
        build(folder)
    except PageError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"{folder}/index.html; the search needs a server: python -m http.server --directory {folder}")


if __name__ == "__main__":
    main()
