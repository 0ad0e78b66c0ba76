"""Turns an option model into a click command with one flag per field.

The model is the only source of defaults and help.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import click
from pydantic.fields import FieldInfo

from cli.commands import COMMANDS
from cli.grouped_help import GroupedCommand, GroupedOption
from cli.output import Output
from cli.settings import flag_name, resolve
from features.config import ADVANCED, OneOf, Options
from features.lazy_import import import_target

METAVARS = {int: "INT", float: "NUMBER", str: "TEXT", Path: "PATH"}
LONGEST_METAVAR = 12
"""Choices of more characters are listed in the description: the columns of `--help` stay narrow."""


def command(
    name: str, argument: str | tuple[str, ...] = (), *, optional: bool = False, several: bool = False
) -> Callable[[Callable[..., int | None]], click.Command]:
    """Make a command of COMMANDS from a function; it returns the exit code, or None for 0.

    The function takes the paths of its arguments, if any, then `options, output`. The last argument is
    None if it is `optional` and not given. With `several`, it is a tuple of one or more paths, or of
    any number if it is `optional` too. Flags have no click defaults, so that a value from a flag
    differs from one from a file; pydantic checks every value, wherever it came from.
    """
    spec = COMMANDS[name]
    model: type[Options] = import_target(spec.options)
    arguments = (argument,) if isinstance(argument, str) else argument

    def decorate(function: Callable[..., int | None]) -> click.Command:
        def callback(config: Path | None, print_config: bool, as_json: bool, **values: Any) -> int:
            given = [values.pop(each) for each in arguments]
            positions: list[Any] = []
            for path in given:
                is_list = isinstance(path, tuple)
                positions.append(tuple(map(Path, path)) if is_list else None if path is None else Path(path))
            options, settings = resolve(name, model, values, config)
            output = Output(as_json)
            if print_config:
                output.print_settings(settings)
                return 0
            return function(*positions, options, output) or 0

        params: list[click.Parameter] = [click.Argument([each]) for each in arguments[:-1]]
        for each in arguments[-1:]:
            params.append(click.Argument([each], required=not optional, nargs=-1 if several else 1))
        params += [_option(model, field) for field in model.model_fields]
        text = (function.__doc__ or spec.help).strip()
        return GroupedCommand(
            name.split(" ")[-1], callback=callback, params=[*params, *_general()], help=text, short_help=spec.help
        )

    return decorate


def _general() -> list[click.Parameter]:
    """Return the options that every command has."""
    return [
        GroupedOption(
            ["--config"], type=click.Path(path_type=Path), help="JSON file of options, such as a run's config.json."
        ),
        GroupedOption(["--print-config"], is_flag=True, help="Show each value and where it comes from, then stop."),
        GroupedOption(["--json", "as_json"], is_flag=True, help="Print one JSON document as the last line of stdout."),
    ]


def _option(model: type[Options], field: str) -> click.Option:
    """Return the flag of a field: a text that pydantic parses, or a pair of flags for a bool."""
    info = model.model_fields[field]
    flag = flag_name(field)
    kind, several = _kind(info.annotation)
    attributes: dict[str, Any] = {"group": model.help_group(field), "advanced": ADVANCED in model.marks(field)}
    text = str(info.description)
    if kind is bool:
        return GroupedOption([f"{flag}/--no-{flag[2:]}", field], default=None, help=text, **attributes)
    choices = list(map(str, get_args(kind))) if get_origin(kind) is Literal else []
    for part in info.metadata:
        choices += part.choices if isinstance(part, OneOf) else []
    metavar = "|".join(choices) or METAVARS[kind]
    if len(metavar) > LONGEST_METAVAR:
        metavar = "NAME"
        if not all(choice in text for choice in choices):
            text = f"{text.removesuffix('.')}: {', '.join(choices[:-1])} or {choices[-1]}."
    metavar += ",..." if several else ""
    return GroupedOption(
        [flag, field], type=str, default=None, metavar=metavar, help=_with_default(text, info), **attributes
    )


def _kind(annotation: Any) -> tuple[Any, bool]:
    """Return the plain type of a field, and whether it takes several values."""
    if get_origin(annotation) is Annotated:
        return _kind(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        (inner,) = [part for part in get_args(annotation) if part is not type(None)]
        return _kind(inner)
    if get_origin(annotation) is tuple:
        return _kind(get_args(annotation)[0])[0], True
    return annotation, False


def _with_default(text: str, info: FieldInfo) -> str:
    """Add the default to a description; an option that can be unset describes its own default."""
    default = info.get_default()
    if default is None or default == ():
        return text
    shown = ",".join(map(str, default)) if isinstance(default, tuple) else default
    return f"{text.removesuffix('.')} [default: {shown}]."
