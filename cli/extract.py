"""`mervn extract`."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from cli.options import command
from cli.output import Output
from cli.settings import resolve_data
from features.config import ExtractOptions
from features.encoders import DEFAULT_ENCODERS
from features.encoders.selector import EncoderSettings, Selector

if TYPE_CHECKING:
    from features.extraction.report import StoreResult


@command("extract")
def extract(options: ExtractOptions, output: Output) -> None:
    """Run frozen encoders once over every utterance and store their features, one store per layer.

    Without encoders, it uses phobert and wav2vec2. Stored features are kept, so repeat the command
    to resume it. The store's rejected.jsonl lists the utterances whose audio cannot be used; they
    are retried when their audio changes.
    """
    selectors = _selectors(options)
    EncoderSettings(options.segmenter, options.tone_style, options.whisper_mode).check(selectors)
    data = resolve_data(options.data)

    from features.extraction.extract import extract_stream
    from features.extraction.settings import settings_from
    from features.manifests.manifest import read_manifests
    from features.manifests.utterances import Utterances

    with_audio = any(selector.modality == "audio" for selector in selectors)
    manifests = read_manifests(
        data, options.splits, audio_root=options.audio_root, require_emotion=False, check_audio=with_audio,
        reporter=output,
    )  # fmt: skip
    utterances = Utterances.join([split[: options.limit] for split in manifests.values()])
    number, count = map(int, (options.shard or "1/1").split("/"))
    settings = replace(
        settings_from(options, data), plan_only=options.plan, verify_inputs=options.verify_inputs,
        format=options.format, shard=(number, count), engine=options.engine, workers=options.workers,
        ray_address=options.ray_address, retry_rejected=options.retry_rejected,
    )  # fmt: skip
    results = []
    for selector in selectors:
        stores = extract_stream(utterances, selector, settings, output)
        results += stores
        for result in stores:
            output.result(_summary(result, planned=options.plan))
        if not options.plan:
            output.say("  " + "; ".join(_costs(stores[0])))
    output.document({"stores": list(map(asdict, results))})


def _selectors(options: ExtractOptions) -> list[Selector]:
    """Return the encoders that were given, else the default ones."""
    from features.store.index import encoder_selectors, features_folder

    given: dict[str, str | None] = {"audio": options.audio_encoder, "text": options.text_encoder}
    if not any(given.values()):
        given |= DEFAULT_ENCODERS
    found = []
    for modality, text in given.items():
        if text:
            folder = features_folder(options.features_dir, options.data or Path("data"))
            found += encoder_selectors(text, modality, folder, "extract runs encoders")
    return found


def _summary(result: StoreResult, *, planned: bool) -> str:
    """Return one line about the work done for a store; counts of zero are left out."""
    counts = {
        "left to other shards": result.left,
        "rejected (see rejected.jsonl)": result.rejected,
        "cut at the file's end": result.end_clipped,
        "transcripts truncated": result.truncated,
        "without transcript": result.empty,
    }
    more = "".join(f", {count} {what}" for what, count in counts.items() if count)
    verb = "planned" if planned else f"{result.encoded} encoded"
    return f"{result.path}: {verb}, {result.kept} kept{more}"


def _costs(result: StoreResult) -> list[str]:
    costs = [f"{result.seconds:.1f} s"]
    if result.real_time_factor is not None:
        costs.append(f"{result.real_time_factor:.1f}x real time")
    if result.gb_per_hour is not None:
        costs.append(f"{result.gb_per_hour:.3f} GB per hour of audio")
    return [*costs, f"{100 * result.padding:.1f} % padding in the batches"]
