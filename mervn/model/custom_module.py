"""Custom modules: a user's fusion, pooling or loss, a class in one file, given as `FILE.py:Class`.

A custom module is built and called like the built-in ones:

- a fusion as `Class(dim, heads, dropout)`, and maps streams to sequences
- a pooling as `Class(dim)`
- a loss as `Class(weights)`

Class attributes declare what differs from the defaults: `streams` and `outputs` of a fusion
(default: both modalities, one sequence that begins with text), and `options` for the options that
it takes as keyword arguments.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from features.atomic_files import write_atomically
from features.config import is_custom_module
from features.custom_code import CustomModule as CustomModule
from features.custom_code import read_module, split_reference
from features.errors import InputError, UsageError
from mervn.config import HeadOptions, TrainHeadOptions
from mervn.registry import FUSIONS, LOSSES, POOLINGS, FusionSpec, LossSpec

ROLES = ("fusion", "pooling", "loss")
FOLDER = "modules"
"""The folder of a run that holds copies of its custom modules."""
STREAMS = ("text", "audio")


def fusion_spec(name: str, custom: Mapping[str, CustomModule]) -> FusionSpec:
    """Return the spec of a built-in fusion, or of the one in `custom`, the custom modules by role.

    A custom module is loaded.
    """
    module = custom.get("fusion")
    if module is None:
        return FUSIONS[name]
    module.load()
    streams = module.declared_names("streams", STREAMS, STREAMS)
    outputs = module.declared_names("outputs", ("text",), STREAMS)
    options = module.declared_names("options", (), HeadOptions.model_fields)
    if not streams or not outputs:
        raise UsageError(
            f"{module.path}: streams and outputs of {module.name} must not be empty, found {streams}, {outputs}"
        )
    return FusionSpec(module.target, module.path.name, streams, outputs, options)


def pooling_target(name: str, custom: Mapping[str, CustomModule]) -> str:
    """Return the `module:Class` of a pooling, as `fusion_spec` does for a fusion."""
    module = custom.get("pooling")
    if module is None:
        return POOLINGS[name]
    module.load()
    return module.target


def loss_spec(name: str, custom: Mapping[str, CustomModule]) -> LossSpec:
    """Return the spec of a loss, as `fusion_spec` does for a fusion."""
    module = custom.get("loss")
    if module is None:
        return LOSSES[name]
    module.load()
    return LossSpec(module.target, module.declared_names("options", (), TrainHeadOptions.model_fields))


def read_modules(options: HeadOptions) -> dict[str, CustomModule]:
    """Read the custom modules that the options name; return them by role."""
    modules = {}
    for role in ROLES:
        reference = getattr(options, role, "")
        if is_custom_module(reference):
            modules[role] = read_module(reference)
    return modules


def copy_modules(run: Path, modules: Mapping[str, CustomModule]) -> None:
    """Write custom modules, by role, into a run.

    The copies hold the code that the configuration was made from, even if a file was edited since.
    """
    for role, module in modules.items():
        copy = run / FOLDER / f"{role}.py"
        copy.parent.mkdir(exist_ok=True)
        write_atomically(copy, module.source)


def saved_modules(run: Path, options: Mapping[str, Any], recorded: Any, trust_code: bool) -> dict[str, CustomModule]:
    """Read the custom modules in a run; return them by role.

    `options` and `recorded` are `options` and `inputs.modules` of the run's config.json. Only
    `<run>/modules/<role>.py` is ever read, once, and returned only if its hash is the recorded one.
    InputError for any other code, trusted or not. UsageError without `trust_code`, because loading
    a custom module executes it.
    """
    if not isinstance(recorded, Mapping):
        raise InputError(f"{run}: inputs.modules must be an object, found {recorded!r}")
    for role in ROLES:
        option = options.get(role)
        if role not in recorded and isinstance(option, str) and is_custom_module(option):
            raise InputError(
                f"{run}: {role} names the code {option}, which inputs.modules does not list: it is not loaded"
            )
    # Validate every entry before any file is read.
    references = {}
    for role, entry in recorded.items():
        references[role] = _saved_reference(run, role, options.get(role), entry, trust_code)
    modules = {}
    for role, reference in references.items():
        modules[role] = read_module(reference)
        if modules[role].sha256 != recorded[role]["sha256"]:
            raise InputError(
                f"{modules[role].path} must be the file that this run was trained with, but it was edited since"
            )
    return modules


def _saved_reference(run: Path, role: str, option: Any, entry: Any, trust_code: bool) -> str:
    """Validate one entry of inputs.modules, and return `FILE.py:Class` of its copy in the run.

    The copy is not opened.
    """
    if role not in ROLES:
        raise InputError(f"{run}: inputs.modules must list only {', '.join(ROLES)}, found {role!r}")
    has_both = isinstance(entry, Mapping) and all(isinstance(entry.get(key), str) for key in ("class", "sha256"))
    if not has_both:
        raise InputError(f"{run}: {role} in inputs.modules must have a class and a sha256, found {entry!r}")
    name = str(entry["class"])
    is_reference = isinstance(option, str) and is_custom_module(option)
    if not is_reference or split_reference(option)[1] != name:
        raise InputError(f"{run}: {role} must name the class {name!r} that inputs.modules lists, found {option!r}")
    copy = run / FOLDER / f"{role}.py"
    # A link could lead to code outside the run.
    if copy.is_symlink() or copy.parent.is_symlink():
        raise InputError(f"{copy} must be a file of the run itself, found a link")
    if not copy.is_file():
        raise InputError(f"{copy} must be the file that this run was trained with, but there is no such file")
    if not trust_code:
        raise UsageError(f"{run} contains custom code, {copy}. Review it, then pass --trust-code")
    return f"{copy}:{name}"
