"""The authors' released tokenizer layout (`main-train.pt`, `post-train.pt`): its keys, and what its tensors say.

The file is a dict with `model` and `ema` (state dicts), `optimizer`, `discriminator`, `optimizer_disc`, `steps` and
`args`. All sizes but the number of attention heads can be read off the tensors.
"""

from argparse import Namespace

import torch
from torch import Tensor

from ..config import TokenizerConfig
from ..errors import UserError
from .tensors import attention_heads, block_count, require

MARKS = ("encoder.latent_tokens", "decoder.mask_token")  # no other known layout has them
LAYOUT = f"released RobusTok tokenizer (it has {' and '.join(MARKS)})"
DROP_PATH = 0.1  # of the released training script; the file does not store it
TEACHER = "semantic_model."

# Beginning of a key there -> here. The longest match counts.
PREFIXES = {
    "encoder.model.": "encoder.vit.",
    "encoder.latent_tokens": "encoder.latent_tokens",
    "encoder.lvl_embed.weight": "encoder.level",
    "quant_conv.": "quant_conv.",
    "quantize.embedding.weight": "quantizer.codebook",
    "post_quant_conv.": "post_quant_conv.",
    "decoder.model.": "decoder.vit.",
    "decoder.mask_token": "decoder.mask_token",
    "decoder.lvl_embed.weight": "decoder.level",
    "decoder.to_pixel.model.": "decoder.to_pixel.",
}
# Buffers that follow from the sizes (level index of each token) or belong to a running count, and the frozen teacher.
IGNORED = ("encoder.lvl1LC", "decoder.lvl1LC", "quantize.ema_vocab_hit_SV", TEACHER)
SIZES = (
    "encoder.model.patch_embed.proj.weight",
    "encoder.model.cls_token",
    "encoder.model.pos_embed",
    "encoder.model.blocks.0.mlp.fc1.weight",
    "decoder.model.cls_token",
    "quantize.embedding.weight",
)
CONVOLUTIONS = ("quant_conv.weight", "post_quant_conv.weight")  # 1x1 there, linear layers here


def recognises(keys) -> bool:
    """Whether a state dict with these keys is a tokenizer of this family."""
    return set(MARKS) <= set(keys)


def config_of(state: dict[str, Tensor], args: Namespace, num_heads: int | None, where: str) -> TokenizerConfig:
    """Sizes of the tokenizer in `state` (released keys).

    `num_heads`: attention heads of encoder and decoder; needed only for a width that is no standard ViT.
    Raises: UserError for variants of the family that this package does not hold, and for unknown heads.
    """
    _refuse_variants(state, where)
    require(state, SIZES, where, LAYOUT)
    patch = state["encoder.model.patch_embed.proj.weight"].shape[-1]
    width, depth = _size(state, "encoder.model.")
    decoder_width, decoder_depth = _size(state, "decoder.model.")
    codes = state["quantize.embedding.weight"].shape
    scale = state.get("encoder.model.blocks.0.ls1.gamma")
    return TokenizerConfig(
        image_size=patch * round((state["encoder.model.pos_embed"].shape[1] - 1) ** 0.5),
        patch_size=patch,
        width=width,
        depth=depth,
        heads=attention_heads(width, num_heads, where),
        decoder_width=decoder_width,
        decoder_depth=decoder_depth,
        decoder_heads=attention_heads(decoder_width, num_heads, where),
        mlp_ratio=state["encoder.model.blocks.0.mlp.fc1.weight"].shape[0] / width,
        layer_scale=None if scale is None else 1e-5,
        drop_path=DROP_PATH,
        num_latents=state["encoder.latent_tokens"].shape[1],
        codebook_size=codes[0],
        code_width=codes[1],
        normalize=bool(getattr(args, "codebook_l2_norm", True)),
    )


def from_released(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Released keys -> ours. Keys that are not known are kept, so that loading reports them."""
    ours = {}
    for key, tensor in state.items():
        if not key.startswith(IGNORED):
            tensor = tensor.flatten(1) if key in CONVOLUTIONS else tensor
            ours[_renamed(key, PREFIXES)] = tensor
    return ours


def to_released(state: dict[str, Tensor], config: TokenizerConfig, teacher: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our keys -> released ones, with the buffers and the frozen `teacher` (ViT keys) that the authors' code wants."""
    back = {ours: theirs for theirs, ours in PREFIXES.items()}
    released = {}
    for key, tensor in state.items():
        released[_renamed(key, back)] = tensor[..., None, None] if key in CONVOLUTIONS else tensor
    patches = (config.image_size // config.patch_size) ** 2
    latents = released["encoder.latent_tokens"].shape[1]
    released["encoder.lvl1LC"] = _levels(patches + 1, latents)
    released["decoder.lvl1LC"] = _levels(patches + 1, latents + 1)
    released["quantize.ema_vocab_hit_SV"] = torch.zeros(config.codebook_size)
    return released | {TEACHER + key: tensor for key, tensor in teacher.items()}


def _levels(first: int, second: int) -> Tensor:
    return torch.cat([torch.zeros(1, first, dtype=torch.int64), torch.ones(1, second, dtype=torch.int64)], dim=1)


def _renamed(key: str, prefixes: dict[str, str]) -> str:
    for prefix, new in prefixes.items():
        if key.startswith(prefix):
            return new + key[len(prefix) :]
    return key


def _size(state: dict[str, Tensor], prefix: str) -> tuple[int, int]:
    return state[prefix + "cls_token"].shape[-1], block_count(state, prefix)


def _refuse_variants(state: dict[str, Tensor], where: str) -> None:
    if any(key.startswith("quantizes.") or ".quant_resi." in key for key in state):
        raise UserError(f"{where}: {LAYOUT} with product or residual codebooks; one codebook was expected")
    if any(".lora_A." in key for key in state):
        raise UserError(f"{where}: {LAYOUT} with LoRA adapters; merge them into the weights first")
