"""The TOML file of a grid, and checks of its values: lists, numbers, and ranges of numbers."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

from features.errors import UsageError
from features.regular_files import read_regular

RANGE_KEYS = ("low", "high", "log", "step")


@dataclass(frozen=True)
class Range:
    """Range of an option, such as { low = 1e-5, high = 1e-3, log = true }; both ends belong to it."""

    low: float
    high: float
    log: bool = False
    """Search the logarithm."""
    step: float | None = None
    """Only low, low + step, ..., up to high."""
    whole: bool = False
    """The option takes whole numbers, and low and high are int."""


def same(a: Any, b: Any) -> bool:
    """Tell whether two values of a TOML file are equal; true is not 1, but 1 is 1.0."""
    return isinstance(a, bool) == isinstance(b, bool) and bool(a == b)


def parse_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file; UsageError if it is missing or invalid."""
    try:
        return tomllib.loads(read_regular(path).decode("utf-8"))
    except FileNotFoundError as error:
        raise UsageError(f"{path} must be a TOML file, but it does not exist; see mervn ablate --example") from error
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path} must be a TOML file: {error}") from error


def read_range(annotation: Any, value: Mapping[str, Any]) -> Range:
    """Return the range that a table of a TOML file gives for an option of this type.

    ValueError, worded to follow the name of the option, if it is none.
    """
    types = _number_types(annotation)
    unknown = [key for key in value if key not in RANGE_KEYS]
    low, high, log, step = value.get("low"), value.get("high"), value.get("log", False), value.get("step")
    if not types:
        raise ValueError("must be a list of values, because the option takes no numbers, found a range")
    if unknown or low is None or high is None:
        raise ValueError(f"must have low and high, and can have log or step, found {dict(value)!r}")
    whole = float not in types
    kind = "whole numbers" if whole else "finite numbers"
    numbers = [low, high] if step is None else [low, high, step]
    for number in numbers:
        if not (is_number(number) or (not whole and isinstance(number, float) and math.isfinite(number))):
            raise ValueError(f"must have {kind}, found {number!r}")
    if not low < high:
        raise ValueError(f"must have low < high, found low={low!r} high={high!r}")
    if not isinstance(log, bool) or (log and low <= 0):
        raise ValueError(f"must have log = true only with low > 0, found low={low!r} log={log!r}")
    if step is not None and (log or not 0 < step <= high - low):
        raise ValueError(f"must have step without log, above 0 and at most high - low, found step={step!r}")
    return Range(low, high, log, step, True) if whole else Range(float(low), float(high), log, step)


def _number_types(annotation: Any) -> set[type]:
    """Return int and float, as far as a value of this type can be one."""
    if get_origin(annotation) is Annotated:
        return _number_types(get_args(annotation)[0])
    if annotation in (int, float):
        return {annotation}
    found: set[type] = set()
    for part in get_args(annotation):
        found |= _number_types(part)
    return found


def is_finite(value: Any) -> bool:
    """Tell whether a value has no infinite number and no NaN, also in its lists."""
    if isinstance(value, list):
        return all(map(is_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def is_number(value: Any) -> bool:
    """Tell whether a value is a whole number."""
    return isinstance(value, int) and not isinstance(value, bool)


def are_different_numbers(values: Any, least: int) -> bool:
    """Tell whether a value is a list of different whole numbers, none below `least`."""
    if not isinstance(values, list) or not values or not all(map(is_number, values)):
        return False
    return min(values) >= least and len(set(values)) == len(values)


def are_lists(values: Sequence[Any]) -> bool:
    """Tell whether every value is a list."""
    return all(isinstance(value, list) for value in values)
