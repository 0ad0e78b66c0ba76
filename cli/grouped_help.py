"""Click command whose help has groups; `--help` shows the common options, `--help-all` all."""

from __future__ import annotations

from typing import Any

import click

from features.config import Group

WIDTH = 120
"""Maximum width of the help in columns; a narrower terminal decides."""
COLUMN = 29
"""Maximum width of the options in the help; the help of a longer one starts on the next line."""


class GroupedOption(click.Option):
    """Click option with a help group; only `--help-all` shows one that is `advanced`."""

    def __init__(self, *args: Any, group: Group = Group.GENERAL, advanced: bool = False, **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self.group, self.advanced = group, advanced

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """Return the option and its help; a flag and its opposite as `--[no-]NAME`."""
        if self.secondary_opts:
            return f"--[no-]{self.opts[0].removeprefix('--')}", self.help or ""
        return super().get_help_record(ctx)


class GroupedCommand(click.Command):
    """Click command that lists its options in the order of `Group`.

    `--help` names `--help-all` if any option is advanced.
    """

    def __init__(self, name: str, **attributes: Any) -> None:
        settings = {"help_option_names": ["-h", "--help"], "max_content_width": WIDTH}
        super().__init__(name, context_settings=settings, **attributes)
        self.shows_all = not any(isinstance(param, GroupedOption) and param.advanced for param in self.params)
        self.params.append(
            GroupedOption(
                ["--help-all"], is_flag=True, expose_value=False, is_eager=True, callback=self._show_all,
                help="Show all options, of which --help shows the common ones.", hidden=self.shows_all,
            )
        )  # fmt: skip

    def _show_all(self, ctx: click.Context, _: click.Parameter, value: bool) -> None:
        if value and not ctx.resilient_parsing:
            before, self.shows_all = self.shows_all, True  # not longer: the command can be called again
            try:
                click.echo(ctx.get_help())
            finally:
                self.shows_all = before
            ctx.exit()

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one section per group."""
        sections: dict[Group, list[tuple[str, str]]] = {}
        column = 0
        for param in sorted(self.get_params(ctx), key=_rank):
            record = param.get_help_record(ctx) if isinstance(param, click.Option) else None
            if record is not None and (self.shows_all or not getattr(param, "advanced", False)):
                sections.setdefault(getattr(param, "group", Group.GENERAL), []).append(record)
                column = max(column, len(record[0])) if len(record[0]) <= COLUMN else column
        for group in Group:
            if group in sections:
                # names are padded so that the columns of all sections align
                padded = [(name.ljust(column), text) for name, text in sections[group]]
                with formatter.section(group.value):
                    formatter.write_dl(padded, col_max=column)


def _rank(param: click.Parameter) -> tuple[bool, bool]:
    """Return the sort key of an option: common before advanced, with a value before flags."""
    return getattr(param, "advanced", False), getattr(param, "is_flag", False)
