"""Import by name: registries hold `module:Name` strings, so that nothing is imported too early."""

from __future__ import annotations

from importlib import import_module
from typing import Any


def import_target(target: str) -> Any:
    """Import and return the object named `module:Name`."""
    module, name = target.split(":")
    return getattr(import_module(module), name)
