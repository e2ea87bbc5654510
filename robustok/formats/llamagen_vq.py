"""LlamaGen's VQ-16 and VQ-8 (arXiv 2406.06525): a dict with `model`, and in training checkpoints `ema` and `args`."""

from argparse import Namespace
from collections.abc import Collection
from typing import Any

import torch

from ..checkpoints.checkpoint import Checkpoint, State
from ..model_configs import ConvTokenizerConfig
from .conv_names import ConvNames
from .layout import Given, PublishedFile, described, under_both_names
from .sources import Source

USAGE = "quantize.codebook_used"  # which codes the last tokens of training were
USAGE_WINDOW = 65536
ARGS = ("codebook_l2_norm", "image_size")  # of the training script: what no tensor says
NAMES = ConvNames(
    down="encoder.conv_blocks.{i}",
    up="decoder.conv_blocks.{i}",
    block="res.{j}",
    upsample="upsample.conv",
    middle=("0", "1", "2"),
    up_from_lowest=True,
)


class LlamaGenVQ:
    """No tensor says whether vectors are normalised; they are, unless `args` of a training checkpoint deny it."""

    name = "LlamaGen VQ tokenizer"
    marks = ("encoder.conv_blocks.0.res.0.norm1.weight", "encoder.mid.1.q.weight", "quantize.embedding.weight")
    source = Source(
        name="LlamaGen VQ",
        files=("vq_ds16_c2i.pt", "vq_ds8_c2i.pt", "vq_ds16_t2i.pt"),
        repository="FoundationVision/LlamaGen",
        licence="MIT",
        weights="only",
        similarity="cosine",
        value_range=(-1.0, 1.0),
        resize="halved by box filter, then bicubic",
    )

    def recognises(self, keys: Collection[str]) -> bool:
        """GigaTok has the same convolutions without attention, and transformers behind them."""
        return set(self.marks) <= set(keys)

    def read(self, file: PublishedFile, given: Given) -> Checkpoint:
        args = file.content.get("args")
        args = vars(args) if isinstance(args, Namespace) else {}
        layout = described(self)
        similarity = "cosine" if args.get("codebook_l2_norm", True) else "l2"
        image_size = args.get("image_size", ConvTokenizerConfig.image_size)
        rest = {"similarity": similarity, "image_size": image_size}
        config = NAMES.config(file.state, given, str(file.path), layout, **rest)
        weights = {name: self.published(state, config) for name, state in file.weights.items()}
        upstream = {"args": {name: args[name] for name in ARGS if name in args}}
        return Checkpoint(file.path, layout, config, under_both_names(weights), upstream=upstream if args else {})

    def published(self, state: State, config: ConvTokenizerConfig) -> State:
        """Their keys -> ours."""
        return NAMES.from_published({key: tensor for key, tensor in state.items() if key != USAGE}, config)

    def holds(self, config: ConvTokenizerConfig) -> bool:
        at_the_lowest = config.attention == (len(config.widths) - 1,)
        is_theirs = at_the_lowest and config.middle_attention
        return config.style == "vqgan" and config.similarity == "cosine" and is_theirs

    def write(self, checkpoint: Checkpoint) -> dict[str, Any]:
        """A dict with `model`, the empty history of used codes that their loader expects, and what `args` said."""
        state = NAMES.to_published(checkpoint.choose("ema"), checkpoint.config)
        args = checkpoint.upstream.get("args")
        told = {} if args is None else {"args": Namespace(**args)}
        return {"model": state | {USAGE: torch.zeros(USAGE_WINDOW)}, **told}


LLAMAGEN_VQ = LlamaGenVQ()
