"""Messages before an extraction, and its result for each store."""

from __future__ import annotations

import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch

from features.audit.finding import counts_by_split
from features.encoders.base import Encoder
from features.encoders.selector import Selector
from features.errors import InputError
from features.extraction.plan import Plan, Target
from features.manifests.utterances import id_reader
from features.progress import Reporter
from features.store.reader import FeatureStore
from features.store.rejected import Rejections
from features.text.normalize import TokenCounts, segmented_message

FREE_DISK_MARGIN = 64 << 20
"""Bytes of the disk that the features must leave free."""


@dataclass(frozen=True)
class StoreResult:
    """Result of an extraction for one store."""

    path: str
    """Folder of the store; of a plan whose store does not exist yet, the features folder."""
    identity: str
    """Hash of the store's identity."""
    encoded: int
    """Utterances that this process committed."""
    kept: int
    """Utterances that were stored before, or that other processes committed meanwhile."""
    rejected: int
    left: int
    """Utterances that belong to other shards."""
    end_clipped: int
    """Segments whose end is slightly after the end of the file, and was moved there."""
    truncated: int
    """Transcripts that are longer than the encoder's maximum length."""
    empty: int
    """Utterances with a missing or empty transcript: zero tokens are stored for them."""
    unk_fraction: float | None
    """Fraction of tokens that are `<unk>`; None without a subword tokenizer."""
    single_token_fraction: float | None
    """Fraction of words that are one token of the vocabulary."""
    segmented: int
    """Transcripts that were segmented in the manifest, and were not segmented again."""
    seconds: float
    """Duration of the extraction."""
    real_time_factor: float | None
    """Seconds of audio encoded per second; None for text."""
    gb_per_hour: float | None
    """GB of features per hour of audio; None for text."""
    padding: float
    """Fraction of padding in the batches."""


def _rejected_and_left(plan: Plan, target: Target, path: str, store: FeatureStore | None) -> tuple[set[int], set[int]]:
    """Return the utterances that were rejected, and those that are left to other shards."""
    rejected, left = set(plan.rejected) | set(target.settled), set[int]()
    if store is None:
        return rejected, left
    listed = Rejections(Path(path))
    # a pending utterance that is still not stored was rejected, or belongs to another shard
    pending = [i for i in target.pending if i not in rejected]
    names = list(map(id_reader(plan.utterances), pending))
    for i, name, is_uncommitted in zip(pending, names, target.uncommitted(pending, names, store), strict=True):
        if not is_uncommitted:
            continue
        if name in listed:
            rejected.add(i)
        else:
            left.add(i)
    return rejected, left


def make_result(
    plan: Plan,
    target: Target,
    path: str,
    encoded: int,
    seconds: float = 0.0,
    audio_seconds: float = 0.0,
    store: FeatureStore | None = None,
) -> StoreResult:
    """Count the content of `store`; if it is None, the utterances of the plan."""
    utterances, counts = plan.utterances, plan.token_counts
    rejected, left = _rejected_and_left(plan, target, path, store)
    stored_before = len(utterances) - len(rejected | left) - encoded
    return StoreResult(
        path=path,
        identity=target.identity.hash,
        encoded=encoded,
        kept=stored_before if store is not None else plan.num_kept(target),
        rejected=len(rejected),
        left=len(left),
        end_clipped=plan.end_clipped,
        truncated=plan.truncated,
        empty=len(plan.empty),
        unk_fraction=counts.unk_fraction if counts else None,
        single_token_fraction=counts.single_token_fraction if counts else None,
        segmented=counts.segmented if counts else 0,
        seconds=round(seconds, 3),
        real_time_factor=round(audio_seconds / seconds, 2) if audio_seconds and seconds else None,
        gb_per_hour=plan.gb_per_hour if plan.modality == "audio" else None,
        padding=plan.padding,
    )


def announce(
    plan: Plan, selector: Selector, encoder: Encoder, device: torch.device, folder: Path, reporter: Reporter
) -> None:
    """Print the amount of work and its size on disk; InputError if the disk is too small."""
    # the features folder may not exist yet: ask for the disk of its nearest existing parent
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    hours = f", {plan.hours:.2f} h" if plan.modality == "audio" else ""
    layers = f"layer{'s' if len(encoder.layers) > 1 else ''} {', '.join(map(str, encoder.layers))}"
    cut = f" {plan.truncated} transcripts exceed the maximum length and are truncated." if plan.truncated else ""
    reporter.say(f"{selector}: {encoder.weights_note}, {layers} of {encoder.num_layers}, width {encoder.dim}.{cut}")
    if plan.token_counts is not None:
        _announce_tokens(plan.token_counts, encoder, reporter)
    # layers can differ if an earlier extraction stored only some of them
    kept = min(map(plan.num_kept, plan.targets))
    rejected = max(map(plan.num_rejected, plan.targets))
    reporter.say(
        f"  {len(plan.utterances)} utterances{hours}: {len(plan.pending)} to encode on {device}, "
        f"{kept} kept, {rejected} rejected; "
        f"{plan.num_bytes / 1e6:.1f} MB to write, {_readable(free)} free"
    )
    if plan.empty:
        empty = [plan.utterances[i] for i in plan.empty]
        reporter.say(f"  {len(empty)} without transcript: {counts_by_split(empty, plan.utterances)}")
    if plan.pending and plan.num_bytes + FREE_DISK_MARGIN > free:
        raise InputError(
            f"the features need {_readable(plan.num_bytes)} and must leave {_readable(FREE_DISK_MARGIN)} free, "
            f"but {folder} has {_readable(free)} free; give another --features-dir, or encode less with --splits "
            "or --limit"
        )


def _readable(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.2f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.1f} MB"


def _announce_tokens(counts: TokenCounts, encoder: Encoder, reporter: Reporter) -> None:
    """Print how well the tokenizer's vocabulary covers the transcripts.

    Warn of transcripts that are segmented already.
    """
    reporter.say(
        f"  segmenter {encoder.config['segmenter']}, tone marks {encoder.config['tone_style']}: "
        f"{counts.unk_fraction:.2%} of {counts.tokens} tokens are <unk>, "
        f"{counts.single_token_fraction:.1%} of {counts.words} words are a single token"
    )
    if counts.segmented:
        warnings.warn(segmented_message(counts.segmented), stacklevel=2)
