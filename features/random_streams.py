"""Random streams: a numpy generator for each purpose, which no other purpose draws from."""

from __future__ import annotations

from enum import IntEnum, unique

import numpy as np

WORD = 32
"""Bits of a word of a seed sequence."""


@unique
class Purpose(IntEnum):
    """What is drawn; each needs numbers of its own kind, given in this order."""

    SAMPLING = 1
    """(seed, epoch): the batches of an epoch."""
    AUGMENTATION = 2
    """(seed, epoch, step, batch): modality dropout and time masks."""
    SPEC_MASK = 3
    """(seed, epoch, step, batch, place): the SpecAugment mask of an utterance."""
    PRETRAIN_ORDER = 4
    """(seed, epoch): the batches of an epoch of pretraining."""
    PRETRAIN_MASK = 5
    """(seed, epoch, utterance): the crop and the hidden frames of an utterance of train."""
    PRETRAIN_VALID = 6
    """(seed, utterance): the crop and the hidden frames of an utterance of valid."""
    PROCESS = 7
    """(seed, rank): the dropout of each further process."""


def seed_sequence(purpose: Purpose, *numbers: int) -> np.random.SeedSequence:
    """Return the seed sequence of a purpose and of numbers >= 0 below 2**64.

    numpy pads short seeds with zeros and cuts large numbers into words, so that (0, 1) is also (0, 1, 0, 0) and
    2**32. Here the count comes first and every number has two words: unequal arguments never give equal words.
    """
    words = [int(number) >> shift & (1 << WORD) - 1 for number in numbers for shift in (0, WORD)]
    return np.random.SeedSequence([int(purpose), len(numbers), *words])


def generator(purpose: Purpose, *numbers: int) -> np.random.Generator:
    """Return a generator that is a pure function of its purpose and numbers."""
    return np.random.default_rng(seed_sequence(purpose, *numbers))
