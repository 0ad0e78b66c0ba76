"""New processes of the same Python that run the modules of this one."""

from __future__ import annotations

import sys
from pathlib import Path

PREPARE = """
import sys
sys.path[:] = {path!r}
import features
del sys.path[0]
"""
"""The package is imported from the folder of this one: the current folder may have another version meanwhile."""


def python_command(code: str) -> list[str]:
    """Return the command that runs code in a new process, which finds modules where this one does.

    Raises OSError if the program of this Python is not known, because it is embedded into another.
    """
    if not sys.executable:
        raise OSError("the program of this Python is not known")
    path = [str(Path(__file__).parents[1])]
    path += [str.__str__(entry) for entry in sys.path if isinstance(entry, str)]  # Python ignores others
    options = ["-I", "-B"] if sys.dont_write_bytecode else ["-I"]
    return [sys.executable, *options, "-c", PREPARE.format(path=path) + code]
