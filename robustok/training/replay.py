"""What a stage leaves that stopped because values were not finite: where they began, and a folder that tells of it.

The folder holds bundle.json: the steps with their images and terms, the seed that all draws come from, the first module
with a value that is not finite, and the checkpoint to go on from. No settings, paths or variables of the machine.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ..checkpoints.reading import steps
from ..core import distributed
from ..core.files import written_whole
from ..core.version import __version__
from .guard import WatchedStep, last_good
from .run import Run
from .stages.base import Stage


def write_bundle(stage: Stage, run: Run, streak: Sequence[WatchedStep], again: Callable[[WatchedStep], None]) -> str:
    """Writes RUN/STAGE/stopped-at-step-N and returns the message that the stage ends with.

    again: computes the gradients of a step anew, without taking it. All processes must call this.
    """
    folder, last = run.folder / stage.name, streak[-1]
    places = filter(None, distributed.gathered(first_bad(stage, lambda: again(last))))
    place = min(places, key=lambda found: found[0], default=(0, None))[1]  # gradients are averaged over the processes
    ids = [torch.cat(distributed.gathered(step.ids)).tolist() for step in streak]
    good = steps(folder)
    bundle = {
        "stage": stage.name,
        "seed": run.config.seed,
        "processes": distributed.world(),
        "steps": [
            {
                "step": step.number,
                "image_ids": images,
                # JSON has no NaN
                "terms": {name: str(value) if name in step.bad else value for name, value in step.terms.items()},
            }
            for step, images in zip(streak, ids, strict=True)
        ],
        "first_not_finite": place,
        "last_good_checkpoint": good[-1].name if good else None,
        "versions": {"robustok": __version__, "torch": torch.__version__},
    }
    target = folder / f"stopped-at-step-{last.number}"
    if distributed.is_main():
        with written_whole(target) as temporary:
            temporary.mkdir()
            (temporary / "bundle.json").write_text(json.dumps(bundle, indent=1, allow_nan=False))
    numbers = ", ".join(str(step.number) for step in streak)
    named = ", ".join(dict.fromkeys(name for step in streak for name in step.bad))
    return (
        f"{stage.name}: stopped after steps {numbers}, one after the other with values that are not finite: {named}; "
        f"first in {place or 'no place: computed again it was finite'}. {target} says which images and terms; "
        f"{last_good(folder)}. From there the same command meets the same steps: lower the learning rate, or the "
        "weight of that term, and train under another --name"
    )


def first_bad(stage: Stage, again: Callable[[], None]) -> tuple[int, str] | None:
    """Where a value is not finite first: 0 and a weight, else 1 and a module on the way forward, else 2 and a gradient;
    None: nowhere.

    again: computes the step's gradients anew.
    """
    networks = {trained.name: trained.network for trained in stage.trained}
    for name, network in networks.items():
        for key, tensor in network.state_dict().items():
            if not _finite(tensor):
                return 0, f"the weight {key} of {name}"
    found: list[str] = []
    hooks = [
        module.register_forward_hook(_noting(found, f"{path or name} of {name}"))
        for name, network in networks.items()
        for path, module in network.named_modules()
    ]
    try:
        with torch.compiler.set_stance("force_eager"):  # compiled code passes hooks over
            again()
    finally:
        for hook in hooks:
            hook.remove()
    if found:
        return 1, found[0]
    for name, network in networks.items():  # the gradient that was computed first is the last module's
        for key, parameter in reversed(list(network.named_parameters())):
            if parameter.grad is not None and not _finite(parameter.grad):
                return 2, f"the loss, or the gradient of {key} of {name}"
    return None


def _noting(found: list[str], name: str) -> Callable:
    def note(module: nn.Module, inputs: object, output: object) -> None:
        if not found and not _finite(output):
            found.append(f"the {'output' if _finite(inputs) else 'input'} of {name}")

    return note


def _finite(value: object) -> bool:
    """Whether every tensor in a value, or in a tuple or list of them, is finite."""
    if isinstance(value, Tensor):
        return bool(value.isfinite().all())
    return all(map(_finite, value)) if isinstance(value, list | tuple) else True
