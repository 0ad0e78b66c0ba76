"""The head: projection, fusion, pooling and classifier over sequences of any number of rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from features.errors import UsageError
from features.lazy_import import import_target
from features.ragged import Ragged, concatenate
from mervn.config import HeadOptions, TrainingOptions
from mervn.data.streams import SECOND, StreamShape
from mervn.model.audio_merge import Dual
from mervn.model.custom_module import fusion_spec, pooling_target
from mervn.model.pooling import ClsPooling
from mervn.model.trainable import Trainable
from mervn.registry import POOLINGS


class Projection(nn.Module):
    """LayerNorm(x W) for one stream; where a row is missing a learned one can stand for it."""

    def __init__(self, width: int, dim: int, missing_token: bool, dropout: float = 0.0) -> None:
        super().__init__()
        self.linear = nn.Linear(width, dim, bias=False)
        self.norm = nn.LayerNorm(dim)
        self.missing = nn.Parameter(torch.randn(1, dim) * 0.02) if missing_token else None
        self.dropout = nn.Dropout(dropout)

    def forward(self, stream: Ragged) -> Ragged:
        """(sum T, width) -> (sum T', dim); T' = 1 for an empty sequence if there is a missing token, else T."""
        projected = stream.map(self.linear).map(self.norm)
        if self.missing is not None and 0 in stream.sizes:
            projected = _with_row(projected, self.missing)
        return projected.map(self.dropout)


def _with_row(stream: Ragged, row: Tensor) -> Ragged:
    """Return the stream with a row (1, D) in the place of every empty sequence."""
    empty = [int(size == 0) for size in stream.sizes]
    rows = Ragged.from_device_lengths(
        row.expand(sum(empty), -1).to(stream.values.dtype), (stream.lengths == 0).long(), empty
    )
    return concatenate(stream, rows)


class LayerMix(nn.Module):
    """A learned softmax mix of layers (Peters et al. 2018, eq. 1, without the scale): sum_l softmax(s)_l h_l."""

    def __init__(self, num_layers: int) -> None:
        super().__init__()
        self.scores = nn.Parameter(torch.zeros(num_layers))

    def weights(self) -> Tensor:
        """Return the weights (L,), which add up to 1."""
        return self.scores.softmax(0)

    def forward(self, stream: Ragged) -> Ragged:
        """(sum T, L, D) -> (sum T, D)."""
        return stream.map(lambda values: torch.einsum("tld,l->td", values, self.weights()))


class Head(Trainable):
    """Maps streams of features to logits: `forward({"text": Ragged, "audio": Ragged}) -> (B, C)`.

    It is given its sub-modules built. `poolings` has one pooling for each sequence that the fusion returns, `leads`
    the modality each of those sequences begins with.
    """

    def __init__(
        self,
        mixes: Mapping[str, LayerMix],
        dual: Dual | None,
        projections: Mapping[str, Projection],
        fusion: nn.Module,
        poolings: Sequence[nn.Module],
        leads: Sequence[str],
        classifier: nn.Module,
    ) -> None:
        super().__init__()
        self.mixes = nn.ModuleDict(mixes)
        self.dual = dual
        self.projections = nn.ModuleDict(projections)
        self.fusion = fusion
        self.poolings = nn.ModuleList(poolings)
        self.leads = tuple(leads)
        self.classifier = classifier

    def encode(self, inputs: Mapping[str, Ragged]) -> dict[str, Ragged]:
        """Return the inputs: they are features already."""
        return dict(inputs)

    def parameter_groups(self, options: TrainingOptions) -> list[dict[str, Any]]:
        """Return parameters with and without weight decay."""
        return head_groups(self, options)

    def start_epoch(self, epoch: int) -> None:
        """Do nothing: every parameter is trained in every epoch."""

    def classify(self, features: Mapping[str, Ragged]) -> Tensor:
        """Return logits (B, C) float32 from features (sum T, D), or (sum T, L, D) if layers are mixed."""
        streams = {name: self.mixes[name](x) if name in self.mixes else x for name, x in features.items()}
        if self.dual is not None:
            streams["audio"] = self.dual(streams["audio"], streams[SECOND])
        projected = {name: projection(streams[name]) for name, projection in self.projections.items()}
        sequences = self.fusion(projected)
        pooled = []
        for pooling, sequence, lead in zip(self.poolings, sequences, self.leads, strict=True):
            vector = pooling(sequence)
            if isinstance(pooling, ClsPooling):  # without text the first row would be the audio's
                vector = vector.masked_fill(projected[lead].lengths[:, None] == 0, 0.0)
            pooled.append(vector)
        logits: Tensor = self.classifier(torch.cat(pooled, dim=-1))
        return logits.float()


class PaddedHead(nn.Module):
    """The same head over padded tensors: the entry for export, and for whoever has padded batches."""

    def __init__(self, head: Head) -> None:
        super().__init__()
        self.head = head

    def forward(
        self,
        text: Tensor | None = None,
        text_lengths: Tensor | None = None,
        audio: Tensor | None = None,
        audio_lengths: Tensor | None = None,
        audio_2: Tensor | None = None,
        audio_2_lengths: Tensor | None = None,
    ) -> Tensor:
        """Return logits (B, C) for text (B, Tt, Dt), audio (B, Ta, Da) and lengths (B,); padding may hold anything.

        `audio_2` is the second stream of a dual head; several layers are (B, T, L, D).
        """
        streams = {}
        given = (("text", text, text_lengths), ("audio", audio, audio_lengths), (SECOND, audio_2, audio_2_lengths))
        for name, padded, lengths in given:
            if padded is not None and lengths is not None:
                streams[name] = Ragged.from_padded(padded, lengths)
        logits: Tensor = self.head(streams)
        return logits


def require_pooling(fusion: str, pooling: str) -> None:
    """Raise UsageError for `cls` pooling of a fusion whose output has no [CLS] position."""
    if pooling == "cls" and "text" not in fusion_spec(fusion).outputs:
        raise UsageError(
            f"--pooling cls takes the text [CLS] position, which --fusion {fusion} does not have; "
            f"choose one of {', '.join(name for name in POOLINGS if name != 'cls')}"
        )


def pooling_names(fusion: str, pooling: str) -> list[str]:
    """Return the pooling of each output sequence of a fusion; `cls` is mean pooling for a sequence without [CLS]."""
    require_pooling(fusion, pooling)
    outputs = fusion_spec(fusion).outputs
    if pooling != "cls":
        return [pooling] * len(outputs)
    return ["cls" if lead == "text" else "mean" for lead in outputs]


def build_head(options: HeadOptions, shapes: Mapping[str, StreamShape], num_classes: int) -> Head:
    """Build the head that the options describe for streams of these shapes."""
    spec = fusion_spec(options.fusion)
    names = pooling_names(options.fusion, options.pooling)
    token = options.missing == "token"
    widths = {name: shapes[name].width for name in spec.streams}
    dual = None
    if SECOND in shapes and "audio" in spec.streams:
        dual = Dual(shapes["audio"], shapes[SECOND], options.dual_merge, options.dual_time)
        widths["audio"] = dual.width
    return Head(
        mixes={name: LayerMix(len(shape.layers)) for name, shape in shapes.items() if len(shape.layers) > 1},
        dual=dual,
        projections={
            name: Projection(widths[name], options.dim, token, options.input_dropout) for name in spec.streams
        },
        fusion=import_target(spec.target)(
            options.dim,
            options.heads,
            options.attention_dropout,
            **{name: getattr(options, name) for name in spec.options},
        ),
        poolings=[import_target(pooling_target(name))(options.dim) for name in names],
        leads=spec.outputs,
        classifier=Classifier(options.dim * len(names), options.mlp, num_classes, options.dropout),
    )


def head_groups(head: nn.Module, options: TrainingOptions) -> list[dict[str, Any]]:
    """Return the parameter groups of a head: biases, norms and learned rows are not decayed."""
    decayed = [p for name, p in head.named_parameters() if p.ndim > 1 and not name.endswith("missing")]
    chosen = {id(parameter) for parameter in decayed}
    kept = [p for p in head.parameters() if id(p) not in chosen]
    return [{"params": decayed, "weight_decay": options.weight_decay}, {"params": kept, "weight_decay": 0.0}]


class Classifier(nn.Module):
    """Hidden layers of the given widths, each with GELU and dropout, and a linear map to the C classes."""

    def __init__(self, dim: int, hidden: Sequence[int], num_classes: int, dropout: float) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Dropout(dropout)]
        for width in hidden:
            layers += [nn.Linear(dim, width), nn.GELU(), nn.Dropout(dropout)]
            dim = width
        self.layers = nn.Sequential(*layers, nn.Linear(dim, num_classes))

    def forward(self, pooled: Tensor) -> Tensor:
        """(B, D) -> (B, C) logits."""
        logits: Tensor = self.layers(pooled)
        return logits
