"""Custom code: a file is read once, and executed only by `load`."""

import hashlib
from pathlib import Path

import pytest
from torch import nn

from features.config import is_custom_module
from features.custom_code import error_location, read_module, split_reference
from features.encoders.selector import names_code
from features.errors import UsageError


def test_the_bytes_that_are_hashed_are_executed(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("from torch import nn\n\n\nclass Mine(nn.Identity):\n    names = ('a',)\n")
    module = read_module(f"{path}:Mine")
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    path.write_text("raise RuntimeError('edited')\n")
    assert module.sha256 == sha256
    assert issubclass(module.load(), nn.Identity) and module.load() is module.load()
    assert module.declared_names("names", (), ("a", "b")) == ("a",)
    with pytest.raises(UsageError, match=r"names of Mine must be a tuple of names among b, found \('a',\)"):
        module.declared_names("names", (), ("b",))
    assert module.as_json() == {"file": "mine.py", "class": "Mine", "sha256": sha256}
    assert split_reference(module.reference) == (path, "Mine")


def test_errors_name_the_line_and_leave_no_module_behind(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("x = 1\n1 / 0\n")
    for _ in range(2):  # a module that failed is not found half executed
        with pytest.raises(UsageError, match=r"mine\.py:2: ZeroDivisionError"):
            read_module(f"{path}:Mine").load()
    with pytest.raises(UsageError, match="must be given as FILE.py:Class, found mine.py"):
        read_module("mine.py")
    assert error_location(ValueError(), path) == str(path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a/mine.py:Mine", True), ("mine.py:Mine@last", True), ("mine.py:Mine=m@2", True),
        ("fourier2vec+mine.py:Mine", True), ("mine.py", False), ("xlsr=a/b.c@2", False), ("a:B", False),
        ("whisper=a.py:x y", False),
    ],
)  # fmt: skip
def test_options_that_name_code_are_recognized(text: str, expected: bool) -> None:
    assert names_code(text) == expected
    assert is_custom_module("mine.py:Mine") and not is_custom_module("mine.py:Mine@2")
