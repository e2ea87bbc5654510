"""The networks that a stage trains: parameters in groups of one weight decay, learning rates, optimiser state by name.

In a checkpoint the state of a parameter is `optimizer.MODULE.PARAMETER.ENTRY`, with the network's own parameter names.
Former checkpoints have the parameter's number in place of its name; they are still read.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..config import DiscriminatorConfig, TrainingConfig
from ..models.parameters import decayed_parameters
from .parallel import averaged, held_as, parallelize, whole
from .run import Run
from .schedules import cosine_rate

# Former checkpoints number the parameters in this order: first the matrices whose path has none of these in it. The
# norm of the gradients adds up in the same order. It is kept, so that a run goes on from them to the bit.
_LATER = ("embed", "token", "codebook", "level")


@dataclass
class TrainedModule:
    """A network with the optimiser that trains it."""

    name: str  # in the log and in checkpoints
    network: nn.Module  # what is trained and saved
    module: nn.Module  # what is called in training: the network, or a module around it
    parameters: dict[str, nn.Parameter]  # of the network, by name: those that learn
    optimizer: torch.optim.Optimizer
    learning_rate: Callable[[int], float]  # of an optimiser step
    clip_norm: float | None = None  # largest norm of the gradients; None: no clipping

    @classmethod
    def with_adamw(
        cls,
        name: str,
        network: nn.Module,
        settings: TrainingConfig | DiscriminatorConfig,
        learning_rate: Callable[[int], float],
        run: Run,
        *,
        module: nn.Module | None = None,
    ) -> TrainedModule:
        """The network with AdamW over the parameters that learn: weight decay on matrices only, fused on a GPU.

        module: what is called in training if that is not the network itself; the network must be inside.
        """
        c = run.config
        module = parallelize(
            module or network,
            compile=c.compile,
            checkpoint_activations=c.checkpoint_activations,
            parallel=c.parallel,
            bfloat16=run.bfloat16,
        )
        parameters = _learning_parameters(network, module)
        matrices = {id(parameter) for parameter in decayed_parameters(network)}
        decayed = [p for p in parameters.values() if id(p) in matrices]
        others = [p for p in parameters.values() if id(p) not in matrices]
        groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}]
        fused = run.device.type == "cuda"
        optimizer = torch.optim.AdamW(groups, lr=settings.lr, betas=tuple(settings.betas), fused=fused)
        clip_norm = getattr(settings, "clip_norm", None)
        return cls(name, network, averaged(module), parameters, optimizer, learning_rate, clip_norm)

    def step(self, number: int) -> Tensor:
        """Takes an optimiser step at the rate of step `number`; returns the norm of the gradients before clipping.

        Where that is not finite, parameters and optimiser state stay as they are. A fused optimiser is told so on the
        device, by the flag that loss scaling uses; nothing waits for it.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate(number)
        learning = [parameter for parameter in self.parameters.values() if parameter.grad is not None]
        norm = nn.utils.get_total_norm([parameter.grad for parameter in learning])
        if self.clip_norm:
            nn.utils.clip_grads_with_norm_(learning, self.clip_norm, norm)
        norm = whole(norm)
        if self.optimizer.defaults.get("fused"):
            self.optimizer.found_inf = (~norm.isfinite()).float()
            self.optimizer.step()
        elif norm.isfinite():
            self.optimizer.step()
        return norm

    @torch.no_grad()
    def forget_rows(self, replaced: Mapping[str, Tensor]) -> None:
        """Sets the moments of rows that were replaced, not learned, to zero: {parameter: bool mask over its first
        dimension}.
        """
        for name, rows in replaced.items():
            parameter = self.parameters[name]
            for value in self.optimizer.state.get(parameter, {}).values():
                if value.shape == parameter.shape:
                    value.masked_fill_(along_rows(rows, parameter), 0.0)


def along_rows(mask: Tensor, like: Tensor) -> Tensor:
    """A mask (N,) shaped to select whole rows of `like` (N, ...)."""
    return mask.view(-1, *[1] * (like.ndim - 1))


def _learning_parameters(network: nn.Module, module: nn.Module) -> dict[str, nn.Parameter]:
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    learning = [(path, parameter) for path, parameter in module.named_parameters() if parameter.requires_grad]
    learning.sort(key=lambda item: item[1].ndim < 2 or any(part in item[0] for part in _LATER))
    return {names[id(parameter)]: parameter for _, parameter in learning}


def learning_rate(settings: TrainingConfig, steps_per_epoch: int) -> Callable[[int], float]:
    """step -> learning rate of a stage. The first step is taken at the second's rate: RAR's warm-up starts at 0."""
    warmup = settings.warmup_epochs * steps_per_epoch
    return lambda step: cosine_rate(
        max(step, 1),
        total=settings.epochs * steps_per_epoch,
        warmup=warmup,
        peak=settings.lr,
        floor=settings.min_lr,
        first=settings.warmup_lr,
        decay_from=warmup if settings.decay_after_warmup else 0.0,
    )


def optimizer_state(trained: TrainedModule) -> dict[str, Tensor]:
    """The optimiser's state as tensors `optimizer.MODULE.PARAMETER.ENTRY`, as they are: sharded where parameters are.

    Settings of the groups are not in it: they come from the config.
    """
    return {
        f"optimizer.{trained.name}.{name}.{entry}": torch.as_tensor(value)
        for name, parameter in trained.parameters.items()
        for entry, value in trained.optimizer.state.get(parameter, {}).items()
    }


def empty_state(trained: TrainedModule, key: str) -> Tensor | None:
    """A tensor to read one of `optimizer_state` into that has its parameter's shape; None for another network's."""
    prefix = f"optimizer.{trained.name}."
    if not key.startswith(prefix):
        return None
    return torch.zeros_like(trained.parameters[key.removeprefix(prefix).rpartition(".")[0]].detach())


def load_optimizer_state(trained: TrainedModule, tensors: Mapping[str, Tensor]) -> None:
    """Sets the optimiser's state from `optimizer_state`'s tensors or a former checkpoint's; others are ignored.

    A tensor may be whole or sharded as its parameter is.
    """
    names = list(trained.parameters)
    states: dict[str, dict[str, Tensor]] = defaultdict(dict)
    prefix = f"optimizer.{trained.name}."
    for key, value in tensors.items():
        if not key.startswith(prefix):
            continue
        name, _, entry = key.removeprefix(prefix).rpartition(".")
        if name not in trained.parameters:
            name = names[int(name)]
        parameter = trained.parameters[name]
        states[name][entry] = held_as(value, parameter) if value.shape == parameter.shape else value
    number = {id(p): i for i, p in enumerate(p for g in trained.optimizer.param_groups for p in g["params"])}
    numbered = {number[id(trained.parameters[name])]: state for name, state in states.items()}
    groups = trained.optimizer.state_dict()["param_groups"]
    trained.optimizer.load_state_dict({"state": numbered, "param_groups": groups})
