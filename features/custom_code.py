"""Custom code: a user's class in a Python file, given as `FILE.py:Class`."""

from __future__ import annotations

import hashlib
import sys
import traceback
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from torch import nn

from features.config import is_custom_module
from features.errors import UsageError


@dataclass(frozen=True)
class CustomModule:
    """A class in a file, which is read once: the same bytes are hashed, copied and executed."""

    path: Path
    name: str
    source: bytes

    @property
    def sha256(self) -> str:
        """The hash of the file."""
        return hashlib.sha256(self.source).hexdigest()

    @property
    def reference(self) -> str:
        """`FILE.py:Class`, as an option names it."""
        return f"{self.path}:{self.name}"

    @property
    def module(self) -> str:
        """The module name in `sys.modules`, unique for the file's content."""
        return f"mervn_custom_{self.sha256[:16]}"

    @property
    def target(self) -> str:
        """`module:Class`, importable after `load` was called."""
        return f"{self.module}:{self.name}"

    def as_json(self) -> dict[str, str]:
        """Return the entry in the configuration of a run."""
        return {"file": self.path.name, "class": self.name, "sha256": self.sha256}

    def load(self) -> type[nn.Module]:
        """Execute the file and return the class; UsageError, with the line, if that fails."""
        if self.module not in sys.modules:
            module = ModuleType(self.module)
            module.__file__ = str(self.path)
            # Dataclasses look up their module while they are defined.
            sys.modules[self.module] = module
            try:
                exec(compile(self.source, str(self.path), "exec"), module.__dict__)
            except Exception as error:
                del sys.modules[self.module]
                raise UsageError(f"{error_location(error, self.path)}: {type(error).__name__}: {error}") from error
        found = getattr(sys.modules[self.module], self.name, None)
        if not (isinstance(found, type) and issubclass(found, nn.Module)):
            raise UsageError(f"{self.path} must hold a class {self.name}, a torch.nn.Module, found {found!r}")
        return found

    def declared_names(self, attribute: str, default: tuple[str, ...], known: Iterable[str]) -> tuple[str, ...]:
        """Return a class attribute that holds names; UsageError for names that are not `known`."""
        found = getattr(self.load(), attribute, default)
        known = list(known)
        if not isinstance(found, (tuple, list)) or any(name not in known for name in found):
            raise UsageError(
                f"{self.path}: {attribute} of {self.name} must be a tuple of names among {', '.join(known)}, "
                f"found {found!r}"
            )
        return tuple(found)


def read_module(reference: str) -> CustomModule:
    """Read the file that `FILE.py:Class` names; UsageError if it cannot be read."""
    if not is_custom_module(reference):
        raise UsageError(f"a custom module must be given as FILE.py:Class, found {reference}")
    path, name = split_reference(reference)
    try:
        return CustomModule(path, name, path.read_bytes())
    except OSError as error:
        raise UsageError(
            f"{reference} must name a class in a Python file, but {path} cannot be read: {error}"
        ) from error


def split_reference(reference: str) -> tuple[Path, str]:
    """Return the file and the class of `FILE.py:Class`."""
    path, _, name = reference.rpartition(":")
    return Path(path), name


def error_location(error: BaseException, path: Path) -> str:
    """Return `FILE.py:LINE`, the innermost line of the file in the traceback of an error."""
    if isinstance(error, SyntaxError):
        return f"{path}:{error.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return f"{path}:{lines[-1]}" if lines else str(path)
