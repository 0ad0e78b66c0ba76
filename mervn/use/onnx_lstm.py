"""LSTM of an ONNX graph: torch would unroll one over the time axis, which then is no longer dynamic."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


@torch.library.custom_op("mervn::lstm", mutates_args=())
def lstm(x: Tensor, weight_ih: Tensor, weight_hh: Tensor, bias_ih: Tensor, bias_hh: Tensor) -> Tensor:
    """Return the outputs (B, T, H) of an LSTM of one layer and direction for x (B, T, D), as `nn.LSTM` does."""
    zeros = x.new_zeros(1, x.shape[0], weight_hh.shape[1])
    weights = [weight_ih, weight_hh, bias_ih, bias_hh]
    output: Tensor = torch.lstm(x, (zeros, zeros), weights, True, 1, 0.0, False, False, True)[0]
    return output.clone()  # an operator must not return a view of its input


@lstm.register_fake
def _(x: Tensor, weight_ih: Tensor, weight_hh: Tensor, bias_ih: Tensor, bias_hh: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], x.shape[1], weight_hh.shape[1])


class GraphLstm(nn.Module):
    """The same weights as an `nn.LSTM` of one layer and direction, as one operator of a graph."""

    def __init__(self, module: nn.LSTM) -> None:
        super().__init__()
        self.hidden_size = module.hidden_size
        self.weights = nn.ParameterList(
            [module.weight_ih_l0, module.weight_hh_l0, module.bias_ih_l0, module.bias_hh_l0]
        )

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        """Map (B, T, D) to (B, T, H)."""
        return lstm(x, *self.weights), None


@contextmanager
def graph_lstms(module: nn.Module) -> Iterator[None]:
    """Replace each LSTM of one layer and direction within a module by a `GraphLstm`, for a while."""
    replaced: list[tuple[nn.Module, str, nn.Module]] = []
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.LSTM) and _is_simple(child):
                parent._modules[name] = GraphLstm(child)
                replaced.append((parent, name, child))
    try:
        yield
    finally:
        for parent, name, child in replaced:
            parent._modules[name] = child


def _is_simple(module: nn.LSTM) -> bool:
    """Tell whether `lstm` computes what a module does."""
    is_single = module.num_layers == 1 and not module.bidirectional and not module.proj_size
    return is_single and module.batch_first and module.bias


def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Return the translation of `lstm` into operators of ONNX."""
    from onnxscript import opset18 as op

    def in_onnx_order(gates: Any) -> Any:
        """Reorder input, forget, cell and output gates to input, output, forget and cell."""
        i, f, g, o = op.Split(gates, num_outputs=4, axis=0)
        return op.Concat(i, o, f, g, axis=0)

    def translate(x: Any, weight_ih: Any, weight_hh: Any, bias_ih: Any, bias_hh: Any) -> Any:
        first: Any = op.Constant(value_ints=[0])
        second: Any = op.Constant(value_ints=[1])
        w, r = (op.Unsqueeze(in_onnx_order(weight), first) for weight in (weight_ih, weight_hh))
        bias = op.Concat(in_onnx_order(bias_ih), in_onnx_order(bias_hh), axis=0)
        by_time = op.Transpose(x, perm=[1, 0, 2])
        states, _, _ = op.LSTM(by_time, w, r, op.Unsqueeze(bias, first), hidden_size=weight_hh.shape[1])  # (T, 1, B, H)
        return op.Transpose(op.Squeeze(states, second), perm=[1, 0, 2])

    return {torch.ops.mervn.lstm.default: translate}
