"""New processes find the modules of this one, of the same version."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from features.child_python import python_command

SHOW = """
import features, features.texts
print(features.texts.__file__, sys.dont_write_bytecode, sys.path)
"""


class Text(str):
    """A string that shows itself in another way."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "<text>"


@pytest.mark.parametrize("entry", ["", Text("/nowhere"), None, b"/nowhere", Path("/nowhere")])
def test_a_process_has_the_version_of_this_one(entry: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "features"
    other.mkdir()
    (other / "__init__.py").write_text("")
    (other / "texts.py").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry, *sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    printed = subprocess.run(python_command(SHOW), check=True, capture_output=True, text=True, env=environment).stdout
    expected = [each for each in sys.path if isinstance(each, str)]
    own = Path(__file__).parents[1] / "features" / "texts.py"
    assert printed.split()[:2] == [str(own), "True"] and len(expected) == printed.count(", ") + 1
    # the control: without the package of this process, the path finds the other one
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import features.texts; print(features.texts.__file__)"
    control = subprocess.run([sys.executable, "-I", "-c", code], check=True, capture_output=True, text=True).stdout
    assert control.strip() == str(other / "texts.py")


@pytest.mark.parametrize("executable", [None, ""])
def test_an_embedded_python_starts_no_process(executable: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", executable)
    with pytest.raises(OSError, match="program of this Python is not known"):
        python_command("pass")
