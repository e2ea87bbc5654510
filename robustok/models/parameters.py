"""Which parameters weight decay applies to, decided by the layer that holds them and not by their names."""

from torch import nn
from torch.nn.modules.conv import _ConvNd

MATRIX_LAYERS = (nn.Linear, _ConvNd)  # layers whose `weight` multiplies their input


def decayed_parameters(module: nn.Module) -> list[nn.Parameter]:
    """The parameters of `module` that learn and that weight decay applies to, in the order of `module.parameters()`.

    Those are the weights of linear and convolutional layers. Biases, norms and tables that are looked up or added
    (embeddings, positions, tokens, codebooks) are left alone. A layer of another kind that multiplies its input names
    its matrices in a class attribute `matrices`.
    """
    decayed = {id(weight) for layer in module.modules() for weight in _matrices(layer)}
    return [parameter for parameter in module.parameters() if parameter.requires_grad and id(parameter) in decayed]


def _matrices(layer: nn.Module) -> list[nn.Parameter]:
    names = ("weight",) if isinstance(layer, MATRIX_LAYERS) else getattr(layer, "matrices", ())
    return [layer.get_parameter(name) for name in names]
