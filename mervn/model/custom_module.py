"""A user's own fusion, pooling or loss: a class in one file, named `FILE.py:Class` where a built-in's name may stand.

It is built and called as the built-in ones: a fusion as `Class(dim, heads, dropout)`, from streams to sequences; a
pooling as `Class(dim)`; a loss as `Class(weights)`. Class attributes tell what differs from the default: `streams` and
`outputs` of a fusion (both modalities; one sequence that begins with text), `options` for options it takes by keyword.
"""

from __future__ import annotations

import hashlib
import sys
import traceback
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from torch import nn

from features.atomic_files import write_atomically
from features.config import is_custom_module
from features.errors import InputError, UsageError
from mervn.config import HeadOptions, TrainHeadOptions
from mervn.registry import FUSIONS, LOSSES, POOLINGS, FusionSpec, LossSpec

ROLES = ("fusion", "pooling", "loss")
FOLDER = "modules"
STREAMS = ("text", "audio")
HeadOptionsT = TypeVar("HeadOptionsT", bound=HeadOptions)


@dataclass(frozen=True)
class OwnModule:
    """A class in a file, read once: what is hashed, what is kept and what runs are the same bytes."""

    path: Path
    name: str
    source: bytes

    @property
    def sha256(self) -> str:
        """The hash of the file."""
        return hashlib.sha256(self.source).hexdigest()

    @property
    def module(self) -> str:
        """The name under which the file's content is imported."""
        return f"mervn_own_{self.sha256[:16]}"

    @property
    def target(self) -> str:
        """`module:Class`, importable once `load` was called."""
        return f"{self.module}:{self.name}"

    def as_json(self) -> dict[str, str]:
        """Return what a run's configuration says of it."""
        return {"file": self.path.name, "class": self.name, "sha256": self.sha256}

    def load(self) -> type[nn.Module]:
        """Run the file and return the class; UsageError says what is wrong with it, and in which line."""
        if self.module not in sys.modules:
            module = ModuleType(self.module)
            module.__file__ = str(self.path)
            sys.modules[self.module] = module  # dataclasses look their module up while they are made
            try:
                exec(compile(self.source, str(self.path), "exec"), module.__dict__)
            except Exception as error:
                del sys.modules[self.module]
                raise UsageError(f"{place(error, self.path)}: {type(error).__name__}: {error}") from error
        found = getattr(sys.modules[self.module], self.name, None)
        if not (isinstance(found, type) and issubclass(found, nn.Module)):
            raise UsageError(f"{self.path} must hold a class {self.name}, a torch.nn.Module, found {found!r}")
        return found

    def names(self, key: str, default: tuple[str, ...], known: Iterable[str]) -> tuple[str, ...]:
        """Return the class attribute `key`, names among `known`; UsageError where it is anything else."""
        found = getattr(self.load(), key, default)
        known = list(known)
        if not isinstance(found, (tuple, list)) or any(name not in known for name in found):
            raise UsageError(
                f"{self.path}: {key} of {self.name} must be a tuple of names among {', '.join(known)}, found {found!r}"
            )
        return tuple(found)


def read_own(reference: str) -> OwnModule:
    """Read the file that `FILE.py:Class` names; UsageError if it is not there."""
    if not is_custom_module(reference):
        raise UsageError(f"a class of your own is named FILE.py:Class, found {reference}")
    path, name = split_reference(reference)
    try:
        return OwnModule(path, name, path.read_bytes())
    except OSError as error:
        raise UsageError(
            f"{reference} must name a class in a Python file, but {path} cannot be read: {error}"
        ) from error


def split_reference(reference: str) -> tuple[Path, str]:
    """Return the file and the class of `FILE.py:Class`."""
    path, _, name = reference.rpartition(":")
    return Path(path), name


def place(error: BaseException, path: Path) -> str:
    """Return `FILE.py:LINE`, the last line of a file that an error came through."""
    if isinstance(error, SyntaxError):
        return f"{path}:{error.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return f"{path}:{lines[-1]}" if lines else str(path)


def fusion_spec(name: str) -> FusionSpec:
    """Return the spec of a fusion, built-in or a user's own."""
    if not is_custom_module(name):
        return FUSIONS[name]
    own = read_own(name)
    own.load()
    streams = own.names("streams", STREAMS, STREAMS)
    outputs = own.names("outputs", ("text",), STREAMS)
    options = own.names("options", (), HeadOptions.model_fields)
    if not streams or not outputs:
        raise UsageError(f"{own.path}: streams and outputs of {own.name} must not be empty, found {streams}, {outputs}")
    return FusionSpec(own.target, own.path.name, streams, outputs, options)


def pooling_target(name: str) -> str:
    """Return the `module:Class` of a pooling, built-in or a user's own."""
    if not is_custom_module(name):
        return POOLINGS[name]
    own = read_own(name)
    own.load()
    return own.target


def loss_spec(name: str) -> LossSpec:
    """Return the spec of a loss, built-in or a user's own."""
    if not is_custom_module(name):
        return LOSSES[name]
    own = read_own(name)
    own.load()
    return LossSpec(own.target, own.names("options", (), TrainHeadOptions.model_fields))


def own_modules(options: HeadOptions) -> dict[str, OwnModule]:
    """Return, by role, the classes of the user's own that the options name."""
    references = {role: getattr(options, role, "") for role in ROLES}
    return {role: read_own(reference) for role, reference in references.items() if is_custom_module(reference)}


def keep_own(run: Path, options: HeadOptionsT, known: Mapping[str, Mapping[str, str]]) -> HeadOptionsT:
    """Copy the user's own files into a run and return options that name the copies.

    InputError where a file is not the one of the run's configuration: it was edited meanwhile.
    """
    changes = {}
    for role, own in own_modules(options).items():
        if own.sha256 != known[role]["sha256"]:
            raise InputError(f"{own.path} was edited while the run began; start it again")
        copy = run / FOLDER / f"{role}.py"
        copy.parent.mkdir(exist_ok=True)
        write_atomically(copy, own.source)
        changes[role] = f"{copy}:{own.name}"
    return options.model_copy(update=changes)


def kept_own(run: Path, options: Mapping[str, Any], known: Any, trust_code: bool) -> dict[str, str]:
    """Return by role `FILE.py:Class` of the copies that a run holds, given the options and modules of its config.json.

    Only `<run>/modules/<role>.py` is ever named, and only if its hash is the one listed. InputError for any other code,
    trusted or not; UsageError for such a copy without `trust_code`, for loading it runs it.
    """
    if not isinstance(known, Mapping):
        raise InputError(f"{run}: inputs.modules must be an object, found {known!r}")
    for role in ROLES:
        found = options.get(role)
        if role not in known and isinstance(found, str) and is_custom_module(found):
            raise InputError(
                f"{run}: {role} names the code {found}, which inputs.modules does not list: it is not loaded"
            )
    references = {role: _kept(run, role, options.get(role), entry, trust_code) for role, entry in known.items()}
    for role, reference in references.items():
        if read_own(reference).sha256 != known[role]["sha256"]:
            path = split_reference(reference)[0]
            raise InputError(f"{path} must be the file that this run was trained with, but it was edited since")
    return references


def _kept(run: Path, role: str, option: Any, entry: Any, trust_code: bool) -> str:
    """Return `FILE.py:Class` of a run's copy for one entry of inputs.modules; the file is not opened."""
    if role not in ROLES:
        raise InputError(f"{run}: inputs.modules must list only {', '.join(ROLES)}, found {role!r}")
    if not isinstance(entry, Mapping) or not all(isinstance(entry.get(key), str) for key in ("class", "sha256")):
        raise InputError(f"{run}: {role} in inputs.modules must have a class and a sha256, found {entry!r}")
    name = str(entry["class"])
    if not isinstance(option, str) or not is_custom_module(option) or split_reference(option)[1] != name:
        raise InputError(f"{run}: {role} must name the class {name!r} that inputs.modules lists, found {option!r}")
    copy = run / FOLDER / f"{role}.py"
    if copy.is_symlink() or copy.parent.is_symlink():
        raise InputError(f"{copy} must be a file of the run itself, found a link")
    if not copy.is_file():
        raise InputError(f"{copy} must be the file that this run was trained with, but there is no such file")
    if not trust_code:
        raise UsageError(f"{run} contains custom code, {copy}. Review it, then pass --trust-code")
    return f"{copy}:{name}"
