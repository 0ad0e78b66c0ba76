"""`mervn layers`."""

from __future__ import annotations

from dataclasses import asdict, replace

from cli.options import command
from cli.output import Output
from cli.settings import resolve_data
from features.config import LayersOptions
from features.encoders.selector import EncoderSettings, Selector, parse_selector
from features.errors import UsageError


@command("layers")
def layers(options: LayersOptions, output: Output) -> None:
    """Find the layer of an encoder whose features classify the emotions best, with a linear probe.

    One pass stores the mean over time of each layer. A logistic regression per layer is
    trained on train and evaluated on valid. Then extract the best layer: `mervn extract
    --audio-encoder NAME=MODEL@LAYER`.
    """
    selector = _whole_encoder(options)
    EncoderSettings(options.segmenter, options.tone_style, options.whisper_mode).check([selector])
    data = resolve_data(options.data)

    from features.command_lines import DataPlace, extract_command, settings_flags
    from features.extraction.settings import settings_from
    from mervn.evaluation.layer_probe import probe_layers

    settings = replace(settings_from(options, data), layer_means=True)
    report = probe_layers(selector, data, options.audio_root, settings, output)
    lines = [(score.layer, f"{score.macro_f1:.4f}", f"{score.accuracy:.4f}") for score in report.scores]
    output.table(("layer", "macro-F1", "accuracy"), lines)
    missing = sum(report.missing.values())
    left_out = f", {missing} without features" if missing else ""
    output.result(
        f"best on valid: layer {report.best.layer}, macro-F1 {report.best.macro_f1:.4f} "
        f"({report.n['train']} train, {report.n['valid']} valid utterances{left_out})"
    )
    best = replace(selector, layers=(report.best.layer,))
    place = DataPlace(data, settings.features_dir, options.audio_root)
    if selector.is_imported:
        output.result(f"train with it: {best.flag}")
    else:
        output.result(f"extract it:\n  {extract_command(place, best, *settings_flags(options))}")
    output.document(
        {
            "store": str(report.store),
            "layers": list(map(asdict, report.scores)),
            "best": report.best.layer,
            "n": dict(report.n),
            "missing": dict(report.missing),
        }
    )


def _whole_encoder(options: LayersOptions) -> Selector:
    """Return the one encoder that was given, with all of its layers."""
    given = {"audio": options.audio_encoder, "text": options.text_encoder}
    named = [(modality, text) for modality, text in given.items() if text]
    if len(named) != 1:
        raise UsageError("give one encoder: --audio-encoder NAME[=MODEL] or --text-encoder NAME[=MODEL]")
    modality, text = named[0]
    selector = parse_selector(text, modality, imported=True)
    if selector.layers not in (None, ("all",)):
        raise UsageError(f"mervn layers probes all layers: give {selector.name} without @, found {text!r}")
    return replace(selector, layers=("all",))
