"""Two audio streams become one on the time axis of the first: each of its rows meets the second's row of that time."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from features.ragged import Ragged
from mervn.data.streams import StreamShape


class Dual(nn.Module):
    """Merges rows by frame time, utterance by utterance: an utterance is never stretched by its batch.

    A row of the first stream is centred on t = centre + stride * i samples. `repeat` takes the second's row whose
    stride holds t (p = floor(t / stride), the last one at most), `linear` interpolates between the centres of the two
    nearest. `concat` joins both along the width; `sum` adds a learned projection of the second to the first.
    """

    def __init__(self, first: StreamShape, second: StreamShape, merge: str, time: str) -> None:
        super().__init__()
        self.first, self.second, self.time = first, second, time
        self.project = nn.Linear(second.width, first.width) if merge == "sum" else None
        self.width = first.width if merge == "sum" else first.width + second.width

    def forward(self, first: Ragged, second: Ragged) -> Ragged:
        """(sum T1, D1), (sum T2, D2) -> (sum T1, width); an utterance without rows in the second gets zeros of it."""
        # the middle of each frame of the first stream
        samples = self.first.centre + self.first.stride * first.positions.double()  # (sum T1,)
        last = (second.lengths - 1).clamp(min=0)[first.segments]
        if self.time == "repeat":
            taken = self._rows(second, first, (samples / self.second.stride).floor().long().minimum(last))
        else:
            place = ((samples - self.second.centre) / self.second.stride).clamp(min=0).minimum(last.double())
            low = place.floor().long()
            share = (place - low).to(second.values.dtype)[:, None]
            taken = self._rows(second, first, low) * (1 - share)
            taken = taken + self._rows(second, first, (low + 1).minimum(last)) * share
        if self.project is not None:
            return first.replace(first.values + self.project(taken))
        return first.replace(torch.cat([first.values, taken], dim=-1))

    @staticmethod
    def _rows(second: Ragged, first: Ragged, number: Tensor) -> Tensor:
        """Return row `number` (sum T1,) of the second stream for each row of the first: (sum T1, D2)."""
        if not second.total:
            return second.values.new_zeros((first.total, second.values.shape[1]))
        starts = second.offsets[first.segments]
        rows = second.values[(starts + number).clamp(max=second.total - 1)]
        return rows.masked_fill((second.lengths == 0)[first.segments][:, None], 0.0)
