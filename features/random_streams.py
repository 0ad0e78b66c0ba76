"""Random streams: an independent numpy generator for each purpose."""

from __future__ import annotations

from enum import IntEnum, unique

import numpy as np

WORD_BITS = 32
"""Size of a word in a numpy seed sequence."""


@unique
class Purpose(IntEnum):
    """Purpose of a generator. Each needs the numbers in parentheses, in this order."""

    SAMPLING = 1
    """(seed, epoch): the batches of an epoch."""
    AUGMENTATION = 2
    """(seed, epoch, step, batch): modality dropout and time masks."""
    SPEC_MASK = 3
    """(seed, epoch, step, batch, position): the SpecAugment mask of an utterance."""
    PRETRAIN_ORDER = 4
    """(seed, epoch): the batches of an epoch of pretraining."""
    PRETRAIN_MASK = 5
    """(seed, epoch, utterance): the crop and the masked frames of an utterance of train."""
    PRETRAIN_VALID = 6
    """(seed, utterance): the crop and the masked frames of an utterance of valid."""
    PROCESS = 7
    """(seed, rank): the dropout of each process other than rank 0."""
    EXCHANGE = 8
    """(): the exchanges of a permutation test."""
    TONES = 9
    """(first 8 bytes of the SHA-256 of the utterance id): the exchanged tone marks of a transcript."""
    SHUFFLED_LABELS = 10
    """(number): the labels of a permutation of train."""
    ENCODER_INPUT = 11
    """(): the noise on which an encoder is checked and its width is measured."""


def seed_sequence(purpose: Purpose, *numbers: int) -> np.random.SeedSequence:
    """Return the seed sequence for a purpose and numbers in 0..2**64 - 1.

    numpy pads short seeds with zeros and splits large numbers into words, so that the seeds (0, 1),
    (0, 1, 0, 0) and 2**32 are the same. Here the purpose and the count come first, and every number
    takes two words: different arguments always give different words.
    """
    words = []
    for number in numbers:
        high, low = divmod(int(number), 1 << WORD_BITS)
        words += [low, high & ((1 << WORD_BITS) - 1)]
    return np.random.SeedSequence([int(purpose), len(numbers), *words])


def generator(purpose: Purpose, *numbers: int) -> np.random.Generator:
    """Return the generator of a purpose and its numbers: equal arguments give equal draws."""
    return np.random.default_rng(seed_sequence(purpose, *numbers))
