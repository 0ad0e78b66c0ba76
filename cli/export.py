"""`mervn export`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cli.options import command
from cli.output import Output
from features.errors import UsageError
from mervn.use.export_options import ExportOptions

if TYPE_CHECKING:
    from mervn.use.bundle import ExportResult


@command("export", argument="run")
def export_command(run: Path, options: ExportOptions, output: Output) -> None:
    """Write a complete run as a bundle: one folder with head, encoders, model card and checks.

    `mervn predict BUNDLE` and EmotionRecognizer.from_pretrained load it, on any machine, without
    the run, its data or its feature stores. Loading checks the hash of every file, the encoders and
    the probabilities of a short example.
    """
    if options.output is None:
        raise UsageError("--output must name the folder for the bundle")

    from features.cpu_threads import set_threads
    from mervn.use.bundle import BundleSettings, write_bundle
    from mervn.use.hub_bundles import push, require_token

    if options.push is not None:
        require_token(options.push)  # before the work
    set_threads(options.threads)
    settings = BundleSettings(options.link_encoders, options.onnx, options.features_dir, options.trust_code)
    result = write_bundle(run, options.output, settings, output)
    _print(result, output)
    document = {
        "bundle": str(result.path),
        "run": str(run),
        "bytes": result.size,
        "files": len(result.bundle.files),
        "canary_difference": result.difference,
        "onnx": None if result.onnx is None else result.onnx.as_json(),
        "url": None,
    }
    if options.push is not None:
        document["url"] = push(result.path, options.push, options.private)
        output.result(f"uploaded to {document['url']}")
    output.document(document)


def _print(result: ExportResult, output: Output) -> None:
    """Print the encoders, the size and the differences that were measured."""
    lines = []
    for name, entry in result.bundle.encoders.items():
        layers = ", ".join(map(str, entry.layers))
        lines.append((name, entry.name, layers, entry.link or "in the bundle", entry.licence))
    output.table(("stream", "encoder", "layers", "weights", "licence"), lines)
    output.result(f"canary: the bundle gives the probabilities of the run (maximum difference {result.difference:.1e})")
    if result.onnx is not None:
        output.result(f"onnx/head.onnx: maximum difference of a probability {result.onnx.head_difference:.1e}")
        if result.onnx.model_difference is not None:
            output.result(f"onnx/model.onnx: maximum difference of a probability {result.onnx.model_difference:.1e}")
    output.result(f"{result.path}: {len(result.bundle.files)} files, {result.size / 1e6:.1f} MB")
