"""`mervn check-module`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from cli.options import command
from cli.output import Output
from mervn.config import CheckModuleOptions


@command("check-module", argument="module")
def check_module_command(module: Path, options: CheckModuleOptions, output: Output) -> int:
    """Test a custom fusion, pooling, loss or encoder with the checks of the built-in ones.

    This runs the code of the file. The exit code is 1 if a check fails.
    """
    from mervn.model.check_module import check_module

    findings = check_module(str(module), options.role)
    failed = 0
    for finding in findings:
        if finding.fault is None:
            output.result(f"ok  {finding.check}")
        else:
            output.result(f"FAIL  {finding.check}: {finding.fault}")
            failed += 1
    output.result(f"{failed} of {len(findings)} checks failed" if failed else f"all {len(findings)} checks passed")
    output.document({"module": str(module), "role": options.role, "findings": list(map(asdict, findings))})
    return 1 if failed else 0
