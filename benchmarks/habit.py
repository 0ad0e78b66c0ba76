"""The habit: heads, loader and epoch as most toolkits write them, padded, with torch's own attention and LSTM."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from random_corpus import Corpus
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence, pad_sequence
from torch.utils.data import DataLoader, Dataset

from mervn.data.split import read_batch
from mervn.model.cross_attention import MultiheadAttention
from mervn.model.head import Head
from mervn.model.recurrent import BiLSTM


def reference_attention(ours: MultiheadAttention) -> nn.MultiheadAttention:
    """Return torch's own attention with the weights of ours."""
    theirs = nn.MultiheadAttention(ours.out.in_features, ours.heads, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([ours.query.weight, ours.key_value.weight]))
        theirs.in_proj_bias.copy_(torch.cat([ours.query.bias, ours.key_value.bias]))
    theirs.out_proj.load_state_dict(ours.out.state_dict())
    return theirs


class HabitHead(nn.Module):
    """The same head as most toolkits write it: padded tensors and nn.MultiheadAttention."""

    def __init__(self, head: Head) -> None:
        super().__init__()
        self.projections, self.classifier = head.projections, head.classifier
        pairs = {"text": head.fusion.text_to_audio, "audio": head.fusion.audio_to_text}
        self.attention = nn.ModuleDict({name: reference_attention(ours.attention) for name, ours in pairs.items()})

    def forward(self, text: Tensor, text_mask: Tensor, audio: Tensor, audio_mask: Tensor) -> Tensor:
        """Return logits (B, C) for padded (B, T, D) and masks (B, T), True = real."""
        t, a = (
            self.projections[name].norm(self.projections[name].linear(x))
            for name, x in (("text", text), ("audio", audio))
        )
        t_new, _ = self.attention["text"](t, a, a, key_padding_mask=~audio_mask)
        a_new, _ = self.attention["audio"](a, t, t, key_padding_mask=~text_mask)
        fused, mask = torch.cat([t_new, a_new], 1), torch.cat([text_mask, audio_mask], 1)
        return self.classifier((fused * mask[..., None]).sum(1) / mask.sum(1, keepdim=True))


class HabitDataset(Dataset[tuple[Tensor, Tensor, int]]):
    """One .npy file an utterance and modality."""

    def __init__(self, corpus: Corpus) -> None:
        self.corpus = corpus

    def __len__(self) -> int:
        return len(self.corpus.files)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, int]:
        text, audio = (torch.from_numpy(np.load(path)).float() for path in self.corpus.files[index])
        return text, audio, self.corpus.targets[index]


def collate(items: list[tuple[Tensor, Tensor, int]]) -> tuple[Tensor, ...]:
    """Pad to the longest of the batch."""
    padded = []
    for column in (0, 1):
        sequences = [item[column] for item in items]
        lengths = torch.tensor([len(sequence) for sequence in sequences])
        batch = pad_sequence(sequences, batch_first=True)
        padded += [batch, torch.arange(batch.shape[1]) < lengths[:, None]]
    return *padded, torch.tensor([item[2] for item in items])


def habit_epoch(head: nn.Module, optimizer: torch.optim.Optimizer, loader: DataLoader[Any]) -> float:
    """Train one epoch the habitual way and return its seconds."""
    started = time.perf_counter()
    for *inputs, targets in loader:
        loss = nn.functional.cross_entropy(head(*inputs), targets)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(head.parameters(), 1.0)
        optimizer.step()
    return time.perf_counter() - started


def check_equal(ours: Head, habit: nn.Module, corpus: Corpus) -> float:
    """Return the greatest difference of the logits of both on one batch."""
    indices = list(range(32))
    with torch.inference_mode():
        found = ours.eval()(read_batch(corpus.split, indices, torch.device("cpu")).inputs())
        dataset = HabitDataset(corpus)
        expected = habit.eval()(*collate([dataset[i] for i in indices])[:-1])
    ours.train()
    habit.train()
    return float((found - expected).abs().max())


def reference_lstm(ours: BiLSTM) -> nn.LSTM:
    """Return torch's own bidirectional LSTM with the weights of ours."""
    first = ours.forwards[0]
    theirs = nn.LSTM(first.input_size, first.hidden_size, len(ours.forwards), batch_first=True, bidirectional=True)
    for layer, pair in enumerate(zip(ours.forwards, ours.backwards, strict=True)):
        for suffix, lstm in zip(("", "_reverse"), pair, strict=True):
            for name, parameter in lstm.named_parameters():
                getattr(theirs, name.replace("l0", f"l{layer}") + suffix).data.copy_(parameter.data)
    return theirs


class HabitRecurrent(nn.Module):
    """bilstm_attn and cnn_bilstm_attn as most toolkits write them: padded tensors, masks, pack_padded_sequence."""

    def __init__(self, head: Head) -> None:
        super().__init__()
        self.projections, self.classifier, fusion = head.projections, head.classifier, head.fusion
        self.convolutions, self.blocks = fusion.convolutions, fusion.blocks
        self.lstms = nn.ModuleDict({name: reference_lstm(ours) for name, ours in fusion.recurrent.items()})
        self.outs = nn.ModuleDict({name: ours.out for name, ours in fusion.recurrent.items()})
        self.attentions = nn.ModuleList(
            nn.ModuleDict({name: reference_attention(block[name].attention) for name in block}) for block in self.blocks
        )

    def forward(self, text: Tensor, text_mask: Tensor, audio: Tensor, audio_mask: Tensor) -> Tensor:
        """Return logits (B, C) for padded (B, T, D) and masks (B, T), True = real."""
        masks = {"text": text_mask, "audio": audio_mask}
        x = {name: self.encode(name, padded, masks[name]) for name, padded in (("text", text), ("audio", audio))}
        for block, attention in zip(self.blocks, self.attentions, strict=True):
            before = dict(x)
            for name, other in (("text", "audio"), ("audio", "text")):
                part = block[name]
                queries, keys = part.query_norm(before[name]), part.key_norm(before[other])
                heard, _ = attention[name](queries, keys, keys, key_padding_mask=~masks[other])
                rows = before[name] + heard
                x[name] = rows + part.feed_forward(part.feed_forward_norm(rows))
        fused, mask = torch.cat([x["text"], x["audio"]], 1), torch.cat([text_mask, audio_mask], 1)
        return self.classifier((fused * mask[..., None]).sum(1) / mask.sum(1, keepdim=True))

    def encode(self, name: str, padded: Tensor, mask: Tensor) -> Tensor:
        """(B, T, width) -> (B, T, D)."""
        x = self.projections[name].norm(self.projections[name].linear(padded))
        if self.convolutions:
            cnn = self.convolutions[name]
            for norm, convolution in zip(cnn.norms, cnn.convolutions, strict=True):
                masked = norm(x) * mask[..., None]
                x = x + nn.functional.gelu(convolution(masked.transpose(1, 2)).transpose(1, 2))
        packed = pack_padded_sequence(x, mask.sum(1), batch_first=True, enforce_sorted=False)
        return self.outs[name](pad_packed_sequence(self.lstms[name](packed)[0], batch_first=True)[0])
