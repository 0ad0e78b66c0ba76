"""Baseline: head, data loader and training epoch with padded batches and torch's own attention and LSTM."""

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
    """Return `nn.MultiheadAttention` with the same weights."""
    theirs = nn.MultiheadAttention(ours.out.in_features, ours.heads, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([ours.query.weight, ours.key_value.weight]))
        theirs.in_proj_bias.copy_(torch.cat([ours.query.bias, ours.key_value.bias]))
    theirs.out_proj.load_state_dict(ours.out.state_dict())
    return theirs


class BaselineHead(nn.Module):
    """xattn head over padded tensors with `nn.MultiheadAttention`."""

    def __init__(self, head: Head) -> None:
        super().__init__()
        self.projections, self.classifier = head.projections, head.classifier
        pairs = {"text": head.fusion.text_to_audio, "audio": head.fusion.audio_to_text}
        self.attention = nn.ModuleDict({name: reference_attention(ours.attention) for name, ours in pairs.items()})

    def forward(self, text: Tensor, text_mask: Tensor, audio: Tensor, audio_mask: Tensor) -> Tensor:
        """Return logits (B, C) for padded (B, T, D) and masks (B, T), True = real frame."""
        text = self.projections["text"].norm(self.projections["text"].linear(text))
        audio = self.projections["audio"].norm(self.projections["audio"].linear(audio))
        new_text, _ = self.attention["text"](text, audio, audio, key_padding_mask=~audio_mask)
        new_audio, _ = self.attention["audio"](audio, text, text, key_padding_mask=~text_mask)
        fused, mask = torch.cat([new_text, new_audio], 1), torch.cat([text_mask, audio_mask], 1)
        return self.classifier((fused * mask[..., None]).sum(1) / mask.sum(1, keepdim=True))


class BaselineDataset(Dataset[tuple[Tensor, Tensor, int]]):
    """Dataset with one .npy file per utterance and modality."""

    def __init__(self, corpus: Corpus) -> None:
        self.corpus = corpus

    def __len__(self) -> int:
        return len(self.corpus.files)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, int]:
        text, audio = (torch.from_numpy(np.load(path)).float() for path in self.corpus.files[index])
        return text, audio, self.corpus.targets[index]


def collate(items: list[tuple[Tensor, Tensor, int]]) -> tuple[Tensor, ...]:
    """Pad to the longest sequence of the batch; return text, its mask, audio, its mask and targets."""
    padded = []
    for column in (0, 1):
        sequences = [item[column] for item in items]
        lengths = torch.tensor([len(sequence) for sequence in sequences])
        batch = pad_sequence(sequences, batch_first=True)
        padded += [batch, torch.arange(batch.shape[1]) < lengths[:, None]]
    return *padded, torch.tensor([item[2] for item in items])


def baseline_epoch(head: nn.Module, optimizer: torch.optim.Optimizer, loader: DataLoader[Any]) -> float:
    """Train one epoch and return its seconds."""
    started = time.perf_counter()
    for *inputs, targets in loader:
        loss = nn.functional.cross_entropy(head(*inputs), targets)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(head.parameters(), 1.0)
        optimizer.step()
    return time.perf_counter() - started


def max_difference(ours: Head, baseline: nn.Module, corpus: Corpus) -> float:
    """Return the maximum difference between the logits of both heads on one batch."""
    indices = list(range(min(32, len(corpus.targets))))
    with torch.inference_mode():
        found = ours.eval()(read_batch(corpus.split, indices, torch.device("cpu")).inputs())
        dataset = BaselineDataset(corpus)
        expected = baseline.eval()(*collate([dataset[i] for i in indices])[:-1])
    ours.train()
    baseline.train()
    return float((found - expected).abs().max())


def reference_lstm(ours: BiLSTM) -> nn.LSTM:
    """Return a bidirectional `nn.LSTM` with the same weights."""
    first = ours.forwards[0]
    theirs = nn.LSTM(first.input_size, first.hidden_size, len(ours.forwards), batch_first=True, bidirectional=True)
    for layer, pair in enumerate(zip(ours.forwards, ours.backwards, strict=True)):
        for suffix, lstm in zip(("", "_reverse"), pair, strict=True):
            for name, parameter in lstm.named_parameters():
                getattr(theirs, name.replace("l0", f"l{layer}") + suffix).data.copy_(parameter.data)
    return theirs


class BaselineRecurrent(nn.Module):
    """bilstm_attn and cnn_bilstm_attn heads over padded tensors, with masks and `pack_padded_sequence`."""

    def __init__(self, head: Head) -> None:
        super().__init__()
        self.projections, self.classifier, fusion = head.projections, head.classifier, head.fusion
        self.convolutions, self.blocks = fusion.convolutions, fusion.blocks
        self.lstms = nn.ModuleDict({name: reference_lstm(ours) for name, ours in fusion.recurrent.items()})
        self.outs = nn.ModuleDict({name: ours.out for name, ours in fusion.recurrent.items()})
        self.attentions = nn.ModuleList()
        for block in self.blocks:
            self.attentions.append(nn.ModuleDict({name: reference_attention(block[name].attention) for name in block}))

    def forward(self, text: Tensor, text_mask: Tensor, audio: Tensor, audio_mask: Tensor) -> Tensor:
        """Return logits (B, C) for padded (B, T, D) and masks (B, T), True = real frame."""
        masks = {"text": text_mask, "audio": audio_mask}
        x = {"text": self.encode("text", text, text_mask), "audio": self.encode("audio", audio, audio_mask)}
        for block, attention in zip(self.blocks, self.attentions, strict=True):
            before = dict(x)
            for name, other in (("text", "audio"), ("audio", "text")):
                part = block[name]
                queries, keys = part.query_norm(before[name]), part.key_norm(before[other])
                attended, _ = attention[name](queries, keys, keys, key_padding_mask=~masks[other])
                output = before[name] + attended
                x[name] = output + part.feed_forward(part.feed_forward_norm(output))
        fused, mask = torch.cat([x["text"], x["audio"]], 1), torch.cat([text_mask, audio_mask], 1)
        return self.classifier((fused * mask[..., None]).sum(1) / mask.sum(1, keepdim=True))

    def encode(self, name: str, padded: Tensor, mask: Tensor) -> Tensor:
        """Project and encode one modality: (B, T, width) to (B, T, D)."""
        x = self.projections[name].norm(self.projections[name].linear(padded))
        if self.convolutions:
            cnn = self.convolutions[name]
            for norm, convolution in zip(cnn.norms, cnn.convolutions, strict=True):
                masked = norm(x) * mask[..., None]
                x = x + nn.functional.gelu(convolution(masked.transpose(1, 2)).transpose(1, 2))
        packed = pack_padded_sequence(x, mask.sum(1), batch_first=True, enforce_sorted=False)
        return self.outs[name](pad_packed_sequence(self.lstms[name](packed)[0], batch_first=True)[0])
