"""`mervn check-module`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from cli.options import command
from cli.output import Output
from mervn.config import CheckModuleOptions


@command("check-module", argument="module")
def check_module_command(module: Path, options: CheckModuleOptions, output: Output) -> int:
    """Put a fusion, pooling or loss of your own, FILE.py:Class, through the checks that the built-in ones pass.

    It runs the file. Exits 1 if a check fails, and says what is wrong.
    """
    from mervn.model.check_module import check_module

    findings = check_module(str(module), options.role)
    for finding in findings:
        output.result(
            f"{'FAILS' if finding.fault else 'holds'}  {finding.check}"
            + (f": {finding.fault}" if finding.fault else "")
        )
    failed = sum(finding.fault is not None for finding in findings)
    output.result(f"{failed} of {len(findings)} checks fail" if failed else f"all {len(findings)} checks hold")
    output.document({"module": str(module), "role": options.role, "findings": [asdict(f) for f in findings]})
    return 1 if failed else 0
