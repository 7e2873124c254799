"""Linear layers for a handful of rows on a CPU: the same numbers from the same weights, faster.

A float32 matrix product of 2 to 15 rows is packed for each call by the CPU library, which costs as
much as computing it. Cut into many narrow products in one batched call it is not packed, and reads
the weights at the speed of memory. Measured on one thread, 8 rows: 576 to 49,152 columns 32 ms
against 15, 576 to 1,536 0.63 against 0.38, 1,536 to 576 0.63 against 0.43. One row, 16 and more,
and other number formats gain nothing and stay as they are, so prefill is untouched.
"""

from __future__ import annotations

import torch
from torch import nn
from transformers import PreTrainedModel

ROWS_MIN, ROWS_MAX = 2, 15
COLUMNS = (192, 96)
"""Widths of a narrow product, the first that divides a layer's."""


class NarrowLinear(nn.Linear):
    """A linear layer over the weights of another one."""

    def __init__(self, plain: nn.Linear, columns: int) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = plain.in_features, plain.out_features
        self.weight = plain.weight
        self.bias = plain.bias
        self._columns = columns

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 - the name it has in torch
        """As ``nn.Linear``."""
        rows = input.numel() // self.in_features
        if not ROWS_MIN <= rows <= ROWS_MAX:
            return nn.functional.linear(input, self.weight, self.bias)
        count = self.out_features // self._columns
        weight = self.weight.view(count, self._columns, self.in_features)
        flat = input.reshape(1, rows, self.in_features).expand(count, -1, -1)
        narrow = torch.bmm(flat, weight.transpose(1, 2))
        out = narrow.transpose(0, 1).reshape(*input.shape[:-1], self.out_features)
        return out if self.bias is None else out + self.bias


def narrow_linears(model: PreTrainedModel) -> None:
    """Puts :class:`NarrowLinear` in the place of every linear layer for which it is made."""
    if model.device.type != "cpu" or model.dtype != torch.float32:
        return
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if type(layer) is nn.Linear:
                columns = next((each for each in COLUMNS if layer.out_features % each == 0), 0)
                if columns:
                    setattr(parent, name, NarrowLinear(layer, columns))
