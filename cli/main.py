"""`mervn`: the group of commands. Each command is imported when it is called."""

from __future__ import annotations

import errno
import os
import signal
import sys
import warnings
from typing import Any

import click

from cli.commands import COMMANDS
from cli.output import echo
from features.cpu_threads import bound_spinning
from features.errors import InputError, UsageError
from features.lazy_import import import_target
from features.suggestions import did_you_mean

UNUSABLE = (errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR)
"""Errors of paths that no file can have."""
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NO_THREAD = "can't start new thread"
"""Message of Python's RuntimeError when the system allows no further thread."""
REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)
"""Errors of places where the user may not write, such as /sys."""
GROUPS = {"store": "List, check and convert feature stores."}


def _show_help(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        click.echo(ctx.get_help())
        ctx.exit()


class LazyGroup(click.Group):
    """A group that imports a command's module only when the command is called."""

    def __init__(self, prefix: str = "", **attributes: Any) -> None:
        super().__init__(**attributes)
        self.prefix = prefix
        shows_all = click.Option(["--help-all"], is_flag=True, expose_value=False, hidden=True, callback=_show_help)
        self.params.append(shows_all)  # as its commands have it

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the commands, and of the groups, in this group."""
        inside = [name.removeprefix(self.prefix) for name in COMMANDS if name.startswith(self.prefix)]
        return list(dict.fromkeys(name.split(" ")[0] for name in inside))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return a command."""
        if not self.prefix and cmd_name in GROUPS:
            return LazyGroup(f"{cmd_name} ", name=cmd_name, help=GROUPS[cmd_name], no_args_is_help=True)
        spec = COMMANDS.get(self.prefix + cmd_name)
        if spec is None:
            return None
        command: click.Command = import_target(spec.target)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; the error of an unknown one suggests similar names."""
        if args and self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            near = did_you_mean(args[0], self.list_commands(ctx))
            ctx.fail(f"No such command {args[0]!r}{near}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing them."""
        rows = []
        for name in self.list_commands(ctx):
            is_group = name in GROUPS and not self.prefix
            rows.append((name, GROUPS[name] if is_group else COMMANDS[self.prefix + name].help))
        with formatter.section("Commands"):
            formatter.write_dl(rows)


def _show_version(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from importlib.metadata import version  # slower than the rest of this module

        click.echo(f"mervn {version('mervn')}")
        ctx.exit()


@click.group(
    cls=LazyGroup,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)
@click.option(
    "--version",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_show_version,
    help="Show the version and exit.",
)
def mervn() -> None:
    """Vietnamese multimodal emotion recognition from transcript and speech."""


def main() -> None:
    """Run `mervn`; exit code 0 done, 1 failed, 2 wrong usage.

    An error that the user can cause ends in a message, not in a traceback.
    """
    encoding = sys.getfilesystemencoding()
    if encoding != "utf-8":  # names of files and of labels could not be written as they are
        sys.exit(f"error: Python must use UTF-8 for file names, found {encoding}: set PYTHONUTF8=1, or LC_ALL=C.UTF-8")
    # a cluster sends SIGTERM before it kills a job: save a checkpoint, then end
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    bound_spinning()  # before torch is imported, which reads it once
    warnings.showwarning = lambda message, *_: echo(f"warning: {message}")
    try:
        code = run(sys.argv[1:])
    except KeyboardInterrupt:  # a second one, while the first one was reported
        code = 1
    # from here on, Ctrl-C would only change the exit code
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.exit(code)


def run(arguments: list[str]) -> int:
    """Run a command line and return the exit code."""
    try:
        result = mervn.main(args=arguments, prog_name="mervn", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return 2
    except InputError as error:
        click.echo(f"error: {error}", err=True)
        return 2 if isinstance(error, UsageError) else 1
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted; run the same command again to resume", err=True)
        return 1
    except BrokenPipeError:
        # the reader of the pipe has ended: discard what Python flushes at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.errno not in (*FULL, *REFUSED, *UNUSABLE):
            raise
        place = f"{error.filename}: " if error.filename else ""
        is_full = error.errno in FULL
        hint = "; finished work is kept: make room and run the same command again" if is_full else ""
        click.echo(f"error: {place}{error.strerror}{hint}", err=True)
        return 2 if error.errno in UNUSABLE else 1
    except RuntimeError as error:
        if NO_THREAD not in str(error):
            raise
        click.echo(f"error: a thread must start, found: {error}; raise the limit of processes (ulimit -u)", err=True)
        return 1
    return result if isinstance(result, int) else 0
