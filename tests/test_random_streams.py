"""No two purposes draw the same numbers, for any seed, epoch or step."""

import ast
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

from features.ragged import Ragged
from features.random_streams import Purpose, generator
from mervn.config import TrainingOptions
from mervn.data.augmentation import SpecMask, augment
from mervn.training.sampling import BatchSize, epoch_batches

ROOT = Path(__file__).parent.parent
COUNTS = {
    Purpose.SAMPLING: 2,
    Purpose.AUGMENTATION: 4,
    Purpose.SPEC_MASK: 5,
    Purpose.PRETRAIN_ORDER: 2,
    Purpose.PRETRAIN_MASK: 3,
    Purpose.PRETRAIN_VALID: 2,
    Purpose.PROCESS: 2,
    Purpose.EXCHANGE: 0,
    Purpose.TONES: 1,
    Purpose.SHUFFLED_LABELS: 1,
    Purpose.ENCODER_INPUT: 0,
}
NUMBERS = (0, 1, 2, 7, 2**32, 2**32 + 1)
Stream = Callable[..., np.random.Generator]


def coinciding(stream: Stream) -> int:
    """Return how many streams begin with the numbers of another."""
    begins = [
        tuple(stream(purpose, *numbers).integers(2**63, size=2))
        for purpose, count in COUNTS.items()
        for numbers in product(NUMBERS, repeat=count)
    ]
    return len(begins) - len(set(begins))


def test_streams_of_purposes_seeds_and_epochs_never_coincide() -> None:
    assert COUNTS.keys() == set(Purpose)
    assert coinciding(generator) == 0


def test_control_seeds_without_purpose_or_width_coincide() -> None:
    assert coinciding(lambda purpose, *numbers: np.random.default_rng(numbers)) > 0
    assert coinciding(lambda purpose, *numbers: np.random.default_rng((purpose, *numbers))) > 0  # 2**32 is (0, 1)


def test_what_sampling_draws_first_is_not_what_augmentation_drops() -> None:
    count, batch, first = 400, 20, []
    lengths = np.ones((1, count), int)
    streams = {name: Ragged.from_lengths(torch.ones(batch, 1), [1] * batch) for name in ("text", "audio")}
    for epoch in range(40):
        batches = epoch_batches("weighted", np.ones(count), np.ones(count), BatchSize(lengths, batch), 0, epoch)
        found = augment(streams, TrainingOptions(drop_text=0.2), (0, epoch, 0, 0), batch, range(batch))
        first += [index for index, size in zip(batches[0], found["text"].sizes, strict=True) if not size]
    assert np.mean(first) == pytest.approx(count / 2, abs=5 * count / 12**0.5 / len(first) ** 0.5)  # was 40


def test_modality_dropout_and_spec_masks_do_not_move_together() -> None:
    wave, gone, silent = np.ones(1600, np.float32), [], []
    streams = {name: Ragged.from_lengths(torch.ones(1, 1), [1]) for name in ("text", "audio")}
    for step in range(300):
        found = augment(streams, TrainingOptions(drop_text=0.5), (0, 0, step, 0), 1, [0])
        gone.append(not found["text"].total)
        silent.append(float((SpecMask(0.5, 0.0, (0, 0, step, 0, 0)).apply(wave, 16_000) == 0).mean()))
    assert abs(np.corrcoef(gone, silent)[0, 1]) < 0.2


def unnamed_streams(source: str) -> Iterator[int]:
    """Yield the lines that make a numpy generator or seed sequence without a purpose."""
    calls = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call))
    for call in calls:
        if isinstance(call.func, ast.Attribute) and call.func.attr in ("default_rng", "SeedSequence", "RandomState"):
            yield call.lineno


def test_every_stream_of_the_library_has_a_purpose() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for room in ("features", "mervn", "cli")
        for path in (ROOT / room).rglob("*.py")
        if path.name != "random_streams.py" and path.parent.name != "demo"  # the demo draws a corpus, not a training
        for line in unnamed_streams(path.read_text("utf-8"))
    ]
    assert found == []
    assert list(unnamed_streams("import numpy as np\nrng = np.random.default_rng((0, 1))\n")) == [2]
