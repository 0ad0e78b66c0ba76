"""Find dead links in a built site, and what its pages would load from elsewhere."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADS = {("script", "src"), ("link", "href"), ("img", "src"), ("source", "srcset"), ("iframe", "src")}
"""(tag, attribute) that a browser loads when it shows the page."""
ONLY_NAMED = {"canonical", "alternate", "next", "prev", "edit"}
"""Values of `rel` of a <link> that a browser does not load."""
URL_IN_STYLE = re.compile(r"""url\(\s*['"]?((?:https?:)?//[^'")]+)|@import\s+['"]((?:https?:)?//[^'"]+)""")


class Page(HTMLParser):
    """The ids, the links and the loaded files of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect the ids and targets of a tag."""
        values = {name: value or "" for name, value in attrs}
        self.ids |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        if tag == "link" and ONLY_NAMED & set(values.get("rel", "").split()):
            return
        self.loads += [value for name, value in values.items() if (tag, name) in LOADS]


def faults(site: Path) -> list[str]:
    """Return the dead links of the pages below a folder, and the files that they would load from elsewhere."""
    pages = {path.resolve(): Page(path.read_text("utf-8")) for path in sorted(site.rglob("*.html"))}
    found = []
    for path, page in pages.items():
        name = path.relative_to(site.resolve()).as_posix()
        found += [f"{name} loads {url}" for url in page.loads if _is_elsewhere(url)]
        if path.name != "404.html":
            found += [f"{name}: dead link {url}" for url in [*page.links, *page.loads] if _is_dead(url, path, pages)]
    return found + list(_loaded_by_styles(site))


def _is_elsewhere(url: str) -> bool:
    return bool(urlsplit(url).netloc)


def _is_dead(url: str, path: Path, pages: dict[Path, Page]) -> bool:
    """Return whether a link leads to no file, or to no id of its page."""
    parts = urlsplit(url)
    if parts.scheme or parts.netloc:
        return False
    target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
    if target.is_dir():
        target /= "index.html"
    if not target.is_file():
        return True
    if not parts.fragment or target not in pages:
        return False
    return unquote(parts.fragment) not in pages[target].ids


def _loaded_by_styles(site: Path) -> Iterator[str]:
    for path in sorted(site.rglob("*.css")):
        for match in URL_IN_STYLE.finditer(path.read_text("utf-8")):
            yield f"{path.relative_to(site).as_posix()} loads {match[1] or match[2]}"
