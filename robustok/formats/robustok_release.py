"""The authors' released tokenizer layout (`main-train.pt`, `post-train.pt`): its keys, and what its tensors say.

The file is a dict with `model` and `ema` (state dicts), `optimizer`, `discriminator`, `optimizer_disc`, `steps` and
`args`. All sizes but the number of attention heads can be read off the tensors.
"""

from argparse import Namespace
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor

from ..checkpoints.checkpoint import Checkpoint, State
from ..core.errors import UserError
from ..model_configs import TokenizerConfig
from . import xqgan_release
from .layout import Given, PublishedFile, described
from .robustok_args import released_args
from .tensors import attention_heads, block_count, require

MARKS = ("encoder.latent_tokens", "decoder.mask_token", "encoder.lvl_embed.weight")  # MAETok has the first two
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


def from_released(state: State) -> State:
    """Released keys -> ours. Keys that are not known are kept, so that loading reports them."""
    ours = {}
    for key, tensor in state.items():
        name = xqgan_release.ours(_renamed(key, PREFIXES))
        if name is not None and not key.startswith(IGNORED):
            ours[name] = tensor.flatten(1) if key in CONVOLUTIONS else tensor
    return ours


def to_released(state: State, config: TokenizerConfig, teacher: State) -> State:
    """Our keys -> released ones, with the buffers and the frozen `teacher` (ViT keys) that the authors' code wants."""
    back = {ours: theirs for theirs, ours in PREFIXES.items()}
    released = {}
    for key, tensor in state.items():
        name = xqgan_release.theirs(_renamed(key, back), config)
        released[name] = tensor[..., None, None] if key in CONVOLUTIONS else tensor
    patches = state["encoder.vit.pos_embed"].shape[1] - 1
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


def _size(state: State, prefix: str) -> tuple[int, int]:
    return state[prefix + "cls_token"].shape[-1], block_count(state, prefix)


class RobusTokRelease:
    """A training checkpoint of the authors' script, for every quantiser of the family (see xqgan_release)."""

    name = "released RobusTok tokenizer"
    marks = MARKS

    def recognises(self, keys: Collection[str]) -> bool:
        return set(MARKS) <= set(keys)

    def read(self, file: PublishedFile, given: Given) -> Checkpoint:
        """`given.num_heads` is needed only for a width that is no standard ViT.

        Raises: UserError for tensors that are missing, for adapters that are not merged, and for unknown heads.
        """
        args, upstream = file.content.get("args"), {}
        if isinstance(args, Namespace):
            upstream = {"args": vars(args), "steps": file.content.get("steps", 0)}
        config = self._config(file.state, upstream.get("args", {}), given.num_heads, str(file.path))
        return Checkpoint(
            path=file.path,
            layout=described(self),
            config=config,
            weights={name: from_released(state) for name, state in file.weights.items()},
            teacher={k.removeprefix(TEACHER): v for k, v in file.state.items() if k.startswith(TEACHER)},
            discriminator=file.content.get("discriminator") or {},
            upstream=upstream,
        )

    def _config(self, state: State, args: dict[str, Any], num_heads: int | None, where: str) -> TokenizerConfig:
        """Sizes of the tokenizer in `state` (released keys); args: of the training script."""
        layout = described(self)
        if any(".lora_A." in key for key in state):
            raise UserError(f"{where}: {layout} with LoRA adapters; merge them into the weights first")
        require(state, SIZES, where, layout)
        quantisers = xqgan_release.read(state, args, where)
        if quantisers is None:
            require(state, ["quantize.embedding.weight"], where, layout)
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
            normalize=bool(args.get("codebook_l2_norm", True)),
            codebooks=quantisers.codebooks,
            scales=quantisers.scales,
            residual_convs=quantisers.convs,
        )

    def holds(self, config: TokenizerConfig) -> bool:
        return isinstance(config.image_size, int)

    def write(self, checkpoint: Checkpoint) -> dict[str, Any]:
        """Raises: UserError for a tokenizer without teacher: the authors' code refuses a file without its weights."""
        config = checkpoint.config
        if not checkpoint.teacher:
            raise UserError(
                f"{checkpoint.path} holds no semantic teacher, which the authors' code expects inside a tokenizer "
                "checkpoint: give DINOv2 weights with --teacher"
            )
        args = checkpoint.upstream.get("args")
        return {
            **{name: to_released(state, config, checkpoint.teacher) for name, state in checkpoint.weights.items()},
            "optimizer": {},
            "discriminator": checkpoint.discriminator,
            "optimizer_disc": {},
            "steps": checkpoint.upstream.get("steps", 0),
            "args": released_args(config) if args is None else Namespace(**args),
        }


ROBUSTOK_RELEASE = RobusTokRelease()
