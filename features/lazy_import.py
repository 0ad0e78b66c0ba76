"""Registries name what they hold as `module:Name`, so that nothing is imported before it is used."""

from __future__ import annotations

from importlib import import_module
from typing import Any


def import_target(target: str) -> Any:
    """Return the object that `module:Name` names."""
    module, name = target.split(":")
    return getattr(import_module(module), name)
