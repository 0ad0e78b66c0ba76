"""Classification head: projection, fusion, pooling and classifier over sequences of any length."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from features.lazy_import import import_target
from features.ragged import Ragged
from mervn.config import HeadOptions, TrainingOptions
from mervn.data.streams import SECOND, StreamShape
from mervn.model.audio_merge import AudioMerge
from mervn.model.head_modules import HeadModules, head_modules
from mervn.model.linear import Centring
from mervn.model.pooling import ClsPooling
from mervn.model.trainable import ParameterGroup, Trainable, decay_groups


class Projection(nn.Module):
    """Projection of one stream: dropout(LayerNorm(x W)).

    With `missing_token`, a learned token replaces a missing modality.
    """

    def __init__(self, width: int, dim: int, missing_token: bool, dropout: float = 0.0) -> None:
        super().__init__()
        self.linear = nn.Linear(width, dim, bias=False)
        self.norm = nn.LayerNorm(dim)
        self.missing = nn.Parameter(torch.randn(1, dim) * 0.02) if missing_token else None
        self.dropout = nn.Dropout(dropout)

    def forward(self, stream: Ragged) -> Ragged:
        """Map (sum T, width) to (sum T', dim).

        T' = T, except that T' = 1 for an empty sequence if there is a token for a missing modality.
        """
        projected = stream.replace(self.norm(self.linear(stream.values)))
        if self.missing is not None:
            projected = projected.fill_empty(self.missing)
        return projected.map(self.dropout)


class LayerMix(nn.Module):
    """Weighted sum of encoder layers, sum_l softmax(s)_l h_l.

    Peters et al. 2018, eq. 1, without the scale.
    """

    def __init__(self, num_layers: int) -> None:
        super().__init__()
        self.scores = nn.Parameter(torch.zeros(num_layers))

    def weights(self) -> Tensor:
        """Return the layer weights (L,), which sum to 1."""
        return self.scores.softmax(0)

    def forward(self, stream: Ragged) -> Ragged:
        """Map (sum T, L, D) to (sum T, D)."""
        return stream.replace(torch.einsum("tld,l->td", stream.values, self.weights()))


class Head(Trainable):
    """Classification head: `forward({"text": Ragged, "audio": Ragged}) -> logits (B, C)`.

    It receives its sub-modules already built. For each sequence that the fusion returns, `poolings`
    has one pooling and `leads` the modality that the sequence begins with. `mixes` has a `LayerMix`
    for each stream of several layers. `dual` merges two audio streams into one.
    """

    def __init__(
        self,
        mixes: Mapping[str, LayerMix],
        dual: AudioMerge | None,
        projections: Mapping[str, nn.Module],
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
        """Return the inputs unchanged: they are features already."""
        return dict(inputs)

    def parameter_groups(self, options: TrainingOptions) -> list[ParameterGroup]:
        """Return parameters with and without weight decay."""
        return decay_groups(self, options.weight_decay)

    def start_epoch(self, epoch: int) -> None:
        """Do nothing: every parameter is trained in every epoch."""

    def classify(self, features: Mapping[str, Ragged]) -> Tensor:
        """Return logits (B, C) float32 from features (sum T, D), or (sum T, L, D) to mix layers."""
        projected = self.project(features)
        sequences = self.fusion(projected)
        pooled = []
        for pooling, sequence, lead in zip(self.poolings, sequences, self.leads, strict=True):
            if isinstance(pooling, ClsPooling):
                lengths = projected[lead].lengths
                # Without text, the position would be that of an audio frame.
                pooled.append(pooling(sequence, lengths).masked_fill(lengths[:, None] == 0, 0.0))
            else:
                pooled.append(pooling(sequence))
        logits: Tensor = self.classifier(torch.cat(pooled, dim=-1))
        return logits.float()

    def project(self, features: Mapping[str, Ragged]) -> dict[str, Ragged]:
        """Return the inputs (sum T, dim) of the fusion: layers mixed, audio streams merged, projected."""
        streams = dict(features)
        for name, mix in self.mixes.items():
            if name in streams:
                streams[name] = mix(streams[name])
        if self.dual is not None:
            streams["audio"] = self.dual(streams["audio"], streams[SECOND])
        projected: dict[str, Ragged] = {}
        for name, projection in self.projections.items():
            projected[name] = projection(streams[name])
        return projected


class PaddedHead(nn.Module):
    """Wrapper of a head for padded tensors, for export and for callers with padded batches.

    `layout` makes a batch of a padded tensor and lengths: packed by default, `Padded.of` for a graph
    with dynamic axes.
    """

    def __init__(self, head: Head, layout: Callable[[Tensor, Tensor], Ragged] = Ragged.from_padded) -> None:
        super().__init__()
        self.head = head
        self.layout = layout

    def forward(
        self,
        text: Tensor | None = None,
        text_lengths: Tensor | None = None,
        audio: Tensor | None = None,
        audio_lengths: Tensor | None = None,
        audio_2: Tensor | None = None,
        audio_2_lengths: Tensor | None = None,
    ) -> Tensor:
        """Return logits (B, C) for padded text (B, Tt, Dt) and audio (B, Ta, Da).

        The lengths are (B,) int64; the padding is ignored. `audio_2` is the second audio stream of
        a head with two. Streams of several layers are (B, T, L, D). ValueError for a stream without
        its lengths, and for lengths without their stream.
        """
        given = {
            "text": (text, text_lengths),
            "audio": (audio, audio_lengths),
            SECOND: (audio_2, audio_2_lengths),
        }
        streams = {}
        for name, (padded, lengths) in given.items():
            if padded is not None and lengths is not None:
                streams[name] = self.layout(padded, lengths)
            elif padded is not None or lengths is not None:
                found = "no lengths" if lengths is None else "lengths alone"
                raise ValueError(f"{name} and {name}_lengths must be given together, found {found}")
        logits: Tensor = self.head(streams)
        return logits


def build_head(
    options: HeadOptions, shapes: Mapping[str, StreamShape], num_classes: int, modules: HeadModules | None = None
) -> Head:
    """Build the head that the options describe, for streams of the given shapes.

    `modules` are its fusion and poolings, by default those that the options name.
    """
    if modules is None:
        modules = head_modules(options)
    spec = modules.fusion
    if spec.linear:
        return _build_linear(modules, shapes, num_classes)
    widths = {name: shapes[name].width for name in spec.streams}
    # The order of construction decides the initial weights for a given seed.
    dual = None
    if SECOND in shapes and "audio" in spec.streams:
        dual = AudioMerge(shapes["audio"], shapes[SECOND], options.dual_merge, options.dual_time)
        widths["audio"] = dual.width
    mixes = {}
    for name, shape in shapes.items():
        if len(shape.layers) > 1:
            mixes[name] = LayerMix(len(shape.layers))
    projections, missing_token = {}, options.missing == "token"
    for name, width in widths.items():
        projections[name] = Projection(width, options.dim, missing_token, options.input_dropout)
    keywords = {name: getattr(options, name) for name in spec.options}
    fusion = import_target(spec.target)(options.dim, options.heads, options.attention_dropout, **keywords)
    poolings = []
    for target, lead in zip(modules.poolings, spec.outputs, strict=True):
        pooling = import_target(target)(options.dim)
        if isinstance(pooling, ClsPooling):
            pooling.last_token = shapes[lead].causal
        poolings.append(pooling)
    classifier = Classifier(options.dim * len(poolings), options.mlp, num_classes, options.dropout)
    return Head(mixes, dual, projections, fusion, poolings, spec.outputs, classifier)


def _build_linear(modules: HeadModules, shapes: Mapping[str, StreamShape], num_classes: int) -> Head:
    """Build a head of one linear layer on the concatenated time-means of all streams and layers."""
    projections, poolings, total = {}, [], 0
    for name in (*modules.fusion.streams, *(other for other in shapes if other == SECOND)):
        width = shapes[name].width * len(shapes[name].layers)
        projections[name] = Centring(width)
        poolings.append(import_target(modules.poolings[0])(width))
        total += width
    fusion = import_target(modules.fusion.target)(total, 1, 0.0)
    return Head({}, None, projections, fusion, poolings, list(projections), nn.Linear(total, num_classes))


class Classifier(nn.Module):
    """MLP classifier: hidden layers with GELU and dropout, then a linear layer to C classes."""

    def __init__(self, dim: int, hidden: Sequence[int], num_classes: int, dropout: float) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Dropout(dropout)]
        for width in hidden:
            layers += [nn.Linear(dim, width), nn.GELU(), nn.Dropout(dropout)]
            dim = width
        self.layers = nn.Sequential(*layers, nn.Linear(dim, num_classes))

    def forward(self, pooled: Tensor) -> Tensor:
        """Map (B, D) to logits (B, C)."""
        logits: Tensor = self.layers(pooled)
        return logits
