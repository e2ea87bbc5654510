"""The authors' released tokenizer layout (`main-train.pt`, `post-train.pt`): its keys, and what its tensors say.

The file is a dict with `model` and `ema` (state dicts), `optimizer`, `discriminator`, `optimizer_disc`, `steps` and
`args`. All sizes but the number of attention heads can be read off the tensors.
"""

from argparse import Namespace

import torch
from torch import Tensor

from ..config import TokenizerConfig
from ..core.errors import UserError
from . import xqgan_release
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
    "post_quant_conv.": "post_quant_conv.",
    "decoder.model.": "decoder.vit.",
    "decoder.mask_token": "decoder.mask_token",
    "decoder.lvl_embed.weight": "decoder.level",
    "decoder.to_pixel.model.": "decoder.to_pixel.",
}
# Buffers that follow from the sizes (level index of each token), frozen networks, and what only their losses use.
IGNORED = ("encoder.lvl1LC", "decoder.lvl1LC", TEACHER, "detail_model.", "sem_linear.")
SIZES = (
    "encoder.model.patch_embed.proj.weight",
    "encoder.model.cls_token",
    "encoder.model.pos_embed",
    "encoder.model.blocks.0.mlp.fc1.weight",
    "decoder.model.cls_token",
)
CONVOLUTIONS = ("quant_conv.weight", "post_quant_conv.weight")  # 1x1 there, linear layers here


def recognises(keys) -> bool:
    """Whether a state dict with these keys is a tokenizer of this family."""
    return set(MARKS) <= set(keys)


def config_of(state: dict[str, Tensor], args: Namespace, num_heads: int | None, where: str) -> TokenizerConfig:
    """Sizes of the tokenizer in `state` (released keys).

    `num_heads`: attention heads of encoder and decoder; needed only for a width that is no standard ViT.
    Raises: UserError for tensors that are missing, for adapters that are not merged, and for unknown heads.
    """
    if any(".lora_A." in key for key in state):
        raise UserError(f"{where}: {LAYOUT} with LoRA adapters; merge them into the weights first")
    require(state, SIZES, where, LAYOUT)
    quantisers = xqgan_release.read(state, args, where)
    if quantisers is None:
        require(state, ["quantize.embedding.weight"], where, LAYOUT)
    patch = state["encoder.model.patch_embed.proj.weight"].shape[-1]
    width, depth = _size(state, "encoder.model.")
    decoder_width, decoder_depth = _size(state, "decoder.model.")
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
        num_latents=state["encoder.latent_tokens"].shape[1] // quantisers.codebooks,
        codebook_size=quantisers.codebook_size,
        code_width=quantisers.code_width,
        normalize=bool(getattr(args, "codebook_l2_norm", True)),
        codebooks=quantisers.codebooks,
        scales=quantisers.scales,
        residual_convs=quantisers.convs,
    )


def from_released(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Released keys -> ours. Keys that are not known are kept, so that loading reports them."""
    ours = {}
    for key, tensor in state.items():
        name = xqgan_release.ours(_renamed(key, PREFIXES))
        if name is not None and not key.startswith(IGNORED):
            ours[name] = tensor.flatten(1) if key in CONVOLUTIONS else tensor
    return ours


def to_released(state: dict[str, Tensor], config: TokenizerConfig, teacher: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our keys -> released ones, with the buffers and the frozen `teacher` (ViT keys) that the authors' code wants."""
    back = {ours: theirs for theirs, ours in PREFIXES.items()}
    released = {}
    for key, tensor in state.items():
        name = xqgan_release.theirs(_renamed(key, back), config)
        released[name] = tensor[..., None, None] if key in CONVOLUTIONS else tensor
    patches = (config.image_size // config.patch_size) ** 2
    latents = released["encoder.latent_tokens"].shape[1] // config.codebooks
    released["encoder.lvl1LC"] = _levels(patches + 1, *[latents] * config.codebooks)
    released["decoder.lvl1LC"] = _levels(patches + 1, latents + 1)
    released |= xqgan_release.hit_counts(config)
    return released | {TEACHER + key: tensor for key, tensor in teacher.items()}


def _levels(*lengths: int) -> Tensor:
    """Level of every place in a sequence: 0 in the first group, 1 in the second, ...; int64 (1, total)."""
    return torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))[None]


def _renamed(key: str, prefixes: dict[str, str]) -> str:
    for prefix, new in prefixes.items():
        if key.startswith(prefix):
            return new + key[len(prefix) :]
    return key


def _size(state: dict[str, Tensor], prefix: str) -> tuple[int, int]:
    return state[prefix + "cls_token"].shape[-1], block_count(state, prefix)
