"""Values of the options: from the flag, else --config, else mervn.toml, else the default."""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import click
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from cli.commands import COMMANDS
from features.config import Group, OneOf, Options
from features.encoders.selector import names_code
from features.errors import UsageError
from features.lazy_import import import_target
from features.regular_files import read_regular
from features.suggestions import did_you_mean

TOML_FILE = "mervn.toml"
SHARED_KEYS = ("data", "features-dir", "audio-root", "device")
"""Keys of mervn.toml outside its tables, which set the option of every command that has it."""


@dataclass(frozen=True)
class Setting:
    """A value and its source."""

    value: Any
    source: str
    """`flag`, `default`, or the file that sets it."""


def resolve(
    command: str, model: type[Options], flags: Mapping[str, Any], config: Path | None
) -> tuple[Options, dict[str, Setting]]:
    """Return the options of a command, and each value with its source by name.

    UsageError lists every invalid value.
    """
    given: dict[str, Setting] = {}
    by_flag = {name: Setting(value, "flag") for name, value in flags.items() if value is not None}
    for source in (_from_toml(command, model), _from_json(config, model) if config else {}, by_flag):
        _drop_replaced(given, source, model.exclusive)
        given.update(source)
    _refuse_code(given)
    values = {name: _split(model, name, setting.value) for name, setting in given.items()}
    try:
        options = model.model_validate(values)
    except ValidationError as error:
        raise UsageError("\n".join(_explain(model, detail, given) for detail in error.errors())) from error
    groups = list(Group)
    settings: dict[str, Setting] = {}
    for name in sorted(model.model_fields, key=lambda name: groups.index(model.help_group(name))):
        source_name = given[name].source if name in given else "default"
        settings[name] = Setting(getattr(options, name), source_name)
    return options.with_general(given.keys() - by_flag.keys()), settings


def _drop_replaced(
    given: dict[str, Setting], source: Mapping[str, Setting], exclusive: tuple[tuple[str, ...], ...]
) -> None:
    """Remove the options that exclude an option of a source with higher priority."""
    chosen = {name for name, setting in source.items() if setting.value is not None and setting.value is not False}
    for names in exclusive:
        if chosen.intersection(names):
            for name in names:
                given.pop(name, None)


def resolve_data(data: Path | None) -> Path:
    """Return the given data folder, else ./data; UsageError tells how to give it."""
    if data is not None:
        if data.is_file():
            raise UsageError(f"--data must be the folder of the manifests, found the file {data}")
        if not data.is_dir():
            raise UsageError(f"the data folder {data} does not exist; give another with --data DIR")
        return data
    if Path("data").is_dir():
        return Path("data")
    raise UsageError(
        'the folder ./data does not exist; give another with --data DIR or as `data = "DIR"` in mervn.toml'
    )


def _split(model: type[Options], name: str, value: Any) -> Any:
    """Split "256,128" if a field takes several values."""
    if isinstance(value, str) and get_origin(model.model_fields[name].annotation) is tuple:
        return [part.strip() for part in value.split(",") if part.strip()]
    return value


def _explain(model: type[Options], detail: ErrorDetails, given: Mapping[str, Setting]) -> str:
    """Return the error of one option: what it must be, what was found, and where it was given."""
    message = detail["msg"].removeprefix("Value error, ")
    if not detail["loc"]:
        return message
    name = str(detail["loc"][0])
    source = given[name].source if name in given else "default"
    place = "" if source == "flag" else f" (from {source})"
    near = did_you_mean(str(detail["input"]), _choices(model, name))
    if detail["type"] == "string_pattern_mismatch":  # nobody should have to read a regular expression
        description = model.model_fields[name].description or ""
        message = f"the value must have the form in its help, `{description.rstrip('.')}`"
    return f"{flag_name(name)}: {message[0].lower()}{message[1:]}, found {detail['input']!r}{near}{place}"


def flag_name(field: str) -> str:
    """Return the flag of a field."""
    return f"--{_key(field)}"


def _key(field: str) -> str:
    """Return the key of a field in mervn.toml."""
    return field.replace("_", "-")


def _keys(model: type[Options]) -> list[str]:
    """Return the keys of all fields of a model in mervn.toml."""
    return list(map(_key, model.model_fields))


def _from_json(path: Path, model: type[Options]) -> dict[str, Setting]:
    """Return the options that a --config file sets: a config.json, or a plain JSON object."""
    try:
        document = json.loads(read_regular(path))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"--config must be a JSON file as a run writes it, found {path}: {error}") from error
    options = document.get("options", document) if isinstance(document, dict) else None
    if not isinstance(options, dict):
        raise UsageError(f"--config must hold a JSON object of options, found another type in {path}")
    known = _keys(model)
    for key in options:
        if _key(key) not in known:
            raise UsageError(f"{path}: no option is called {key!r}{did_you_mean(_key(key), known)}")
    return {key.replace("-", "_"): Setting(value, str(path)) for key, value in options.items()}


def _refuse_code(settings: Mapping[str, Setting]) -> None:
    """Raise UsageError if a file names a custom module or sets trust_code.

    Files can come from other people, so code runs only if a flag allows it.
    """
    for name, setting in settings.items():
        flag = flag_name(name)
        if setting.source == "flag":
            continue
        if isinstance(setting.value, str) and names_code(setting.value):
            found = setting.value
            raise UsageError(f"{setting.source} names the code {found}; review it, then pass {flag} {found}")
        if name == "trust_code" and setting.value is not False:
            raise UsageError(f"{setting.source} must not set trust_code; review the code of the run, then pass {flag}")


def _from_toml(command: str, model: type[Options]) -> dict[str, Setting]:
    """Return the options that mervn.toml of the current folder sets for a command.

    An invalid key that may be meant for this command is an error, any other one a warning.
    """
    path = Path(TOML_FILE)
    if not path.exists():
        return {}
    try:
        document = tomllib.loads(read_regular(path).decode("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path} must be a TOML file: {error}") from error
    table = command.split(" ")[0]
    found: dict[str, Setting] = {}
    faults: list[str] = []
    warned: list[str] = []
    for key, value in document.items():
        fault, concerns = _top_fault(key, value, table, model)
        if fault is not None:
            (faults if concerns else warned).append(f"{path}: {fault}")
        elif isinstance(value, dict):
            (faults if key == table else warned).extend(_table_faults(f"{path} [{key}]", key, value))
        elif key.replace("-", "_") in model.model_fields:
            found[key.replace("-", "_")] = Setting(value, str(path))
    for line in warned:
        click.echo(f"warning: {line}", err=True)
    if faults:
        raise UsageError("\n".join(faults))
    for key, value in document.get(table, {}).items():
        if key.replace("-", "_") in model.model_fields:
            found[key.replace("-", "_")] = Setting(value, f"{path} [{table}]")
    return found


def _top_fault(key: str, value: Any, table: str, model: type[Options]) -> tuple[str | None, bool]:
    """Return what is wrong with a top-level key or the name of a table; None if nothing is.

    Also return whether the fault may concern the command of `table`.
    """
    tables = list(dict.fromkeys(name.split(" ")[0] for name in COMMANDS))
    if isinstance(value, dict):
        if key in tables:
            return None, False
        near = difflib.get_close_matches(key, tables, n=3)
        hint = did_you_mean(key, tables) or f"; it must be one of {', '.join(tables)}"
        return f"no command is called [{key}]{hint}", table in near
    if _key(key) in SHARED_KEYS:
        return None, False
    owners = [name for name in tables if _key(key) in _options_of(name)]
    if owners:
        places = " or ".join(map("[{}]".format, owners))
        return f"{key} is not a key for all commands ({', '.join(SHARED_KEYS)}); put it under {places}", table in owners
    known = [*SHARED_KEYS, *_keys(model), *tables]
    return f"no command knows {key!r}{did_you_mean(key, known)}", True


def _options_of(table: str) -> set[str]:
    """Return the keys that a table can hold: the options of its command, or of all in a group."""
    found: set[str] = set()
    for name, spec in COMMANDS.items():
        if name.split(" ")[0] == table:
            found.update(_keys(import_target(spec.options)))
    return found


def _table_faults(place: str, table: str, values: Mapping[str, Any]) -> list[str]:
    """Return a message for each unknown key of a table."""
    known, faults = _options_of(table), []
    for key in values:
        if _key(key) not in known:
            faults.append(f"{place}: no option is called {key!r}{did_you_mean(key, known)}")
    return faults


def _choices(model: type[Options], name: str) -> list[str]:
    """Return the valid values of an option that is a Literal or a name of a registry; else none."""
    found: list[str] = []
    parts: list[Any] = [model.model_fields[name].annotation, *model.model_fields[name].metadata]
    while parts:
        part = parts.pop()
        if isinstance(part, OneOf):
            found += part.names
        elif get_origin(part) is Literal:
            found += map(str, get_args(part))
        else:
            parts += get_args(part)
    return found
