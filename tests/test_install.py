"""The wheel, installed and run from a folder that holds modules of the same names."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_wheel_works_beside_decoys_of_the_same_names(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path / "dist")],
        check=True, capture_output=True, cwd=ROOT,
    )  # fmt: skip
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {f"{room}/py.typed" for room in ("mervn", "features", "cli")} <= set(names)
    assert "mervn/study/recipes/demo.toml" in names
    assert not [name for name in names if name.startswith(("tests", "benchmarks"))]
    target = tmp_path / "installed"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--quiet", "--target", target, wheel],
        check=True, capture_output=True,
    )  # fmt: skip
    decoys = tmp_path / "work"
    (decoys / "cli").mkdir(parents=True)
    for decoy in ("features.py", "cli/__init__.py", "mervn.py"):
        (decoys / decoy).write_text("raise ImportError('this is a decoy')")
    # -P keeps the current folder off the path, as an installed console script does
    environment = {**os.environ, "PYTHONPATH": str(target)}
    for arguments in (["--help"], ["extract", "--help"], ["encoders"]):
        code = f"from cli.main import run; import cli; print(cli.__file__); raise SystemExit(run({arguments!r}))"
        result = subprocess.run(
            [sys.executable, "-P", "-c", code], cwd=decoys, env=environment, capture_output=True, text=True, check=True
        )
        assert result.stdout.startswith(str(target))
    script = target / "bin" / "mervn"
    result = subprocess.run(
        [script, "--version"], cwd=decoys, env=environment, capture_output=True, text=True, check=True
    )
    assert result.stdout.startswith("mervn ")
