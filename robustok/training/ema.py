"""Exponential moving average of a model's parameters."""

from collections.abc import Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from .optimizers import along_rows
from .parallel import held_as


class EMA:
    """ema <- decay * ema + (1 - decay) * parameter, in float32, after every step. Buffers are not averaged."""

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self.average = {name: p.detach().float().clone() for name, p in model.named_parameters()}
        self._pairs = [(self.average[name], p) for name, p in model.named_parameters() if p.requires_grad]

    @torch.no_grad()
    def update(self) -> None:
        if self._pairs:
            averages, parameters = map(list, zip(*self._pairs, strict=True))
            torch._foreach_lerp_(averages, parameters, 1.0 - self.decay)

    @torch.no_grad()
    def restart_rows(self, model: nn.Module, replaced: Mapping[str, Tensor]) -> None:
        """The average of rows that were replaced, not learned, starts again at their present value: {parameter: bool
        mask over its first dimension}.
        """
        for name, rows in replaced.items():
            average = self.average[name]
            average.copy_(torch.where(along_rows(rows, average), model.get_parameter(name), average))

    def state_dict(self, model: nn.Module) -> dict[str, Tensor]:
        """Every tensor of the model's state dict, the parameters replaced by their averages."""
        return {name: self.average.get(name, value) for name, value in model.state_dict().items()}

    @torch.no_grad()
    def load(self, tensors: dict[str, Tensor]) -> None:
        for name, average in self.average.items():
            average.copy_(held_as(tensors[name], average))

    @contextmanager
    @torch.no_grad()
    def applied_to(self, model: nn.Module):
        """The model with its averaged parameters, in evaluation mode, for as long as the context lasts."""
        kept = {name: p.detach().clone() for name, p in model.named_parameters()}
        training = model.training
        for name, p in model.named_parameters():
            p.copy_(self.average[name])
        try:
            yield model.eval()
        finally:
            for name, p in model.named_parameters():
                p.copy_(kept[name])
            model.train(training)
