"""Table of stores, as `mervn store list` and error messages show it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from features.command_lines import recorded_settings
from features.encoders.selector import MEANS
from features.errors import InputError
from features.store.faults import UnreadablePartError
from features.store.identity import StoreInfo
from features.store.models import describe_models
from features.store.reader import FeatureStore

COLUMNS = ("layer", "settings", "utterances", "MB", "dtype", "weights", "model")


@dataclass(frozen=True)
class StoreSummary:
    """State and content of a store."""

    info: StoreInfo
    utterances: int = 0
    num_bytes: int = 0
    """Size of all parts on disk."""
    unreadable: str | None = None
    """Why a part cannot be read now, if so; the counts are then unknown."""
    damaged: bool = False

    @property
    def weights(self) -> str:
        """Origin of the encoder's weights."""
        return str(self.info.provenance["weights"])

    @property
    def model(self) -> str:
        """Models whose weights the encoder can have."""
        return describe_models(self.info)

    @property
    def cells(self) -> tuple[Any, ...]:
        """The cells of the table's line, one per entry of `COLUMNS`."""
        counts: tuple[Any, ...] = (self.utterances, f"{self.num_bytes / 1e6:.1f}")
        weights = self.weights
        if self.unreadable is not None:
            counts, weights = ("unreadable", "-"), self.unreadable
        elif self.damaged:
            counts, weights = ("damaged", "-"), "mervn store verify names the damaged part"
        identity = self.info.identity
        layer = "means of all" if identity.layer == MEANS else identity.layer
        return (layer, _settings(self.info), *counts, identity.store_dtype, weights, self.model)


def summarize(info: StoreInfo) -> StoreSummary:
    """Return the state and content of a store."""
    try:
        store = FeatureStore(info.path)
        return StoreSummary(info, len(store), store.num_bytes)
    except UnreadablePartError as error:
        return StoreSummary(info, unreadable=error.detail)
    except InputError:
        return StoreSummary(info, damaged=True)


def _settings(info: StoreInfo) -> str:
    """Return the settings and the precision of the encoder, such as `30s` or `pyvi, new, bf16`."""
    settings = asdict(recorded_settings(info.identity.config))
    found = [value for value in settings.values() if value is not None]
    if info.identity.encoder_precision != "fp32":
        found.append(info.identity.encoder_precision)
    return ", ".join(found) or "-"
