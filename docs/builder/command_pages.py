"""A page per command, from what `mervn COMMAND --help-all` prints."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import click
from pages import as_markdown

from cli.commands import COMMANDS
from cli.grouped_help import GroupedCommand
from features.lazy_import import import_target


class MarkdownFormatter(click.HelpFormatter):
    """Writes the help of a command as Markdown: a heading per group, a table of its options."""

    def write_usage(self, prog: str, args: str = "", prefix: str | None = None) -> None:
        """Write the line that says how to call the command."""
        self.write(f"```text\n{prog} {args}\n```\n\n")

    def write_text(self, text: str) -> None:
        """Write the description: paragraphs, whose lines are joined."""
        for paragraph in re.split(r"\n\s*\n", text):
            self.write(as_markdown(" ".join(paragraph.replace("\b", "").split())) + "\n\n")

    def write_dl(self, definitions: Sequence[tuple[str, str]], col_max: int = 30, col_spacing: int = 2) -> None:
        """Write a table of options and what they do."""
        self.write("| option | meaning |\n|---|---|\n")
        for option, meaning in definitions:
            self.write(f"| <code>{as_markdown(option.strip())}</code> | {as_markdown(meaning)} |\n")
        self.write("\n")

    @contextmanager
    def section(self, name: str) -> Iterator[None]:
        """Write what is inside below a heading."""
        self.write(f"## {name}\n\n")
        yield


def command_page(name: str, used_on: Iterable[str]) -> str:
    """Return the page of a command; `used_on` are links to the pages that run it."""
    command: GroupedCommand = import_target(COMMANDS[name].target)
    context = click.Context(command, info_name=f"mervn {name}")
    formatter = MarkdownFormatter()
    before = command.shows_all
    command.shows_all = True
    try:
        command.format_help(context, formatter)
    finally:
        command.shows_all = before
    links = ", ".join(used_on)
    used = f"Examples: {links}\n\n" if links else ""
    text = formatter.getvalue().rstrip("\n")
    first = text.find("\n## ")
    return f"# mervn {name}\n\n{text[: first + 1]}{used}{text[first + 1 :]}\n"


def pages_with(name: str, folder: Path) -> list[str]:
    """Return links to the pages of a folder that have a line with this command."""
    wanted = re.compile(rf"^mervn {re.escape(name)}(?: |$)", re.MULTILINE)
    found = []
    for path in sorted(folder.glob("*.md")):
        text = path.read_text("utf-8")
        if wanted.search(text) and ".vi." not in path.name and path.name != "changelog.md":
            title = re.search(r"^# (.+)$", text, re.MULTILINE)
            found.append(f"[{title[1] if title else path.stem}](../{path.name})")
    return found


def write_command_pages(folder: Path) -> list[str]:
    """Write commands/*.md below the folder of the pages, and return their paths for the navigation."""
    (folder / "commands").mkdir()
    lines = ["# Commands", "", "What `mervn COMMAND --help-all` prints.", "", "| command | what it does |", "|---|---|"]
    paths = ["commands/index.md"]
    for name in sorted(COMMANDS):
        path = f"commands/{name.replace(' ', '-')}.md"
        (folder / path).write_text(command_page(name, pages_with(name, folder)), "utf-8")
        lines.append(f"| [mervn {name}]({path.removeprefix('commands/')}) | {as_markdown(COMMANDS[name].help)} |")
        paths.append(path)
    (folder / "commands" / "index.md").write_text("\n".join(lines) + "\n", "utf-8")
    return paths
