"""GigaTok (arXiv 2504.08736) as published: a training checkpoint with `model`, and `ema` where averages were kept.

The tensors tell all sizes but the numbers of attention heads, which follow from the widths of its transformers. Its
vectors are normalised, in all published files.
"""

from collections.abc import Collection, Iterator
from dataclasses import replace
from typing import Any

import torch

from ..checkpoints.checkpoint import Checkpoint, State
from ..model_configs import GigaTokConfig
from .conv_names import LAYERS as CONV_LAYERS
from .conv_names import renamed
from .layout import Given, PublishedFile, described, under_both_names
from .llamagen_vq import NAMES as LLAMAGEN_NAMES
from .llamagen_vq import USAGE, USAGE_WINDOW
from .sources import Source
from .tensors import attention_heads, block_count, refuse_other_size, require

NAMES = replace(LLAMAGEN_NAMES, upsample="upsample.conv1", middle=("0", "1"))
ENCODER, DECODER = "s2to1encoder.", "s1to2decoder."
HEADS = {256: 4, 512: 8, 768: 12, 1024: 16, 1280: 20, 1536: 24, 2560: 40}  # of the transformers' widths: tiny to XXXL
# Beginning of a key there -> here, beside those of the convolutions. The grid and the sequence have positions of their
# own on both sides: which of them are the queries' differs.
PREFIXES = (
    (f"{ENCODER}positional_embedding", "to_tokens.transformer.memory_positions"),
    (f"{ENCODER}latent_token_positional_embedding", "to_tokens.transformer.positions"),
    (f"{ENCODER}encoder_embed.", "to_tokens.transformer.project."),
    (f"{ENCODER}global_proj.", "to_tokens.query."),
    (f"{DECODER}positional_embedding", "to_grid.transformer.positions"),
    (f"{DECODER}latent_token_positional_embedding", "to_grid.transformer.memory_positions"),
    (f"{DECODER}decoder_embed.", "to_grid.transformer.project."),
    (f"{DECODER}distill_mlp.", "semantic_head."),
    *(
        (f"{theirs}{layer}", f"{ours}.{name}")
        for theirs, ours in ((ENCODER, "to_tokens"), (DECODER, "to_grid"))
        for layer, name in {
            "ln_pre.": "transformer.first_norm.",
            "transformer.": "transformer.blocks.",
            "ln_post.": "transformer.norm.",
            "conv_out.": "output.",
        }.items()
    ),
)
LAYERS = {
    **{".self_attn.in_proj_": ".attn.qkv.", ".self_attn.out_proj.": ".attn.proj."},
    **{".multihead_attn.in_proj_": ".read.qkv.", ".multihead_attn.out_proj.": ".read.proj."},
    **{".linear1.": ".mlp.fc1.", ".linear2.": ".mlp.fc2."},
}
POINTWISE = ("quant_conv.weight", "post_quant_conv.weight", "to_tokens.output.weight")  # 1x1 there, linear layers here
TABLES = ("positions",)  # have one axis more there, the second: the batch's
SIZES = (
    *(f"{ENCODER}positional_embedding", f"{ENCODER}latent_token_positional_embedding"),
    *(f"{ENCODER}global_proj.weight", f"{ENCODER}transformer.0.linear1.weight", f"{DECODER}positional_embedding"),
)
SEMANTIC = f"{DECODER}distill_mlp.4.weight"


class GigaTokRelease:
    """Normalised codes, queries from averages over nested blocks, adaptive norms and depth-to-space in the decoder."""

    name = "GigaTok tokenizer"
    marks = (f"{ENCODER}global_proj.weight", f"{DECODER}decoder_embed.weight", "decoder.adaptive.0.gamma.weight")
    source = Source(
        name="GigaTok",
        files=(
            *("VQ_SS256_e100.pt", "VQ_SB256_e200.pt", "VQ_BL256_e200.pt", "VQ_BL256_dino_disc.pt"),
            "VQ_XLXXL256_e300.pt",
        ),
        repository="SilentView/GigaTok",
        licence="MIT",
        weights="ema",
        similarity="cosine",
        value_range=(-1.0, 1.0),
        resize="halved by box filter, then bicubic",
    )

    def recognises(self, keys: Collection[str]) -> bool:
        return set(self.marks) <= set(keys)

    def read(self, file: PublishedFile, given: Given) -> Checkpoint:
        """`given.num_heads` is needed only for a width that none of the published transformers has.

        Raises: UserError for tensors that are missing, for unknown heads, and for other sizes given.
        """
        config = self._config(file.state, given, str(file.path))
        weights = {name: self.published(state, config) for name, state in file.weights.items()}
        return Checkpoint(file.path, described(self), config, under_both_names(weights))

    def _config(self, state: State, given: Given, where: str) -> GigaTokConfig:
        layout = described(self)
        require(state, SIZES, where, layout)
        sizes = NAMES.sizes(state, where, layout)
        for name in ("attention", "middle_blocks", "middle_attention"):  # none, two and none in all of them
            del sizes[name]
        grid, _, width = state[f"{ENCODER}positional_embedding"].shape
        decoder_width = state[f"{DECODER}positional_embedding"].shape[-1]
        image_size = round(grid**0.5) * 2 ** (len(sizes["widths"]) - 1)
        refuse_other_size("image_size", given.image_size, image_size, where)
        refuse_other_size("similarity", given.similarity, self.source.similarity, where)
        return GigaTokConfig(
            image_size=image_size,
            width=width,
            depth=block_count(state, ENCODER, "transformer"),
            heads=attention_heads(width, given.num_heads, where, HEADS),
            decoder_width=decoder_width,
            decoder_depth=block_count(state, DECODER, "transformer"),
            decoder_heads=attention_heads(decoder_width, given.num_heads, where, HEADS),
            mlp_ratio=len(state[f"{ENCODER}transformer.0.linear1.weight"]) / width,
            num_latents=len(state[f"{ENCODER}latent_token_positional_embedding"]),
            semantic_width=len(state[SEMANTIC]) if SEMANTIC in state else None,
            **sizes,
        )

    def published(self, state: State, config: GigaTokConfig) -> State:
        """Their keys -> ours. A key that no part has is kept, so that loading reports it."""
        kept = {key: tensor for key, tensor in state.items() if key != USAGE}
        ours = renamed(kept, self._prefixes(config), LAYERS | CONV_LAYERS)
        for key, tensor in ours.items():
            if key in POINTWISE:
                ours[key] = tensor.flatten(1)
            elif key.endswith(TABLES):
                ours[key] = tensor.squeeze(1)
        return ours

    def _prefixes(self, config: GigaTokConfig) -> Iterator[tuple[str, str]]:
        yield from PREFIXES
        yield from NAMES.prefixes(config)

    def holds(self, config: GigaTokConfig) -> bool:
        return True

    def write(self, checkpoint: Checkpoint) -> dict[str, Any]:
        """A dict with `model`, and `ema` where that is another one; both with the empty history of used codes that
        their loader expects.
        """
        sets = dict(checkpoint.weights)
        if len(sets) < 2 or sets["ema"] is sets["model"]:
            sets = {"model": next(iter(sets.values()))}
        return {name: self._theirs(state, checkpoint.config) for name, state in sets.items()}

    def _theirs(self, state: State, config: GigaTokConfig) -> State:
        back = [(ours, theirs) for theirs, ours in self._prefixes(config)]
        layers = {ours: theirs for theirs, ours in (LAYERS | CONV_LAYERS).items()}
        shaped = dict(state)
        for key, tensor in state.items():
            if key in POINTWISE:
                shaped[key] = tensor[..., None, None]
            elif key.endswith(TABLES):
                shaped[key] = tensor[:, None]
        return renamed(shaped, back, layers) | {USAGE: torch.zeros(USAGE_WINDOW)}


GIGATOK = GigaTokRelease()
