"""What computes in float32 whatever the model and its surroundings do."""

from contextlib import AbstractContextManager, nullcontext

from torch import Tensor, autocast, backends, float32, nn
from torch.func import functional_call


def in_float32(layer: nn.Module, x: Tensor) -> Tensor:
    """layer(x) in float32, under autocast and with weights of another dtype, too: codes are chosen from the result."""
    # meta tensors, which have no values, have no autocast
    with nullcontext() if x.is_meta else autocast(x.device.type, enabled=False):
        weights = dict(layer.named_parameters())
        if all(weight.dtype == float32 for weight in weights.values()):
            return layer(x.float())
        return functional_call(layer, {name: weight.float() for name, weight in weights.items()}, (x.float(),))


def without_tf32(*, benchmark: bool = False) -> AbstractContextManager[None]:
    """A context in which cuDNN takes no TF32; a caller's other wishes stand, but for `benchmark`."""
    cudnn = backends.cudnn  # whose `flags` resets what it is not given
    kept = {"enabled": cudnn.enabled, "deterministic": cudnn.deterministic}
    return cudnn.flags(**kept, benchmark=benchmark, allow_tf32=False)
