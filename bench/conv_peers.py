"""What convolutional tokenizers are measured against: the plain rendering that tests compare them with."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from torch import Tensor
from torch.nn import functional as F

from robustok.checkpoints.checkpoint import Checkpoint
from robustok.formats.llamagen_vq import LLAMAGEN_VQ
from robustok.models.tokenizers.conv_tokenizer import ConvTokenizer

RENDERING = Path(__file__).parents[1] / "tests" / "models" / "conv_rendering.py"


def group_norm(state: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    """As the published networks compute it; the rendering writes it out, which would be slower."""
    return F.group_norm(x, 32, state[f"{name}.weight"], state[f"{name}.bias"], eps=1e-6)


def rendering() -> ModuleType:
    """The module, which is no part of a package."""
    spec = importlib.util.spec_from_file_location("conv_rendering", RENDERING)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.normalized = group_norm
    return module


def plain_llamagen(tokenizer: ConvTokenizer) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """(encode, decode) of LlamaGen's layers one by one, on maps (B, C, h, w), with the weights of `tokenizer`."""
    plain, config = rendering(), tokenizer.config
    state = LLAMAGEN_VQ.write(Checkpoint(RENDERING, "", config, {"ema": tokenizer.state_dict()}))["model"]
    sizes = {"layout": "llamagen", "levels": len(config.widths), "middle_blocks": config.middle_blocks}

    def encode(images: Tensor) -> Tensor:
        return plain.encode(state, plain.encoder(blocks=config.blocks, **sizes), images)

    def decode(z_q: Tensor) -> Tensor:
        return plain.decode(state, plain.decoder(blocks=config.decoder_blocks, **sizes), z_q)

    return encode, decode
