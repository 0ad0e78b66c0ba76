"""Finding: one kind of fault in a corpus, with its explanation, its fix and examples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from features.manifests.manifest import Utterance

Severity = Literal["error", "warning", "info"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "info")
"""In order: an error makes a score wrong or a command fail, a warning makes a score doubtful."""
NO_LABEL = "without label"
MAX_EXAMPLES = 5
"""Maximum number of places that a finding names."""


@dataclass(frozen=True)
class Explanation:
    """Why a kind of finding matters, and what to do about it."""

    why: str
    fix: str


@dataclass(frozen=True)
class Finding:
    """One kind of fault that a corpus has."""

    id: str
    """Stable name of the kind: a key of `features.audit.explanations.EXPLANATIONS`."""
    severity: Severity
    count: int
    """Number of utterances, speakers, recordings, ...: the first number of the message."""
    message: str
    """What was found."""
    why: str
    """Why it matters."""
    fix: str
    """What to do."""
    examples: tuple[str, ...]
    """Places such as `train.jsonl:17`."""

    def as_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        return {**asdict(self), "examples": list(self.examples)}


def place(utterance: Utterance) -> str:
    """Return the manifest and the line of an utterance."""
    return f"{utterance.file}:{utterance.line}"


def examples_of(utterances: Sequence[Utterance]) -> tuple[str, ...]:
    """Return the places of the first few utterances."""
    return tuple(map(place, utterances[:MAX_EXAMPLES]))


def counts_by_split(found: Sequence[Utterance], utterances: Sequence[Utterance]) -> str:
    """Return how many of the utterances were found, by split and class: `3 of 9 in train (happy 1, sad 2)`."""
    totals = Counter(utterance.split for utterance in utterances)
    parts = []
    for split, total in totals.items():
        classes = Counter(utterance.emotion or NO_LABEL for utterance in found if utterance.split == split)
        if classes:
            by_class = ", ".join(f"{name} {count}" for name, count in sorted(classes.items()))
            parts.append(f"{classes.total()} of {total} in {split} ({by_class})")
    return "; ".join(parts)
