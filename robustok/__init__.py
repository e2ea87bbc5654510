"""RobusTok: robust image tokenizers by latent perturbation and decoder post-training (arXiv 2509.12474).

The public names are loaded on first use, so that `python -m robustok.train --help` need not import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .core.version import __version__ as __version__
    from .models.autoencoder import as_autoencoder
    from .models.load import load_generator, load_tokenizer
    from .models.pretrained import Generator, Tokenizer
    from .models.tokenizers.vector_quantizer import VectorQuantizer
    from .ops import perturb, vq_nearest, vq_neighbors, vq_perturb, vq_quantize
    from .ops.grid import from_grid, to_grid

__all__ = [
    "Generator",
    "Tokenizer",
    "VectorQuantizer",
    "as_autoencoder",
    "from_grid",
    "load_generator",
    "load_tokenizer",
    "perturb",
    "to_grid",
    "vq_nearest",
    "vq_neighbors",
    "vq_perturb",
    "vq_quantize",
]

_HOME = {
    "__version__": ".core.version",
    "VectorQuantizer": ".models.tokenizers.vector_quantizer",
    "from_grid": ".ops.grid",
    "perturb": ".ops",
    "to_grid": ".ops.grid",
    "vq_nearest": ".ops",
    "vq_neighbors": ".ops",
    "vq_perturb": ".ops",
    "vq_quantize": ".ops",
    "load_tokenizer": ".models.load",
    "load_generator": ".models.load",
    "as_autoencoder": ".models.autoencoder",
    "Tokenizer": ".models.pretrained",
    "Generator": ".models.pretrained",
}


def __getattr__(name: str):
    if name in _HOME:
        return getattr(import_module(_HOME[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted([*globals(), *__all__])
