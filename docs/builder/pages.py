"""Copy the pages of the repository for the site: their links then lead to the pages of the site."""

from __future__ import annotations

import html
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parents[2]
ELSEWHERE = {
    "README.md": "index.md", "README.vi.md": "index.vi.md", "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md", "LICENSE": "LICENSE.txt", "benchmarks/README.md": "benchmarks.md",
    "docs/notebook.ipynb": "notebook.md",
}  # fmt: skip
"""Files of the repository, by their path, whose page has another name than their own."""
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
PICTURE = re.compile(
    r'<picture>\s*<source media="\(prefers-color-scheme: dark\)" srcset="(?P<dark>[^"]+)">\s*'
    r'<img src="(?P<light>[^"]+)" alt="(?P<alt>[^"]+)">\s*</picture>'
)
COMMENT = re.compile(r"^<!-- .*? -->\n", re.MULTILINE)
LINK = re.compile(r"(?P<before>\]\()(?P<target>[^)\s#]*)(?P<anchor>#[^)\s]*)?(?P<after>\))")


class PageError(Exception):
    """A page that cannot become a page of the site."""


def as_markdown(text: str) -> str:
    """Return plain text as Markdown that shows it as it is; `names` stay code."""
    parts = re.split(r"(`[^`]+`)", text)
    plain = {"|": "&#124;", "*": "&#42;", "_": "&#95;", "[": "&#91;", "]": "&#93;", "\\": "&#92;"}
    for number, part in enumerate(parts):
        if number % 2:
            parts[number] = f"<code>{html.escape(part[1:-1], quote=False).replace('|', '&#124;')}</code>"
        else:
            escaped = html.escape(part, quote=False)
            parts[number] = "".join(plain.get(letter, letter) for letter in escaped)
    return "".join(parts)


def page_map() -> dict[str, str]:
    """Return the page of the site by the path of the file that it is made from."""
    pages = {path.relative_to(ROOT).as_posix(): path.name for path in (ROOT / "docs").glob("*.md")}
    return pages | {name: page for name, page in ELSEWHERE.items() if (ROOT / name).is_file()}


def translate(text: str, name: str, pages: Mapping[str, str]) -> str:
    """Return the text of a file of the repository as a page: links, pictures and comments are rewritten.

    Raises PageError for a link to a file that is no page of the site.
    """

    def leads_to(match: re.Match[str]) -> str:
        target, anchor = match["target"], match["anchor"] or ""
        if not target or re.match(r"\w+:", target):
            return match[0]
        path = PurePosixPath(os.path.normpath(PurePosixPath(name).parent / target)).as_posix()
        if path.startswith("docs/figures/"):
            return f"{match['before']}{path.removeprefix('docs/')}{anchor}{match['after']}"
        if path not in pages:
            raise PageError(f"{name}: the link {target} must lead to a page of the site")
        return f"{match['before']}{pages[path]}{anchor}{match['after']}"

    parts, end = [], 0
    for block in [*FENCE.finditer(text), None]:
        between = text[end : block.start() if block else len(text)]
        between = PICTURE.sub(r"![\g<alt>](\g<light>#only-light)\n![\g<alt>](\g<dark>#only-dark)", between)
        parts.append(LINK.sub(leads_to, COMMENT.sub("", between)))
        if block:
            parts.append(block[0])
            end = block.end()
    return "".join(parts)


def copy_pages(folder: Path) -> None:
    """Write the pages that are text of the repository, and the figures, into a folder."""
    pages = page_map()
    for name, page in pages.items():
        if name.endswith(".md"):
            text = (ROOT / name).read_text("utf-8")
            (folder / page).write_text(translate(text, name, pages), "utf-8")
    shutil.copy(ROOT / "LICENSE", folder / ELSEWHERE["LICENSE"])
    shutil.copytree(ROOT / "docs" / "figures", folder / "figures", ignore=shutil.ignore_patterns("*.py", "__pycache__"))
