"""Turns an option model into a click command: one flag a field, the model the single source of defaults and help."""

from __future__ import annotations

import types
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import click
from pydantic.fields import FieldInfo

from cli.main import COMMANDS
from cli.output import Output
from cli.settings import flag_name, resolve
from features.config import OneOf, Options
from features.lazy_import import import_target

METAVARS = {int: "INTEGER", float: "NUMBER", str: "TEXT", Path: "PATH"}


def command(name: str, argument: str | None = None) -> Callable[[Callable[..., int | None]], click.Command]:
    """Make a command of the table from a function `(options, output)`, or `(argument, options, output)`.

    Flags have no click defaults, so that a value from a file is told from a flag's; pydantic checks every value,
    wherever it came from.
    """
    spec = COMMANDS[name]
    model: type[Options] = import_target(spec.options)

    def decorate(function: Callable[..., int | None]) -> click.Command:
        def callback(config: Path | None, print_config: bool, as_json: bool, **values: Any) -> int:
            position = [Path(values.pop(argument))] if argument else []
            options, settings = resolve(name, model, values, config)
            output = Output(as_json)
            if print_config:
                output.print_settings(settings)
                return 0
            return function(*position, options, output) or 0

        params: list[click.Parameter] = [click.Argument([argument], required=True)] if argument else []
        params += [_option(field, info) for field, info in model.model_fields.items()]
        params += [
            click.Option(
                ["--config"], type=click.Path(path_type=Path), help="JSON file of options, as a run writes it."
            ),
            click.Option(["--print-config"], is_flag=True, help="Show each value and where it came from, then stop."),
            click.Option(["--json", "as_json"], is_flag=True, help="Print one JSON document as the last line."),
        ]
        text = (function.__doc__ or spec.help).strip()
        return click.Command(
            name.split(" ")[-1], callback=callback, params=params, help=text, short_help=spec.help,
            context_settings={"help_option_names": ["-h", "--help"]},
        )  # fmt: skip

    return decorate


def _option(field: str, info: FieldInfo) -> click.Option:
    flag = flag_name(field)
    kind, several = _kind(info.annotation)
    text = f"{info.description} [{_default(info)}]" if _default(info) else str(info.description)
    if kind is bool:
        return click.Option([f"{flag}/--no-{flag[2:]}", field], default=None, help=text)
    names = [name for part in info.metadata if isinstance(part, OneOf) for name in part.choices]
    if names:
        metavar = "|".join(names)
    elif get_origin(kind) is Literal:
        metavar = "|".join(str(choice) for choice in get_args(kind))
    else:
        metavar = METAVARS[kind]
    return click.Option([flag, field], type=str, default=None, metavar=metavar + (",..." if several else ""), help=text)


def _kind(annotation: Any) -> tuple[Any, bool]:
    """Return the plain type of a field, and whether it takes several."""
    if get_origin(annotation) is Annotated:
        return _kind(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        (inner,) = [part for part in get_args(annotation) if part is not type(None)]
        return _kind(inner)
    if get_origin(annotation) is tuple:
        return _kind(get_args(annotation)[0])[0], True
    return annotation, False


def _default(info: FieldInfo) -> str:
    default = info.get_default()
    if default is None or default is False:
        return ""
    shown = ",".join(str(part) for part in default) if isinstance(default, tuple) else str(default)
    return f"default: {shown}"
