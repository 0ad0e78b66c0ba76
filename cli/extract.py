"""`mervn extract`."""

from __future__ import annotations

from dataclasses import replace

from cli.options import command
from cli.output import Output
from cli.settings import resolve_data
from features.config import ExtractOptions
from features.encoders import DEFAULT_ENCODERS
from features.encoders.selector import EncoderSettings, parse_selectors


@command("extract")
def extract(options: ExtractOptions, output: Output) -> None:
    """Run frozen encoders once over every utterance and store their sequences.

    Encodes the streams it is given an encoder for, one store a layer; without any, phobert and wav2vec2. What is
    stored already is kept; interrupted, it resumes where it was. Utterances whose audio cannot be used are listed in
    the store's rejected.jsonl, and tried again once their audio has changed.
    """
    given: dict[str, str | None] = {"audio": options.audio_encoder, "text": options.text_encoder}
    if not any(given.values()):
        given |= DEFAULT_ENCODERS
    selectors = [selector for modality, text in given.items() if text for selector in parse_selectors(text, modality)]
    EncoderSettings(options.segmenter, options.tone_style, options.whisper_mode).check(selectors)
    data = resolve_data(options.data)

    from features.extract import extract_stream, settings_from
    from features.extract_report import as_json
    from features.manifest import read_manifests

    with_audio = any(selector.modality == "audio" for selector in selectors)
    manifests = read_manifests(
        data, options.splits, audio_root=options.audio_root, require_emotion=False, check_audio=with_audio
    )
    utterances = [utterance for rows in manifests.values() for utterance in rows[: options.limit]]
    number, count = map(int, (options.shard or "1/1").split("/"))
    settings = replace(
        settings_from(options, data), plan_only=options.plan, verify_inputs=options.verify_inputs,
        format=options.format, shard=(number, count), engine=options.engine, workers=options.workers,
        ray_address=options.ray_address, retry_rejected=options.retry_rejected,
    )  # fmt: skip
    results = []
    for selector in selectors:
        stores = extract_stream(utterances, selector, settings, output.say, output.progress)
        results += stores
        for result in stores:
            rejected = f", {result.rejected} rejected (see rejected.jsonl)" if result.rejected else ""
            clipped = f", {result.end_clipped} cut at the file's end" if result.end_clipped else ""
            truncated = f", {result.truncated} transcripts truncated" if result.truncated else ""
            empty = f", {result.empty} without transcript" if result.empty else ""
            left = f", {result.left} left to other shards" if result.left else ""
            verb = "planned" if options.plan else f"{result.encoded} encoded"
            output.result(f"{result.path}: {verb}, {result.kept} kept{left}{rejected}{clipped}{truncated}{empty}")
        if not options.plan:
            output.say("  " + "; ".join(_costs(stores[0])))
    output.document({"stores": [as_json(result) for result in results]})


def _costs(result: object) -> list[str]:
    from features.extract_report import StoreResult

    if not isinstance(result, StoreResult):
        raise TypeError(f"a StoreResult is needed, found {type(result).__name__}")
    costs = [f"{result.seconds:.1f} s"]
    if result.real_time_factor is not None:
        costs.append(f"{result.real_time_factor:.1f}x real time")
    if result.gb_per_hour is not None:
        costs.append(f"{result.gb_per_hour:.3f} GB an hour of audio")
    return [*costs, f"{100 * result.padding:.1f} % padding in the batches"]
