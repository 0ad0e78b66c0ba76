"""Model card of a bundle: data, protocol, scores with intervals, warnings and licences, as README.md."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from features.counts import counted
from mervn.data.saved_check import CHECK_FILE
from mervn.data.streams import modality_of
from mervn.evaluation.verdict import CHOSEN_ON_VALID, METRIC_NAMES, describe_units, interval_text, weak_units
from mervn.run_folder import LEDGER_FILE, METRICS_FILE, RunConfig
from mervn.use.bundle_files import Bundle, BundledEncoder
from mervn.use.onnx_export import OnnxFiles

SHOWN = ("macro_f1", "uar", "accuracy", "weighted_f1")
Results = Mapping[str, Mapping[str, Any]]
"""Results of a run by name of their file, such as metrics-test.json."""


def model_card(bundle: Bundle, config: RunConfig, results: Results, onnx: OnnxFiles | None) -> str:
    """Return the model card in Markdown, with the metadata that the Hugging Face hub reads."""
    parts = [
        _front_matter(bundle),
        f"# {bundle.run}",
        _summary(bundle, config),
        "## Use\n\n" + _use(config, onnx),
        "## Model\n\n" + _model(bundle, config),
        "## Data and protocol\n\n" + _protocol(config, results),
        "## Scores\n\n" + _scores(config, results),
        "## Warnings\n\n" + _bullets(_warnings(bundle, results)),
        "## Limits\n\n" + LIMITS,
        "## Versions\n\n" + _bullets([f"{name} {version}" for name, version in bundle.versions.items()]),
    ]
    return "\n\n".join(parts) + "\n"


LIMITS = (
    "The probabilities are those of the labels above for speakers, recordings and topics like those of the data. They "
    "do not measure the state of a person. The scores say nothing about other data: score some of your own, with "
    "labels, before you use the model, and look at each group of speakers.\n\n"
    "Describe here what the data are, who recorded and labelled them, and under which licence the model may be used."
)


def _front_matter(bundle: Bundle) -> str:
    """Return the metadata in YAML. JSON strings are valid YAML."""
    modalities = {entry.modality for entry in bundle.encoders.values()}
    lines = [
        "---",
        "library_name: mervn",
        f"pipeline_tag: {'audio-classification' if 'audio' in modalities else 'text-classification'}",
        "tags:",
        "- emotion-recognition",
        *(f"- {name}" for name in sorted(modalities)),
    ]
    linked = sorted({str(entry.link).partition("#")[0] for entry in bundle.encoders.values() if entry.link})
    if linked:
        lines += ["base_model:", *(f"- {json.dumps(name)}" for name in linked)]
    return "\n".join([*lines, "---"])


def _summary(bundle: Bundle, config: RunConfig) -> str:
    """Return the first paragraph: inputs and labels."""
    inputs = {"text": "transcript", "audio": "speech"}
    read = [inputs[name] for name in ("audio", "text") if name in map(modality_of, bundle.encoders)]
    labels = ", ".join(map(_code, config.labels))
    return (
        f"Emotion recognition from {' and '.join(read)}, with {len(config.labels)} labels: {labels}. "
        f"Exported by MER-VN {bundle.versions.get('mervn', '')} from the run {_code(bundle.run)} of "
        f"`mervn {config.command}` (configuration {_code(bundle.run_hash)})."
    )


def _use(config: RunConfig, onnx: OnnxFiles | None) -> str:
    """Return how the bundle is used from Python and without it."""
    reads = set(map(modality_of, config.streams))
    arguments = {"audio": '"clip.wav"', "text": 'text="hôm nay tôi vui lắm"'}
    call = ", ".join(arguments[name] for name in ("audio", "text") if name in reads)
    text = (
        "```python\nfrom mervn.use.recognizer import EmotionRecognizer\n\n"
        'recognizer = EmotionRecognizer.from_pretrained("FOLDER")  # or the id of this repository\n'
        f"print(recognizer({call}))\n```\n\n"
        "Loading checks the hash of every file, the encoders, and the probabilities of a short example (`canary.json`)."
    )
    if onnx is None:
        return text
    text += (
        " `onnx/` holds the model for onnxruntime; `onnx/onnx.json` describes its inputs. The probabilities of "
        f"`head.onnx` were compared with those of the head: at most {onnx.head_difference:.1e} apart."
    )
    if onnx.model_difference is not None:
        return f"{text} Those of `model.onnx`, encoders and head, are at most {onnx.model_difference:.1e} apart."
    return f"{text} There is no `model.onnx`: {onnx.reason}."


def _model(bundle: Bundle, config: RunConfig) -> str:
    """Return the table of the encoders with their licences, and the parts of the head."""
    header = ("stream", "encoder", "layers", "weights", "licence")
    lines = [_encoder_line(name, entry) for name, entry in bundle.encoders.items()]
    parts = []
    for name in ("fusion", "pooling", "loss", "seed"):
        if name in config.options:  # a linear head has no loss, for example
            parts.append(f"{name} {_code(config.options[name])}")
    return (
        f"{_table(header, lines)}\n\nHead: {', '.join(parts)}.\n\n"
        "The licences of the encoders apply to this model, and so may the licence of the data that it was trained on."
    )


def _encoder_line(stream: str, entry: BundledEncoder) -> tuple[str, ...]:
    """Return the cells of one encoder."""
    weights = f"{entry.weights}, loaded from the hub ({entry.link})" if entry.link else entry.weights
    return stream, _code(entry.name), ", ".join(map(str, entry.layers)), weights, entry.licence


def _protocol(config: RunConfig, results: Results) -> str:
    """Return what is known of the data, and how the model was chosen."""
    options, metrics, check = config.options, results[METRICS_FILE], results.get(CHECK_FILE, {})
    lines = [f"Data folder: {_code(options['data'])}"]
    counts = [f"{count} in {split}" for split, count in check.get("splits", {}).items()]
    if counts:
        lines.append(f"Utterances in the manifests: {', '.join(counts)}")
    if options.get("fold"):
        lines.append(f"Fold {options['fold']} of {_code(options.get('fold_file'))}: trained and scored on that fold")
    lines.append(_chosen(metrics))
    for split, count in metrics.get("missing", {}).items():
        if count:
            lines.append(f"Left out of {split}, without features or usable audio: {counted(count, 'utterance')}")
    for split, dropped in metrics.get("dropped", {}).items():
        if dropped:
            lines.append(f"Left out of {split}: " + ", ".join(f"{count} {label}" for label, count in dropped.items()))
    looks = results.get(LEDGER_FILE, {}).get("looks", 0)
    if looks:
        lines.append(f"Scored on test {looks} times" if looks > 1 else "Scored on test once")
    return _bullets(lines)


def _chosen(metrics: Mapping[str, Any]) -> str:
    """Return what was chosen on valid."""
    if "C" in metrics:
        return f"The regularization, C = {metrics['C']:g}, was chosen by macro-F1 on valid"
    averaged = metrics.get("averaged_epochs")
    if averaged:
        return f"The weights are the mean of the epochs {', '.join(map(str, averaged))}, chosen by macro-F1 on valid"
    return f"The weights are those of epoch {metrics['selected_epoch']}, chosen by macro-F1 on valid"


def _scores(config: RunConfig, results: Results) -> str:
    """Return a table of scores with intervals for each split, and the remarks that belong to it."""
    valid = results.get("metrics-valid.json", results[METRICS_FILE])
    parts = []
    if "metrics-test.json" in results:
        parts.append(_split_scores("test", results["metrics-test.json"]))
    else:
        parts.append("This model was not scored on test: nothing is known about its score on new data.")
    parts.append(f"{_split_scores('valid', valid)}\n\n{CHOSEN_ON_VALID}")
    return "\n\n".join(parts)


def _split_scores(split: str, document: Mapping[str, Any]) -> str:
    """Return the table of one split, with its units and baselines."""
    scores, intervals, units = document[split], document.get("intervals", {}), document.get("units", [])
    lines = []
    for metric in SHOWN:
        interval = interval_text(intervals.get(metric), units)
        lines.append((METRIC_NAMES[metric], f"{scores[metric]:.3f}", interval))
    text = f"### {split}: {scores['n']} utterances\n\n" + _table(("metric", "score", "95 % interval"), lines)
    support = ", ".join(f"{label} {each['support']}" for label, each in scores["per_class"].items())
    text += f"\n\nLabels: {support}."
    majority = document.get("baselines", {}).get("majority")
    if majority is not None:
        text += f" Always answering {_code(majority['label'])} has a macro-F1 of {majority['macro_f1']:.3f}."
    for unit in units:
        text += f" {describe_units(unit)}."
        remark = weak_units(unit["unit"], unit["groups"], unit["effective_groups"], unit["independent"])
        text += "" if remark is None else f" {remark}"
    return text


def _warnings(bundle: Bundle, results: Results) -> list[str]:
    """Return the errors and warnings about the data and the overlap with test, and faults of the encoders."""
    found = []
    check, overlap = results.get(CHECK_FILE), results.get("metrics-test.json", {}).get("overlap")
    if check is None:
        found.append("The data was not checked for overlap of speakers or recordings and for shortcuts: `mervn check`")
        check = {}
    for finding in [*check.get("findings", []), *(overlap or {}).get("findings", [])]:
        if finding["severity"] != "info":
            found.append(f"{finding['severity']} {_code(finding['id'])}: {finding['message']}")
    for remark in map(str, check.get("remarks", [])):
        if overlap is None or not remark.startswith("test not read"):  # else `evaluate` has compared it
            found.append(remark)
    for remark in (overlap or {}).get("remarks", []):
        found.append(f"Overlap of test with the training: {remark}")
    for name, entry in bundle.encoders.items():
        if entry.weights.startswith("random"):
            found.append(f"The {name} encoder has random weights: a baseline")
    return found or ["The check of the data (`mervn check`) found no error and no warning"]


def _table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    shown = [header, ["---"] * len(header), *lines]
    return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in shown)


def _cell(text: str) -> str:
    """Return text that cannot end a cell or a line."""
    return " ".join(str(text).split()).replace("|", "\\|")


def _bullets(lines: Sequence[str]) -> str:
    """Return a list in Markdown."""
    return "\n".join(f"- {' '.join(line.split())}" for line in lines)


def _code(value: object) -> str:
    """Return a value as code in Markdown, without characters that would end it."""
    return f"`{' '.join(str(value).replace('`', '').split())}`"
