"""The quantisers of the released tokenizer family (XQ-GAN): one codebook (V), two side by side (VP2), residual
multi-scale ones (MSVR10) and both (MSVR10P2). Their keys, and what those say.

    quantize.embedding.weight        the codebook; of several, quantizes.0.embedding.weight and so on
    quantize.ema_vocab_hit_SV        running count of each code's use, not kept
    quantize.quant_resi.qresi_ls.I.  the I-th of a few convolutions that the scales share
    quantize.quant_resi.I.           where every scale has its own
    quantize.quant_resi.qresi.       where all scales share one
"""

import re
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..core.errors import UserError
from ..model_configs import TokenizerConfig

_KEY = re.compile(r"quantize(?:s\.(?P<part>\d+))?\.(?P<rest>.+)")
_CONVOLUTION = re.compile(r"quant_resi\.(?:qresi_ls\.|qresi(?P<shared>)\.)?(?:(?P<index>\d+)\.)?(?P<kind>weight|bias)")


class Quantisers(NamedTuple):
    """What the keys and the training arguments say of the quantisers."""

    codebooks: int
    codebook_size: int
    code_width: int
    scales: tuple[int, ...] | None
    convs: int


def ours(key: str) -> str | None:
    """Our name of a quantiser's tensor, None for one that is not kept, the name itself for any other tensor."""
    match = _KEY.fullmatch(key)
    if match is None:
        return key
    prefix = "quantizer." if match["part"] is None else f"quantizer.parts.{match['part']}."
    if match["rest"] == "embedding.weight":
        return prefix + "codebook"
    if match["rest"] == "ema_vocab_hit_SV":
        return None
    convolution = _CONVOLUTION.fullmatch(match["rest"])
    return f"{prefix}convs.{convolution['index'] or 0}.{convolution['kind']}" if convolution else key


def theirs(key: str, config: TokenizerConfig) -> str:
    """The released name of our tensor `key`; the name itself for a tensor of no quantiser."""
    key = re.sub(r"^quantizer\.parts\.(\d+)\.", r"quantizes.\1.", key)
    key = key.replace("quantizer.", "quantize.", 1).replace(".codebook", ".embedding.weight")
    if config.scales is None:
        return key
    names = {1: r"quant_resi.qresi.\2", len(config.scales): r"quant_resi.\1.\2"}
    return re.sub(r"convs\.(\d+)\.(\w+)", names.get(config.residual_convs, r"quant_resi.qresi_ls.\1.\2"), key)


def hit_counts(config: TokenizerConfig) -> dict[str, Tensor]:
    """Empty running counts, which the authors' loader expects."""
    prefixes = ["quantize"] if config.codebooks == 1 else [f"quantizes.{q}" for q in range(config.codebooks)]
    shape = (config.codebook_size,) if config.scales is None else (len(config.scales), config.codebook_size)
    return {f"{prefix}.ema_vocab_hit_SV": torch.zeros(shape) for prefix in prefixes}


def read(state: dict[str, Tensor], args: dict[str, Any], where: str) -> Quantisers | None:
    """The quantisers in `state` (released keys); None where there is no codebook.

    Raises: UserError for residual codebooks whose scales the training arguments do not name.
    """
    names = {key: name for key in state if (name := ours(key)) not in (key, None)}
    books = [state[key].shape for key, name in names.items() if name.endswith("codebook")]
    if not books:
        return None
    convs = len({name.split("convs.")[1].split(".")[0] for name in names.values() if "convs." in name})
    scales = args.get("v_patch_nums") if convs else None
    if convs and not scales:
        raise UserError(f"{where}: residual multi-scale codebooks, but no args.v_patch_nums to say which scales")
    return Quantisers(len(books), *books[0], tuple(scales) if scales else None, convs or TokenizerConfig.residual_convs)
